"""Recipes in the files of frameworks: what is read, refused, named in a warning, and written back."""

import json
import math
from dataclasses import fields

import pytest
import yaml

from adasde.common import InputError
from adasde.scaling.documents import parsed
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.recipe_files import read_recipe, recognised
from adasde.scaling.recipe_formats import FORMATS

DEEPSPEED = """{
\t"train_micro_batch_size_per_gpu": 4,
\t"gradient_accumulation_steps": 8,
\t"steps_per_print": 2000,
\t"optimizer": {
\t\t"type": "AdamW",
\t\t"params": {"lr": 3e-5, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 3e-7}
\t},
\t"scheduler": {
\t\t"type": "WarmupDecayLR",
\t\t"params": {"warmup_min_lr": 1e-6, "warmup_max_lr": 3e-5, "warmup_num_steps": 100, "total_num_steps": 4000}
\t},
\t"gradient_clipping": 1.0,
\t"fp16": {"enabled": true, "loss_scale_window": 1000},
\t"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8, "overlap_comm": true}
}
"""

TORCHTUNE = """# A full finetuning, to be launched on two devices
model:
  _component_: torchtune.models.llama3_1.llama3_1_8b
seed: null
batch_size: 2

# Optimizer and scheduler
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  lr: 2e-5   # the peak
optimizer_in_bwd: False
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
  num_cycles: 0.5
epochs: 1
max_steps_per_epoch: 500
gradient_accumulation_steps: 8
clip_grad_norm: 1.0
save_every_n_steps: 100
log_every_n_steps: 1
profiler:
  wait_steps: 5
  warmup_steps: 3
"""

AXOLOTL = """base_model: NousResearch/Meta-Llama-3-8B
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
sequence_len: 4096
sample_packing: true
adapter: lora
lora_alpha: 16

gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_torch_fused
lr_scheduler: cosine
cosine_min_lr_ratio: 0.1
learning_rate: 0.0002
embedding_lr: 0.00005
lr_groups:
  - name: heads
    modules: [lm_head]
    lr: 0.0004
adam_beta2: 0.98
weight_decay: 0.1

bf16: auto
warmup_steps: 12
evals_per_epoch:
eval_steps: 50
save_steps: 150
logging_steps: 1
"""

OWN = """optimizer: adamw
lr: 1e-3
betas: [0.9, 0.999]   # of Adam
eps: 1e-8
weight_decay: 0.1
batch_size: 256
steps: 100000
warmup_steps: 2000
milestones:
  - 50000
  - 75000
clip: 1.0
average: 0.999
min_lr: 1e-5
save_steps: 0
"""


def timm_arguments(**changes):
    """args.yaml as timm's train.py leaves it: all its arguments that matter here, in alphabetical order."""
    values = {
        "aa": "rand-m9-mstd0.5-inc1", "amp": True, "batch_size": 128, "bn_momentum": None, "clip_grad": 1.0,
        "clip_mode": "norm", "cooldown_epochs": 0, "decay_epochs": 90.0, "decay_milestones": [90, 180, 270],
        "decay_rate": 0.1, "drop_path": 0.1, "epochs": 300, "grad_accum_steps": 2, "input_size": None,
        "layer_decay": None, "log_interval": 50, "lr": 1e-3, "lr_base": 0.1, "lr_base_scale": "", "lr_base_size": 256,
        "lr_cycle_decay": 0.5, "lr_cycle_limit": 1, "lr_cycle_mul": 1.0, "lr_k_decay": 1.0, "lr_noise": None,
        "lr_noise_pct": 0.67, "lr_noise_std": 1.0, "min_lr": 1e-6, "mixup": 0.2, "model": "resnet50",
        "model_ema": True, "model_ema_decay": 0.9998, "momentum": 0.9, "opt": "adamw", "opt_betas": None,
        "opt_eps": None, "opt_kwargs": {}, "recovery_interval": 0, "sched": "cosine", "sched_on_updates": True,
        "seed": 42, "start_epoch": None, "warmup_epochs": 5, "warmup_lr": 1e-5, "warmup_prefix": False,
        "weight_decay": 0.05, "workers": 4,
    }  # fmt: skip
    return yaml.safe_dump(values | changes, default_flow_style=False)


@pytest.fixture(scope="session")
def trainer():
    """Return a function that writes transformers' arguments as JSON, as its Trainer does."""
    TrainingArguments = pytest.importorskip("transformers").TrainingArguments

    def written(**changes):
        values = {
            "learning_rate": 1e-4, "adam_beta2": 0.98, "weight_decay": 0.1, "max_steps": 1000, "warmup_steps": 100,
            "gradient_accumulation_steps": 2, "save_steps": 200, "eval_steps": 100,
            "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5},
        }  # fmt: skip
        return TrainingArguments(output_dir="out", report_to=[], **{**values, **changes}).to_json_string()

    return written


@pytest.fixture
def texts(trainer):
    """Return a file of every format, by name."""
    return {
        "adasde": OWN,
        "transformers": trainer(),
        "deepspeed": DEEPSPEED,
        "timm": timm_arguments(),
        "torchtune": TORCHTUNE,
        "axolotl": AXOLOTL,
    }


