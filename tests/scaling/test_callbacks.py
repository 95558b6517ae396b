"""What transformers' Trainer takes: arguments for a larger batch, and callbacks."""

import pytest

from adasde.common import InputError
from adasde.scaling.callbacks import after_each_step, rescale_arguments
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.rules import ScalingWarning


def test_training_arguments(tmp_path):
    from transformers import TrainingArguments

    old = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, adam_beta1=0.9, adam_beta2=0.98, weight_decay=0.1,
        max_steps=1000, warmup_steps=100, gradient_accumulation_steps=2, max_grad_norm=1.0, report_to=[],
    )  # fmt: skip
    new = rescale_arguments(old, 4)
    wanted = AdamHyperparameters(1e-3, 0.9, 0.98, 1e-8, 0.1, decoupled=True).scaled(4)
    found = (new.learning_rate, new.adam_beta1, new.adam_beta2, new.adam_epsilon, new.weight_decay)
    assert found == pytest.approx((wanted.lr, wanted.beta1, wanted.beta2, wanted.eps, wanted.weight_decay))
    assert (new.max_steps, new.warmup_steps, new.gradient_accumulation_steps, new.max_grad_norm) == (250, 25, 8, 0.5)
    assert new.per_device_train_batch_size == old.per_device_train_batch_size
    assert old.learning_rate == 1e-3
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 16 would become 4.8"):
        rescale_arguments(old, 0.3)
    with pytest.raises(InputError, match=r"gradient_accumulation_steps = 2 would become 3.5, which is not whole"):
        rescale_arguments(old, 1.75)
    with pytest.raises(InputError, match="rule = 'invariant': needs adasde.InvariantAdam"):
        rescale_arguments(old, 4, "invariant")


def arguments(folder, **values):
    from transformers import TrainingArguments

    return TrainingArguments(output_dir=str(folder), report_to=[], **values)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"min_lr": 1e-5}, {"min_lr": 2e-5}),
        ({"lr_end": 1e-6, "power": 2.0}, {"lr_end": 2e-6, "power": 2.0}),
        ({"min_lr_rate": 0.1, "num_cycles": 0.5}, {"min_lr_rate": 0.1, "num_cycles": 0.5}),
        ({"num_decay_steps": 100, "num_stable_steps": 30}, {"num_decay_steps": 25, "num_stable_steps": 8}),
        ({"timescale": 10_000}, {"timescale": 2_500}),
    ],
)
def test_r8_the_rates_and_lengths_of_the_schedule_follow(given, wanted, tmp_path):
    old = arguments(tmp_path, lr_scheduler_kwargs=dict(given))
    new = rescale_arguments(old, 4)
    assert new.lr_scheduler_kwargs == wanted
    assert old.lr_scheduler_kwargs == given


@pytest.mark.parametrize(
    ("kappa", "given", "wanted"),
    [
        (4, {"max_steps": 1000, "save_steps": 200, "eval_steps": 100, "logging_steps": 10}, (250, 50, 25, 2)),
        (4, {"save_steps": 0.1, "eval_steps": 0.05, "logging_steps": 0.01}, (-1, 0.1, 0.05, 0.01)),
        (4, {"save_steps": 2, "eval_steps": 1, "logging_steps": 1}, (-1, 2, 1, 1)),
        (3, {"save_steps": 500, "eval_steps": 100}, (-1, 165, 33, 167)),  # save_steps stays a multiple
        (3, {"save_steps": 100, "eval_steps": 500}, (-1, 33, 167, 167)),
        (0.5, {"max_steps": 1000, "save_steps": 200, "eval_steps": 100}, (2000, 400, 200, 1000)),
    ],
)
def test_r9_steps_between_saves_evaluations_and_logs_follow(kappa, given, wanted, tmp_path):
    new = rescale_arguments(arguments(tmp_path, gradient_accumulation_steps=2, **given), kappa)
    assert (new.max_steps, new.save_steps, new.eval_steps, new.logging_steps) == wanted