def read(text, tmp_path, **options):
    path = tmp_path / "recipe.txt"
    path.write_bytes(text.encode())
    return read_recipe(path, **options)


def adam(lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.01):
    return AdamHyperparameters(lr, beta1, beta2, eps, decay, decoupled=True)


def test_transformers(texts, tmp_path):
    found = read(texts["transformers"], tmp_path, devices=4)
    recipe = found.recipe
    assert found.title == "transformers' TrainingArguments"
    assert found.batch == "64 = 8 per device x 2 accumulated x 4 devices"
    assert (recipe.batch_size, recipe.steps, recipe.warmup_steps, recipe.clip) == (64, 1000, 100, 1.0)
    assert recipe.hyperparameters == adam(1e-4, beta2=0.98, decay=0.1)
    assert recipe.rates == {"lr_scheduler_kwargs.min_lr": 1e-5}
    assert recipe.counts == {"save_steps": 200, "eval_steps": 100, "logging_steps": 500}
    assert (found.assumed, found.notes) == ({}, ())


def test_deepspeed(texts, tmp_path):
    found = read(texts["deepspeed"], tmp_path, devices=2)
    recipe = found.recipe
    assert found.batch == "64 = 4 per device x 8 accumulated x 2 devices"
    assert (recipe.batch_size, recipe.steps, recipe.warmup_steps, recipe.clip) == (64, 4000, 100, 1.0)
    assert recipe.hyperparameters == adam(3e-5, beta2=0.98, decay=3e-7)
    names = ("warmup_min_lr", "warmup_max_lr")
    assert recipe.rates == dict(zip((f"scheduler.params.{name}" for name in names), (1e-6, 3e-5), strict=True))
    assert recipe.counts == {"steps_per_print": 2000}
    assert (found.assumed, found.notes) == ({}, ())


def test_timm(texts, tmp_path):
    found = read(texts["timm"], tmp_path)
    recipe = found.recipe
    assert found.batch == "256 = 128 per device x 2 accumulated x 1 device (--devices N if there are more)"
    assert recipe.hyperparameters == adam(1e-3, decay=0.05)
    assert (recipe.steps, recipe.clip, recipe.average) == (None, 1.0, 0.9998)
    assert recipe.rates == {"min_lr": 1e-6, "warmup_lr": 1e-5}
    assert recipe.counts == {}
    assert found.assumed == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert found.notes == ()
    assert read(timm_arguments(model_ema=False), tmp_path).recipe.average is None
    assert read(timm_arguments(world_size=8), tmp_path).recipe.batch_size == 2048


@pytest.mark.parametrize(
    ("changes", "lr"),
    [
        ({"lr": None, "lr_base": 5e-4}, 5e-4 * math.sqrt(1024 / 256)),
        ({"lr": None, "lr_base": 5e-4, "lr_base_scale": "linear"}, 5e-4 * 1024 / 256),
        ({"lr": None, "lr_base": 5e-4, "lr_base_size": 512}, 5e-4 * math.sqrt(1024 / 512)),
        ({"lr": None, "opt": "rmsprop", "momentum": 0.0, "lr_base": 5e-4}, 5e-4 * 1024 / 256),
    ],
)
def test_timm_scales_lr_base_itself(changes, lr, tmp_path):
    """As its train.py computes it from the whole batch: by the square root for optimizers with ``ada`` in the name."""
    found = read(timm_arguments(**changes), tmp_path, devices=4)
    assert math.isclose(found.recipe.hyperparameters.lr, lr, rel_tol=1e-12)
    assert "is lr_base = 0.0005 at" in found.notes[0]
    new = yaml.safe_load(found.written(found.recipe.scaled(2)))
    assert math.isclose(new["lr"], lr * math.sqrt(2), rel_tol=1e-9)
    assert new["lr_base"] == 5e-4


def test_torchtune(texts, tmp_path):
    found = read(texts["torchtune"], tmp_path, devices=2)
    recipe = found.recipe
    assert found.batch == "32 = 2 per device x 8 accumulated x 2 devices"
    assert recipe.hyperparameters == adam(2e-5)
    assert (recipe.steps, recipe.warmup_steps, recipe.clip) == (None, 100, 1.0)
    assert recipe.counts == {"max_steps_per_epoch": 500, "save_every_n_steps": 100, "log_every_n_steps": 1}
    assert found.assumed == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    assert (found.whose, found.notes) == ("torch's", ())


def test_axolotl(texts, tmp_path):
    found = read(texts["axolotl"], tmp_path, devices=2)
    recipe = found.recipe
    assert found.batch == "16 = 2 per device x 4 accumulated x 2 devices"
    assert recipe.hyperparameters == adam(2e-4, beta2=0.98, decay=0.1)
    assert (recipe.warmup_steps, recipe.clip) == (12, 1.0)
    assert recipe.rates == {"embedding_lr": 5e-5, "lr_groups.0.lr": 4e-4}
    assert recipe.counts == {"eval_steps": 50, "save_steps": 150, "logging_steps": 1}
    assert found.assumed == {"beta1": 0.9, "eps": 1e-8, "clip": 1.0}
    assert found.notes == ()


def test_our_own_keys(texts, tmp_path):
    found = read(texts["adasde"], tmp_path)
    recipe = found.recipe
    assert (found.title, found.batch) == ("our own keys", "256 (batch_size)")
    assert recipe.hyperparameters == adam(1e-3, decay=0.1)
    assert (recipe.milestones, recipe.average, recipe.rates, recipe.counts) == (
        (50_000, 75_000),
        0.999,
        {"min_lr": 1e-5},
        {},
    )
    assert (found.assumed, found.notes) == ({}, ())


@pytest.mark.parametrize(
    "text",
    [
        "{optimizer: adam, learning_rate: 0.002, adam_beta1: 0.8, adam_beta2: .99, adam_epsilon: 1e-6, wd: .1, BATCH}",
        "{optimizer: adam, lr: 2e-3, betas: [0.8, 0.99], epsilon: 0.000001, weight_decay: 0.1, BATCH}",
        '{"optimizer": "torch.optim.Adam", "lr": 2E-3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "wd": "0.1", BATCH}',
    ],
)
@pytest.mark.parametrize(
    "batch",
    [
        '"global_batch_size": 64',
        '"train_batch_size": 64',
        '"micro_batch_size": 4, "gradient_accumulation_steps": 8, "world_size": 2',
        '"per_device_batch_size": 4, "accumulation_steps": 8, "devices": 2, "batch_size": 64',
    ],
)
def test_synonyms(text, batch, tmp_path):
    recipe = read(text.replace("BATCH", batch), tmp_path).recipe
    assert recipe.hyperparameters == AdamHyperparameters(2e-3, 0.8, 0.99, 1e-6, 0.1)
    assert recipe.batch_size == 64


@pytest.mark.parametrize(
    ("keys", "wanted", "assumed"),
    [
        ("optimizer: adam", AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8), {"lr", "beta1", "beta2", "eps"}),
        ("optimizer: adamw", adam(1e-3), {"lr", "beta1", "beta2", "eps", "weight_decay"}),
        ("{optimizer: rmsprop, lr: 0.1, alpha: 0.9}", RMSpropHyperparameters(0.1, 0.9, 1e-8), {"eps"}),
    ],
)
def test_what_is_left_out_takes_torchs_defaults(keys, wanted, assumed, tmp_path):
    document = yaml.safe_load(keys) | {"batch_size": 8}
    found = read(json.dumps(document), tmp_path)
    assert found.recipe.hyperparameters == wanted
    assert found.assumed.keys() == assumed
    assert found.whose == "torch's"


def test_the_defaults_of_nadam_scale_momentum_decay(tmp_path):
    found = read("{optimizer: nadam, batch_size: 8, decoupled: true}", tmp_path)
    new = found.recipe.scaled(4)
    assert (found.recipe.momentum_decay, new.momentum_decay) == (4e-3, 16e-3)
    assert new.hyperparameters == AdamHyperparameters(2e-3, 0.9, 0.999, 1e-8, 0.0, decoupled=True).scaled(4)


@pytest.mark.parametrize(
    ("params", "optimizer", "decay"),
    [
        ({}, "adamw", 0.0),  # DeepSpeed's own AdamW decays nothing unless told to
        ({"torch_adam": True}, "adamw", 0.01),
        ({"adam_w_mode": False, "weight_decay": 0.1}, "adam", 0.1),
        ({"adam_w_mode": True, "weight_decay": 0.1}, "adamw", 0.1),
    ],
)
def test_deepspeeds_adam_decays_as_adamw_unless_it_is_told_otherwise(params, optimizer, decay, tmp_path):
    document = {"optimizer": {"type": "Adam", "params": params}, "train_batch_size": 64}
    found = read(json.dumps(document), tmp_path)
    assert (found.optimizer, found.recipe.hyperparameters.weight_decay) == (optimizer, decay)
    assert found.whose == "DeepSpeed's"


def test_deepspeeds_schedule_overrides_the_optimizers_rate(tmp_path):
    text = DEEPSPEED.replace('"warmup_max_lr": 3e-5, ', "").replace('"warmup_num_steps": 100, ', "")
    found = read(text, tmp_path)
    key = "scheduler.params.warmup_max_lr"
    assert found.assumed == {"warmup_steps": 1000, key: 1e-3}
    assert found.notes == (f"DeepSpeed trains with {key} = 0.001, not with optimizer.params.lr = 3e-05",)
    assert read(DEEPSPEED.replace('_steps": 100', '_steps": 0'), tmp_path).recipe.warmup_steps == 0
    new = json.loads(found.written(found.recipe.scaled(4)))["scheduler"]["params"]
    assert new == {"warmup_min_lr": 2e-6, "warmup_max_lr": 2e-3, "warmup_num_steps": 250, "total_num_steps": 1000}