def test_the_batch_can_grow_on_each_device(tmp_path):
    old = arguments(tmp_path, per_device_train_batch_size=6, gradient_accumulation_steps=2)
    new = rescale_arguments(old, 4 / 3, by="per_device")
    assert (new.per_device_train_batch_size, new.gradient_accumulation_steps) == (8, 2)
    with pytest.raises(InputError, match="so would by = per_device, which makes per_device_train_batch_size 8"):
        rescale_arguments(old, 4 / 3)
    with pytest.raises(InputError, match="by = 'devices': must be accumulation or per_device"):
        rescale_arguments(old, 2, by="devices")


def test_half_life_betas_carry_the_default_adam_to_16(tmp_path):
    old = arguments(tmp_path)
    new = rescale_arguments(old, 16, betas="half-life")
    assert (new.adam_beta1, new.adam_beta2) == pytest.approx((0.9**16, 0.999**16), rel=1e-13)
    assert new.learning_rate == pytest.approx(4 * old.learning_rate, rel=1e-13)
    with pytest.raises(InputError, match="too large for beta1 = 0.9"):
        rescale_arguments(old, 16)


@pytest.mark.parametrize("kind", ["adamw_torch", "adamw_torch_fused"])
def test_torchs_adamw_is_covered(kind, tmp_path):
    assert rescale_arguments(arguments(tmp_path, optim=kind), 4).learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("adafactor", "optim = 'adafactor': must be one of adamw_torch, adamw_torch_fused, .*; use adamw_torch$"),
        ("lion_32bit", "optim = 'lion_32bit': must be one of"),
        ("sgd", "optim = 'sgd': must be one of"),
        ("rmsprop", "optim = 'rmsprop': must be one of"),  # transformers can set neither its beta nor its eps
        ("stable_adamw", "optim = 'stable_adamw': must be one of"),
        ("adamw_bnb_8bit", "optim = 'adamw_bnb_8bit': its state is quantised or paged .*; use adamw_torch$"),
        ("adamw_8bit", "optim = 'adamw_8bit': its state is quantised"),
        ("adamw_torch_8bit", "optim = 'adamw_torch_8bit': its state is quantised"),
        ("adamw_torch_4bit", "optim = 'adamw_torch_4bit': its state is quantised"),
        ("paged_adamw_32bit", "optim = 'paged_adamw_32bit': its state is quantised or paged"),
        ("paged_adamw_8bit", "optim = 'paged_adamw_8bit': its state is quantised"),
    ],
)
def test_other_optimizers_are_refused_by_name(kind, line, tmp_path):
    old = arguments(tmp_path)
    old.optim = kind
    with pytest.raises(InputError, match=line):
        rescale_arguments(old, 4)


def test_numbers_that_stay_are_named(tmp_path):
    old = arguments(tmp_path, eval_delay=100, lr_scheduler_kwargs={"gamma": 0.5})
    with pytest.warns(ScalingWarning, match="number of steps: lr_scheduler_kwargs.gamma = 0.5, eval_delay = 100"):
        new = rescale_arguments(old, 4)
    assert new.eval_delay == 100


def test_kappa_and_back(tmp_path):
    old = arguments(tmp_path, max_steps=1000, warmup_steps=100, weight_decay=0.1, lr_scheduler_kwargs={"min_lr": 1e-6})
    back = rescale_arguments(rescale_arguments(old, 4), 0.25)
    for name, value in vars(old).items():
        if isinstance(value, float):
            assert getattr(back, name) == pytest.approx(value, rel=1e-11), name
        elif isinstance(value, int):
            assert getattr(back, name) == value, name
    assert back.lr_scheduler_kwargs["min_lr"] == pytest.approx(1e-6, rel=1e-13)


def test_a_callback_hears_of_every_optimizer_step():
    from transformers import TrainerControl, TrainerState

    steps = []
    callback = after_each_step(steps.append)
    for number in (1, 2):
        callback.on_step_end(None, TrainerState(global_step=number), TrainerControl(), model=None)
    assert steps == [1, 2]