@pytest.mark.parametrize(
    ("keys", "batch", "new"),
    [
        ({"train_batch_size": 64}, 64, {"train_batch_size": 128, "gradient_accumulation_steps": 2}),
        (
            {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4},
            64,
            {"train_batch_size": 128, "train_micro_batch_size_per_gpu": 4},
        ),
        (
            {"train_batch_size": 64, "gradient_accumulation_steps": 4},
            64,
            {"train_batch_size": 128, "gradient_accumulation_steps": 8},
        ),
        (
            {"train_micro_batch_size_per_gpu": 4},
            8,
            {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
        ),
    ],
)
def test_deepspeed_infers_what_its_batch_leaves_open(keys, batch, new, tmp_path):
    document = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}, **keys}
    found = read(json.dumps(document), tmp_path, devices=2)
    assert found.recipe.batch_size == batch
    written = json.loads(found.written(found.recipe.scaled(2)))
    assert {key: value for key, value in written.items() if key != "optimizer"} == new


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("by", ["accumulation", "per_device"])
@pytest.mark.parametrize("betas", ["linear", "half-life"])
def test_a_file_written_back_is_the_scaled_recipe_and_returns(name, by, betas, texts, tmp_path):
    """At kappa 4, what is read from the new file is the scaled recipe; at 1/4 of that, it is the first one."""
    old = read(texts[name], tmp_path, devices=None if name == "adasde" else 2)
    wanted = old.recipe.scaled(4, betas=betas)
    new = read(old.written(wanted, by), tmp_path, devices=None if name == "adasde" else 2)
    assert new.title == old.title
    close(new.recipe, wanted)
    back = parsed(new.written(new.recipe.scaled(0.25, betas=betas), by), "back")
    again = recognised(back, devices=None if name == "adasde" else 2)
    close(again.recipe, old.recipe, counts=name not in ("torchtune", "axolotl"))  # a step of 1 stays 1, then becomes 4


def close(found, wanted, counts=True):
    """Assert that two recipes agree to the 14 digits that are written, which are 1e-11 of 1 - 0.999."""
    assert found.parts().keys() == wanted.parts().keys()
    for part, value in wanted.parts().items():
        if counts or part not in wanted.counts:
            assert found.parts()[part] == pytest.approx(value, rel=1e-11), part


@pytest.mark.parametrize("name", FORMATS)
def test_only_what_changes_changes(name, texts, tmp_path):
    """Lines that do not hold a changed or added value stay as they are, comments and order included."""
    text = texts[name].replace("\n", "\r\n") if name == "torchtune" else texts[name]
    found = read(text, tmp_path)
    new = found.written(found.recipe.scaled(4))
    keys = {
        str(next(key for key in reversed(path) if isinstance(key, str)))
        for path in found.changes(found.recipe.scaled(4))
    }
    old_lines, new_lines = text.splitlines(keepends=True), new.splitlines(keepends=True)
    kept = [
        line
        for line in old_lines
        if not any(key in line for key in keys) and "- 50000" not in line and "- 75000" not in line
    ]
    remaining = iter(new_lines)
    assert all(line in remaining for line in kept)  # in the same order
    assert len(keys) > 4
    same = found.written(found.recipe)
    assert same == text


def test_values_land_in_their_places(texts, tmp_path):
    written = {name: parsed(at(read(text, tmp_path), 4), name) for name, text in texts.items()}
    own = written["adasde"]
    assert (own["lr"], own["betas"], own["milestones"], own["batch_size"]) == (
        2e-3,
        [0.6, 0.996],
        [12_500, 18_750],
        1024,
    )
    trainer = written["transformers"]
    assert (trainer["gradient_accumulation_steps"], trainer["per_device_train_batch_size"]) == (8, 8)
    assert trainer["lr_scheduler_kwargs"] == {"min_lr": 2e-5}
    assert (trainer["save_steps"], trainer["eval_steps"], trainer["max_steps"]) == (50, 25, 250)
    assert written["deepspeed"]["optimizer"]["params"] == {
        "lr": 6e-5,
        "betas": [0.6, 0.92],
        "eps": 5e-9,
        "weight_decay": 6e-7,
    }
    timm = written["timm"]
    assert (timm["opt_betas"], timm["opt_eps"], timm["grad_accum_steps"], timm["batch_size"]) == (
        [0.6, 0.996],
        5e-9,
        8,
        128,
    )
    assert (timm["min_lr"], timm["warmup_lr"], timm["weight_decay"], timm["clip_grad"]) == (2e-6, 2e-5, 0.1, 0.5)
    assert timm["model_ema_decay"] == pytest.approx(0.9998**4, rel=1e-13)
    torchtune = written["torchtune"]
    assert torchtune["optimizer"]["betas"] == [0.6, 0.996]
    assert torchtune["optimizer"]["weight_decay"] == 0.02
    axolotl = written["axolotl"]
    assert (axolotl["max_grad_norm"], axolotl["adam_beta1"], axolotl["lr_groups"][0]["lr"]) == (0.5, 0.6, 8e-4)
    assert (axolotl["save_steps"], axolotl["eval_steps"]) == (36, 12)  # a multiple, as axolotl demands


def at(found, kappa, by="accumulation"):
    return found.written(found.recipe.scaled(kappa), by)


def test_the_scaled_arguments_of_transformers_load(trainer, tmp_path):
    from transformers import TrainingArguments

    values = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_steps": 500}
    text = at(read(trainer(**values), tmp_path), 3, "per_device")
    loaded = TrainingArguments(**json.loads(text) | {"accelerator_config": None})
    assert (loaded.save_steps, loaded.eval_steps, loaded.per_device_train_batch_size) == (165, 33, 24)


def test_timms_optimizer_takes_what_was_written(tmp_path):
    import torch
    from timm.optim import create_optimizer_v2, optimizer_kwargs

    class Arguments:
        def __init__(self, values):
            vars(self).update(values)

    found = read(timm_arguments(opt="nadam", opt_kwargs={}), tmp_path)
    values = yaml.safe_load(at(found, 4))
    made = create_optimizer_v2(torch.nn.Linear(2, 2), **optimizer_kwargs(Arguments(values)), **values["opt_kwargs"])
    (group, *_) = made.param_groups
    assert group["betas"] == (0.6, 0.996) or group["betas"] == [0.6, 0.996]
    assert group["momentum_decay"] == 0.016
    assert group["lr"] == 2e-3


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("{optimizer: lion}", "optimizer = 'lion': must be one of adam, adamw, nadam, rmsprop"),
        ("{optimizer: adamw_8bit}", "optimizer = 'adamw_8bit': its state is quantised or paged .*; use adamw$"),
        ("{optimizer: [adam]}", "optimizer = .'adam'.: must be one of adam"),
        ("{lr: 1}", "optimizer: missing in the recipe; must be one of adam"),
        ("{optimizer: adam}", "batch_size or micro_batch_size: missing in the recipe"),
        ("{optimizer: adam, batch_size: 8, rate: 1}", "rate: unknown; a recipe of adam has lr, beta1, "),
        (
            "{optimizer: rmsprop, batch_size: 8, betas: [0.9, 0.99]}",
            "betas: unknown; a recipe of rmsprop has lr, beta, ",
        ),
        (
            "{optimizer: adam, batch_size: 8, lr: 1, learning_rate: 2}",
            "lr = 1, learning_rate = 2: .* disagree; keep one",
        ),
        ("{optimizer: adam, batch_size: 8, betas: [.9, .99], beta1: .8}", "beta1 = 0.8, betas.0 = 0.9: .* disagree"),
        ("{optimizer: adam, batch_size: 8, betas: [.9]}", "betas = .0.9.: must be two numbers"),
        ("{optimizer: adam, batch_size: 8, betas: .9}", "betas = 0.9: must be two numbers"),
        ("{optimizer: adam, batch_size: 8, betas: [.9, x]}", "betas.1 = 'x': must be a number"),
        ("{optimizer: adam, batch_size: 8, lr: .inf}", "lr = inf: must be a number"),
        ("{optimizer: adam, batch_size: 8, lr: true}", "lr = True: must be a number"),
        ("{optimizer: adam, batch_size: 8.5}", "batch_size = 8.5: must be a whole number"),
        ("{optimizer: adam, batch_size: 0}", "batch_size = 0: must be a whole number >= 1"),
        ("{optimizer: adam, batch_size: 8, steps: -5}", "steps = -5: must be a whole number >= 1"),
        ("{optimizer: adam, batch_size: 8, clip: 0}", "clip = 0: must be a finite number > 0"),
        ("{optimizer: adam, batch_size: 8, decoupled: 1}", "decoupled = 1: must be true or false"),
        (
            "{optimizer: adam, batch_size: 8, gradient_accumulation_steps: 2}",
            "batch_size = 8: is it that of one pass or of",
        ),
        (
            "{optimizer: adam, global_batch_size: 8, micro_batch_size: 3}",
            "global_batch_size = 8: .* make 3, which does not fit",
        ),
        ("{optimizer: adam, micro_batch_size: 0}", "micro_batch_size = 0: must be a whole number >= 1"),
        ("[1]", "recipe: must be a mapping"),
        (
            "opt: adamw\nbase_model: x\n",
            r"recipe: has keys of timm \(opt\) and of axolotl \(base_model\); add --format NAME",
        ),
    ],
)
def test_bad_recipes_of_our_own_are_refused_in_one_line(keys, line, tmp_path):
    refused(keys, line, tmp_path)


def refused(text, line, tmp_path, **options):
    with pytest.raises(InputError, match=line) as caught:
        read(text, tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            ("AdamW", "Lamb"),
            "optimizer.type = 'Lamb': must be one of adam, adamw, nadam, rmsprop, since the rule for others is",
        ),
        (("AdamW", "OneBitAdam"), "optimizer.type = 'OneBitAdam': must be one of"),
        (('"eps"', '"amsgrad": true, "eps"'), "optimizer.params.amsgrad = True: the rule is for adamw without"),
        (
            ("3e-5,", '"auto",'),
            r"optimizer.params.lr, scheduler.params.warmup_max_lr = 'auto': transformers' Trainer fills",
        ),
        (("[0.9, 0.98]", '"auto"'), "optimizer.params.betas = 'auto'"),
        (('_steps": 8', '_steps": "auto"'), "gradient_accumulation_steps = 'auto'"),
        (("[0.9, 0.98]", "[0.9]"), "optimizer.params.betas = .0.9.: must be two numbers"),
        (("WarmupDecayLR", "OneCycle"), "scheduler.params.cycle_momentum: OneCycle moves beta1"),
        (
            ('"gradient_clipping": 1.0', '"train_batch_size": 30'),
            "train_batch_size = 30: .* make 32, which does not fit",
        ),
        (('_clipping": 1.0', '_clipping": "hard"'), "gradient_clipping = 'hard': must be a number"),
        (('"steps_per_print": 2000', '"steps_per_print": 0.5e1.2'), "not YAML|must be a number"),
        (('"steps_per_print": 2000', '"steps_per_print": 2.5'), "steps_per_print = 2.5: must be a whole number"),
        (('"fp16"', '"gradient_clipping": 2, "fp16"'), "gradient_clipping is given twice"),
    ],
)
def test_bad_deepspeed(change, line, tmp_path):
    refused(DEEPSPEED.replace(*change), line, tmp_path)


def test_c1_a_deepspeed_file_without_a_batch(tmp_path):
    text = '{"optimizer": {"type": "AdamW", "params": {}}}'
    refused(text, "train_batch_size or train_micro_batch_size_per_gpu: missing in the recipe", tmp_path)
    found = read(text.replace("}}", '}}, "train_batch_size": 256'), tmp_path)
    assert found.recipe.hyperparameters == adam(1e-3, decay=0.0)
    assert found.assumed == {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


@pytest.mark.parametrize(
    ("optim", "line"),
    [
        (
            "adafactor",
            "optim = 'adafactor': must be one of adamw_torch, .*since the rule for others is unknown; use adamw_torch$",
        ),
        ("adamw_bnb_8bit", "optim = 'adamw_bnb_8bit': its state is quantised or paged .*; use adamw_torch$"),
        ("adamw_8bit", "its state is quantised"),
        ("adamw_torch_4bit", "its state is quantised"),
        ("paged_adamw_32bit", "its state is quantised or paged"),
        ("lion_32bit", "must be one of adamw_torch"),
        ("sgd", "must be one of adamw_torch"),
        ("schedule_free_adamw", "must be one of adamw_torch"),
        ("galore_adamw", "must be one of adamw_torch"),
    ],
)
def test_optimizers_whose_rule_is_unknown(optim, line, trainer, tmp_path):
    text = trainer().replace("adamw_torch_fused", optim)
    assert f'"{optim}"' in text
    refused(text, line, tmp_path)
    refused(AXOLOTL.replace("adamw_torch_fused", optim), line.replace("optim =", "optimizer ="), tmp_path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"opt": "lamb"}, "opt = 'lamb': must be one of adam, adamw, nadam, rmsprop, fusedadam, fusedadamw"),
        ({"opt": "sgd"}, "opt = 'sgd': must be one of"),
        ({"opt": "bnbadamw8bit"}, "opt = 'bnbadamw8bit': its state is quantised"),
        ({"opt": "rmsprop"}, "momentum = 0.9: the rule is for rmsprop without"),
        ({"opt_kwargs": {"amsgrad": True}}, "opt_kwargs.amsgrad = True: the rule is for adamw without"),
        ({"opt_kwargs": {"caution": True}}, "opt_kwargs.caution = True"),
        ({"opt_betas": [0.9]}, "opt_betas = .0.9.: must be two numbers"),
        ({"lr": None, "lr_base_scale": "log"}, "lr_base_scale = 'log': must be sqrt or linear"),
        ({"lr": None, "lr_base_size": -1}, "lr_base_size = -1: must be a whole number >= 1"),
        ({"batch_size": "many"}, "batch_size = 'many': must be a number"),
        ({"model_ema_decay": 2.0}, r"average = 2: must be in \[0, 1\)"),
    ],
)
def test_bad_timm(changes, line, tmp_path):
    refused(timm_arguments(**changes), line, tmp_path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            ("torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit"),
            "optimizer._component_ = .*quantised or paged.*use torch.optim.AdamW",
        ),
        (("torch.optim.AdamW", "torchao.optim.CPUOffloadOptimizer"), "quantised or paged"),
        (
            ("torch.optim.AdamW", "torch.optim.SGD"),
            "optimizer._component_ = 'torch.optim.SGD': must be one of torch.optim.adam",
        ),
        (("fused: True", "amsgrad: True"), "optimizer.amsgrad = True: the rule is for adamw without"),
        (("batch_size: 2\n", ""), "batch_size: missing in the recipe"),
        (("2e-5 ", "${peak}"), r"optimizer.lr = '\$\{peak\}': must be a number"),
        (("epochs: 1", "\tepochs: 1"), r"not YAML \(line 17\)"),
        (("epochs: 1", "batch_size: 1"), r"batch_size is given twice \(line 17\)"),
    ],
)
def test_bad_torchtune(change, line, tmp_path):
    assert change[0] in TORCHTUNE
    refused(TORCHTUNE.replace(*change), line, tmp_path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("learning_rate: 0.0002\n", ""), "learning_rate: missing in the recipe"),
        (("micro_batch_size", "batch_size: 8\nmicro_batch_size"), "batch_size = 8: axolotl advises against it"),
        (("    lr: 0.0004", "    lr: high"), "lr_groups.0.lr = 'high': must be a number"),
        (("weight_decay: 0.1", "weight_decay: -0.1"), "weight_decay = -0.1: must be a finite number >= 0"),
    ],
)
def test_bad_axolotl(change, line, tmp_path):
    assert change[0] in AXOLOTL
    refused(AXOLOTL.replace(*change), line, tmp_path)


def test_files_that_are_no_recipe(tmp_path):
    refused("a: [", r"recipe.txt: not YAML \(line 1\)", tmp_path)
    refused("? [a, b]\n: 1\n", r"recipe.txt: a key is not text \(line 1\)", tmp_path)
    refused("", "recipe: must be a mapping", tmp_path)
    (tmp_path / "recipe.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"recipe.txt: not text in UTF-8 \(byte 0\)"):
        read_recipe(tmp_path / "recipe.txt")
    refused(OWN + "loss: {a: &a [1, *a]}", "an alias stands for what it is part of", tmp_path)
    refused(OWN, "format = 'keras': must be one of adasde, transformers, deepspeed", tmp_path, format="keras")
    refused(timm_arguments(world_size=4), "devices = 2: the recipe has world_size = 4", tmp_path, devices=2)
    refused(OWN, "batch_size = 256: is it that of one pass", tmp_path, devices=2)
    deep = "{" + '"a": {' * 10_000
    refused(deep, "nests too deeply", tmp_path)


def test_the_format_can_be_named(tmp_path):
    text = "{opt: adamw, opt_betas: [0.9, 0.99], base_model: x, lr: 1e-3, batch_size: 8}"
    assert read(text, tmp_path, format="timm").recipe.hyperparameters.beta2 == 0.99
    refused(text, "optimizer.type: missing in the recipe", tmp_path, format="deepspeed")


@pytest.mark.parametrize(
    ("name", "addition", "note"),
    [
        ("axolotl", "relora_steps: 150\n", "relora_steps = 150"),
        ("axolotl", "lr_scheduler_kwargs: {gamma: 0.5}\n", "lr_scheduler_kwargs.gamma = 0.5"),
        ("timm", "bn_momentum: 0.1\n", "bn_momentum = 0.1"),
        ("torchtune", "fake_quant_after_n_steps: 1000\n", "fake_quant_after_n_steps = 1000"),
        ("deepspeed", '"curriculum": {"total_curriculum_step": 15000}, ', "curriculum.total_curriculum_step = 15000"),
        ("transformers", '"eval_delay": 100, ', "eval_delay = 100"),
    ],
)
def test_rates_and_counts_that_nothing_changes_are_named(name, addition, note, texts, tmp_path):
    text = texts[name].replace('"eval_delay": 0,', "").replace("bn_momentum: null\n", "")
    text = text.replace("{", "{" + addition, 1) if text.startswith("{") else addition + text
    assert read(text, tmp_path).notes == (f"not changed, though it may be a rate or a number of steps: {note}",)


def test_transformers_inside_and_shares(trainer, tmp_path):
    """Shares of the run, -1 and null are not numbers of steps; DeepSpeed's settings inside are named, not followed."""
    values = {"max_steps": -1, "warmup_steps": 0.1, "save_steps": 0.25, "eval_steps": None, "max_grad_norm": 0.0}
    document = json.loads(trainer(**values))
    document["deepspeed"] = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}
    recipe = recognised(document).recipe
    assert (recipe.steps, recipe.warmup_steps, recipe.clip) == (None, 0, None)
    assert recipe.counts == {"logging_steps": 500}
    assert recognised(document).notes[0].endswith("deepspeed.optimizer.params.lr = 1e-05")
    assert recipe.scaled(4).counts == {"logging_steps": 125}


@pytest.mark.parametrize(
    ("kappa", "by", "line"),
    [
        (
            1.5,
            "accumulation",
            "kappa = 1.5: gradient_accumulation_steps = 1 would become 1.5, which is not whole; a batch that is a "
            "multiple of 6 would do, and so would by = per_device, which makes micro_batch_size 9",
        ),
        (0.5, "accumulation", "= 1 would become 0.5, .* makes micro_batch_size 3"),
        (
            7 / 6,
            "accumulation",
            r"would become 1.16667, which is not whole; a batch that is a multiple of 6 would do, and so",
        ),
        (4 / 3, "per_device", None),
        (1.5, "both", "by = 'both': must be accumulation or per_device"),
    ],
)
def test_a_batch_that_is_not_whole_says_what_would_do(kappa, by, line):
    found = recognised({"optimizer": "adam", "micro_batch_size": 6, "gradient_accumulation_steps": 1})
    if line is None:
        assert found.replaced(found.recipe.scaled(kappa), by)["micro_batch_size"] == 8
        return
    with pytest.raises(InputError, match=line):
        found.changes(found.recipe.scaled(kappa), by)


HARD = """# first
optimizer: adamw
'lr': "1e-3"   # quoted
eps:
weight_decay: ~
micro_batch_size: 8 # a comment
min_lr: &floor 1e-5
"""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            HARD,
            {
                "optimizer": "adamw",
                "gradient_accumulation_steps": 4,
                "beta1": 0.6,
                "beta2": 0.996,
                "lr": 2e-3,
                "eps": 5e-9,
                "weight_decay": 0.02,
                "micro_batch_size": 8,
                "min_lr": 2e-5,
            },
        ),
        (
            "{optimizer: adam, betas:\n  [0.9,\n   0.99], lr: 1e-3, eps: 0, batch_size: 8}",
            {"optimizer": "adam", "betas": [0.6, 0.96], "lr": 2e-3, "eps": 0, "batch_size": 32},
        ),
        (
            "optimizer: adam\nbetas:\n# two\n- 0.9\n- 0.99\nlr: 1e-3\neps: 0\nbatch_size: 8",
            {"optimizer": "adam", "betas": [0.6, 0.96], "lr": 2e-3, "eps": 0, "batch_size": 32},
        ),
        (
            "base: &base {lr: 0.001, betas: [0.9, 0.99], eps: 0}\noptimizer:\n  <<: *base\n"
            "  _component_: torch.optim.Adam\nbatch_size: 8\n",
            None,  # only a part of betas would be put over the base
        ),
        (
            "base: &lr 0.001\noptimizer:\n  _component_: torch.optim.Adam\n  lr: *lr\n  betas: [0.9, 0.99]\n  eps: 0\n"
            "batch_size: 8\n",
            None,  # base would change as well
        ),
    ],
)
def test_texts_that_are_hard_to_change(text, wanted, tmp_path):
    found = read(text, tmp_path)
    if wanted is None:
        with pytest.raises(InputError, match="its text cannot be changed in place"):
            at(found, 4)
    else:
        assert yaml.safe_load(at(found, 4)) == wanted
        assert at(found, 4).count("#") == text.count("#")


def test_timms_betas_stay_a_block(tmp_path):
    found = read(timm_arguments(opt_betas=[0.9, 0.98]), tmp_path)
    assert found.recipe.hyperparameters.beta2 == 0.98
    assert "opt_betas:\n- 0.6\n- 0.92\n" in at(found, 4)


def test_an_empty_value_is_filled_in(tmp_path):
    text = AXOLOTL.replace("adam_beta2: 0.98", "adam_beta2:\nmax_grad_norm:")
    assert "\nadam_beta2: 0.996\nmax_grad_norm: 0.5\n" in at(read(text, tmp_path), 4)


def test_optimizer_beside_transformers_arguments_counts(trainer, tmp_path):
    document = json.loads(trainer())
    del document["optim"]
    assert recognised(document).optimizer == "adamw"
    with pytest.raises(InputError, match="optimizer = 'lion': must be one of adamw_torch, "):
        recognised({"optimizer": "lion", **document})


def test_what_no_format_has_said_is_said(tmp_path):
    """The micro-batch that is left out; torchtune's optimizer in the backward pass, which cannot accumulate."""
    text = AXOLOTL.replace("micro_batch_size: 2\n", "")
    found = read(text, tmp_path)
    assert found.batch.startswith("4 = 1 per device x 4 accumulated x 1 device")
    assert found.assumed["micro_batch_size"] == 1
    assert yaml.safe_load(at(found, 4, "per_device"))["micro_batch_size"] == 4
    text = TORCHTUNE.replace("optimizer_in_bwd: False", "optimizer_in_bwd: True")
    assert read(text, tmp_path).notes == (
        "optimizer_in_bwd = true does not go with accumulation; write the recipe by per_device",
    )


@pytest.mark.parametrize("rule", ["linear", "lr-only", "none", "sqrt-no-eps"])
def test_other_rules_change_only_their_parts(rule, texts, tmp_path):
    found = read(texts["transformers"], tmp_path)
    new = parsed(found.written(found.recipe.scaled(4, rule)), "new")
    factor = {"linear": 4, "lr-only": 2, "none": 1, "sqrt-no-eps": 2}[rule]
    assert new["learning_rate"] == pytest.approx(1e-4 * factor, rel=1e-13)
    assert new["lr_scheduler_kwargs"]["min_lr"] == pytest.approx(1e-5 * factor, rel=1e-13)
    assert new["adam_epsilon"] == 1e-8
    assert new["max_steps"] == 250


def test_every_part_has_a_place():
    """What recipes can change, each format that covers the optimizer can write."""
    for name, form in FORMATS.items():
        for optimizer in set(form.optimizers.values()):
            kind = RMSpropHyperparameters if optimizer == "rmsprop" else AdamHyperparameters
            for part in {field.name for field in fields(kind)} - {"decoupled"}:
                assert part in form.keys, (name, optimizer, part)
        assert {"per_device", "accumulation"} <= form.keys.keys()
