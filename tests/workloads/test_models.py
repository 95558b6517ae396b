"""Models that a config names: one name for each, what they refuse, what they cost, and that they train."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
import yaml

from adasde.common import InputError
from adasde.experiments.documents import merge
from adasde.experiments.plan import plan
from adasde.training import distributed
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads import counting, language_models, profiles, registry, vision_models
from adasde.workloads.data.registry import DATASETS, load_arrays, prepare
from adasde.workloads.model_names import DATA, composed, parsed
from adasde.workloads.registry import counted, load_workload, workload_named
from adasde.workloads.vision_models import ModelWorkload
from conftest import ROOT, changed

VIT = {"patch_size": 7, "depth": 1, "embed_dim": 16, "num_heads": 2}
SMALL = {
    "timm": composed("timm/vit_tiny_patch16_224", "fashion-mnist", 28, VIT),
    "torchvision": composed("torchvision/squeezenet1_1", "fashion-mnist", 17),
    "transformers": composed("transformers/gpt2", "wiki-mini", 16, {"n_layer": 1, "n_embd": 8, "n_head": 2}),
}
MAPPING = {"model": "timm/vit_tiny_patch16_224", "data": "fashion-mnist", "options": VIT}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and no memory of what was counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profiles, "_found", {})
    return tmp_path / "cache/adasde/profiles"


def of(config, workload, **own):
    """The config with only one experiment, on this workload."""
    experiment = config["experiments"]["fashion-cnn-adam"] | {"workload": workload} | own
    return {"scale": "one", "experiments": {"one": experiment}, "figures": []}


# Names


@pytest.mark.parametrize(
    "options",
    [
        {}, VIT, {"act_layer": "gelu"}, {"drop_path_rate": 0.1, "qkv_bias": False, "weight_init": ""},
        {"global_pool": None, "text": "true", "number": "1e3", "odd": "a&b=c?d@e %/ü"},
        {"list": [1, [2.5, "x"], {"a": None}]},
    ],
)  # fmt: skip
def test_a_name_holds_a_model_and_comes_back(options):
    model = composed("timm/vit_tiny_patch16_224", "cifar-10", 64, options)
    again = parsed(str(model))
    assert again == model
    assert {key: (type(value), value) for key, value in again.options.items()} == {
        key: (type(value), value) for key, value in options.items()
    }
    turned = dict(reversed(options.items()))
    assert str(composed("timm/vit_tiny_patch16_224", "cifar-10", 64, turned)) == str(model)


def test_the_size_is_that_of_the_data_unless_it_is_given():
    assert str(composed("timm/resnet18", "cifar-10")) == "timm/resnet18@cifar-10?size=32"
    for name, learned in DATA.items():
        own = {entry.kind for entry in registry.WORKLOADS.values() if entry.data == name}
        assert own == {learned.kind}
        if "train-images" in DATASETS[name].forms:
            assert DATASETS[name].forms["train-images"].item == (learned.channels, learned.size, learned.size)
    assert DATA["imagenet"].classes == DATASETS["imagenet"].classes
    assert DATA["wikitext-103"].classes == DATASETS["wikitext-103"].tokenizer[2]


def test_another_way_to_write_a_name_is_refused_with_the_right_one():
    for text in ("size=28&depth=1&patch_size=7", "patch_size=7&depth=1&size=28", "depth=1&patch_size=7"):
        name = f"timm/vit_tiny_patch16_224@fashion-mnist?{text}"
        if text.startswith("size"):
            assert str(parsed(name)) == name
        else:
            right = r"must be written timm/vit_tiny_patch16_224@fashion-mnist\?size=28&depth=1&patch_size=7"
            with pytest.raises(InputError, match=right):
                parsed(name)


def test_a_mapping_and_its_name_are_the_same_runs(config):
    whole = plan(of(config, MAPPING))
    assert whole == plan(of(config, str(SMALL["timm"])))
    spec = next(iter(whole.runs.values()))
    assert spec.workload == str(SMALL["timm"])
    assert (spec.data, spec.kind) == ("fashion-mnist", "vision")
    entry = workload_named(spec.workload)
    assert entry.title == "vit_tiny_patch16_224 (depth 1, embed_dim 16, num_heads 2, patch_size 7) on Fashion-MNIST"


# What is refused, in one line and before any job


REFUSED = [
    ({"model": "timm/vit_tiny_patch16_225", "data": "cifar-10"},
     "model = 'timm/vit_tiny_patch16_225': timm has no such image classifier; nearest: vit_tiny_patch16_224"),
    ({"model": "torchvision/squeezenet", "data": "cifar-10"}, "nearest: squeezenet1_0, squeezenet1_1"),
    ({"model": "torchvision/fcn_resnet50", "data": "cifar-10"}, "torchvision has no such image classifier"),
    ({"model": "transformers/gtp2", "data": "wiki-mini"}, "no such causal model; nearest: gpt2"),
    ({"model": "transformers/bert", "data": "wiki-mini"}, "sees the tokens that it should predict; take a causal"),
    ({"model": "jax/resnet", "data": "cifar-10"}, "workload.model = 'jax/resnet': must be timm/NAME, torchvision/NAME"),
    ({"model": "timm/../x", "data": "cifar-10"}, "workload.model = 'timm/../x': must be timm/NAME"),
    ({"model": "timm/resnet18", "data": "wiki-mini"},
     "data = 'wiki-mini': models of timm classify images; must be fashion-mnist, cifar-10, imagenet"),
    ({"model": "transformers/gpt2", "data": "cifar-10"}, "models of transformers predict text; must be wiki-mini"),
    ({"model": "timm/resnet18", "data": "mnist"}, "data = 'mnist': models of timm classify images"),
    ({"model": "timm/resnet18", "data": "cifar-10", "size": 0}, "size = 0: must be a whole number from 1"),
    ({"model": "timm/resnet18", "data": "cifar-10", "size": 64.0}, "size: 64.0 is not of type 'integer'"),
    ({"model": "timm/resnet18", "data": "cifar-10", "sise": 64}, "unknown key 'sise'; must be one of model,"),
    ({"model": "timm/resnet18"}, "workload: 'data' is a required property"),
    ({"model": "timm/resnet18", "data": "cifar-10", "options": {"dept": 3}},
     "workload.options.dept: is not an option of timm/resnet18; nearest: "),
    ({"model": "timm/vit_tiny_patch16_224", "data": "cifar-10", "options": {"dept": 3}}, "nearest: depth"),
    ({"model": "timm/vovnet39a", "data": "cifar-10", "options": {"drop": 3}},
     "workload.options.drop: is not an option of timm/vovnet39a; nearest: drop_rate, drop_path_rate"),
    ({"model": "torchvision/alexnet", "data": "cifar-10", "options": {"drop": 3}},
     "workload.options.drop: is not an option of torchvision/alexnet; nearest: dropout"),
    ({"model": "transformers/gpt2", "data": "wiki-mini", "options": {"n_layers": 3}},
     "workload.options.n_layers: is not an option of transformers/gpt2; nearest: n_layer,"),
    ({"model": "timm/resnet18", "data": "cifar-10", "options": {"pretrained": True}}, "pretrained: is not a choice"),
    ({"model": "timm/resnet18", "data": "cifar-10", "options": {"in_chans": 1}}, "images of cifar-10 have 3 channels"),
    ({"model": "torchvision/alexnet", "data": "fashion-mnist"}, r"torchvision refuses it: RuntimeError: .* too small"),
    ({"model": "torchvision/vit_b_16", "data": "fashion-mnist", "size": 30}, "torchvision refuses it: .*indivisible"),
    ({"model": "timm/resnet10t", "data": "cifar-10", "options": {"features_only": True}},
     "workload.model = 'timm/resnet10t': returns a list, and not scores"),
    ({"model": "torchvision/googlenet", "data": "cifar-10", "size": 64},
     r"returns a GoogLeNetOutputs, and not scores .*; options: \{aux_logits: false\} may help"),
    ({"model": "fashion-cnn", "data": "fashion-mnist"},
     "workload.model = 'fashion-cnn': must be .*/NAME; the name of a registered workload is written without model"),
    # Pixels that no weight would see.
    ({"model": "timm/vit_tiny_patch16_224", "data": "fashion-mnist"},
     "workload.size = 28: patches of 16 pixels leave 12 of 28 unseen; take 16 or 32, or another options.patch_size"),
    ({"model": "timm/vit_tiny_patch16_224", "data": "cifar-10", "size": 8}, "leave 8 of 8 unseen; take 16, or"),
    ({"model": "torchvision/swin_t", "data": "cifar-10", "size": 35}, "patches of 4 pixels leave 3 of 35 unseen"),
    # True would pass as 1.
    ({"model": "timm/resnet18", "data": "fashion-mnist", "options": {"in_chans": True}}, "options.in_chans = True"),
    ({"model": "timm/vit_tiny_patch16_224", "data": "cifar-10", "options": {"depth": True}},
     "workload.options.depth = True: must be a number, such as the default 12"),
    ({"model": "torchvision/alexnet", "data": "cifar-10", "size": 64, "options": {"dropout": True}},
     "workload.options.dropout = True: must be a number"),
    ({"model": "transformers/gpt2", "data": "wiki-mini", "options": {"n_layer": True}},
     "workload.options.n_layer = True: must be a number"),
    # The spec says in which precision a run computes, and where.
    ({"model": "transformers/gpt2", "data": "wiki-mini", "options": {"dtype": "bfloat16"}}, "dtype: is not a choice"),
    ({"model": "transformers/gpt2", "data": "wiki-mini", "options": {"torch_dtype": "bfloat16"}}, "is not a choice"),
    ({"model": "timm/resnet18", "data": "cifar-10", "options": {"device": "meta"}}, "device: is not a choice"),
    # What only comes out with values.
    ({"model": "transformers/xlnet", "data": "wiki-mini", "size": 8,
      "options": {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}},
     "workload.model = 'transformers/xlnet': sees the tokens that it should predict; take a causal model"),
    ({"model": "transformers/rwkv", "data": "wiki-mini", "options": {"hidden_size": 32, "num_hidden_layers": 1}},
     "transformers refuses it: ZeroDivisionError"),
    ({"model": "transformers/gpt2", "data": "wikitext-103", "size": 2048}, "gpt2 takes at most 1024 tokens"),
    ("timm/resnet18", "a model must be LIBRARY/NAME@DATA"),
    ("timm/resnet18@cifar-10?size=x", "workload.size = 'x': must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("workload", "message"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_mistakes_are_refused_in_one_line(workload, message, config):
    with pytest.raises(InputError, match=message) as caught:
        plan(of(config, workload))
    assert re.match(r"experiments\.one(: |\.)workload\b", str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_library_that_is_not_installed_is_named(config, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"workload = timm/.*: timm: is not installed; it comes with adasde\[vision\]"):
        plan(of(config, MAPPING))
    with pytest.raises(InputError, match="transformers: is not installed"):
        registry.check_installed(["fashion-cnn", str(SMALL["transformers"])])
    registry.check_installed(["fashion-cnn", "wiki-gpt2"])


def test_batch_norm_over_one_value_per_channel_is_refused(config, spec, data_root):
    """The features of this network are single pixels at 28 x 28: one example has no variance."""
    sourced = {"value": 1, "source": "ours"}
    resnet = {"model": "timm/resnet10t", "data": "fashion-mnist"}
    with pytest.raises(InputError, match="micro_batch = 1: batch norm would see one value .*must be at least 2"):
        plan(of(config, resnet, micro_batch=sourced))
    with pytest.raises(InputError, match="batch_size = 1: batch norm would see one value"):
        plan(of(config, resnet, batch_size=sourced))
    task = load_workload("timm/resnet10t@fashion-mnist?size=28", data_root)
    with pytest.raises(InputError, match="a pass holds 1 example, and batch norm would see one value per channel"):
        task.loss(task.model(), *task.gather(torch.arange(1)))
    # A vision transformer has no batch norm.
    assert plan(of(config, MAPPING, micro_batch=sourced)).runs


def test_batch_norm_with_an_activation_in_it_is_refused_with_several_processes():
    """Over the whole minibatch of all processes only torch's own batch norm is known; timm's also activates."""
    model = ModelWorkload(composed("timm/efficientnet_b0", "fashion-mnist"), images(4)).model()
    with pytest.raises(InputError, match="processes = 1: .* BatchNormAct2d"):
        distributed.synchronise_batch_norm(model, None)
    plain = ModelWorkload(composed("torchvision/resnet18", "fashion-mnist"), images(4)).model()
    assert distributed.synchronise_batch_norm(plain, None) is plain


@pytest.mark.parametrize(
    ("workload", "micro_batch", "message"),
    [
        (
            {"model": "timm/efficientnet_b0", "data": "fashion-mnist"},
            None,
            "processes = 2: .* BatchNormAct2d.*; take 1",
        ),
        ({"model": "torchvision/resnet18", "data": "fashion-mnist"}, 8, "micro_batch = 8, processes = 2: batch norm"),
        ("fashion-resnet", 8, "micro_batch = 8, processes = 2: batch norm .*; drop one of them"),
        ("fashion-resnet", None, None),
        ("fashion-cnn", 8, None),
    ],
)
def test_batch_norm_over_several_processes_is_refused_before_any_job(workload, micro_batch, message, config):
    own = {"processes": {"value": 2, "source": "ours"}}
    own |= {"micro_batch": {"value": micro_batch, "source": "ours"}} if micro_batch else {}
    if message is None:
        assert plan(of(config, workload, **own)).runs
        return
    with pytest.raises(InputError, match=f"^experiments.one: {message}"):
        plan(of(config, workload, **own))


@pytest.mark.parametrize("library", SMALL)
def test_weights_that_are_not_float32_are_refused(library, monkeypatch):
    module = registry.import_module(workload_named(str(SMALL[library])).module)
    build = module.build
    monkeypatch.setattr(module, "build", lambda model: build(model).to(torch.bfloat16))
    with pytest.raises(InputError, match="workload.options: make .* torch.bfloat16; weights must be torch.float32"):
        counted(str(SMALL[library]))


@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vovnet39a", "torchvision/squeezenet1_1"])
def test_models_that_step_over_images_with_overlap_take_any_size(name):
    assert counted(str(composed(name, "fashion-mnist", 29))).profile
    assert counted(str(composed("timm/convnext_atto", "fashion-mnist", 32))).profile


def test_null_in_an_overlay_takes_away_what_the_config_below_gives(config):
    below = of(config, MAPPING | {"size": 56})
    for workload, name in (
        ({"options": {"depth": None}, "size": None},
         "timm/vit_tiny_patch16_224@fashion-mnist?size=28&embed_dim=16&num_heads=2&patch_size=7"),
        ({"model": "torchvision/squeezenet1_1", "options": None}, "torchvision/squeezenet1_1@fashion-mnist?size=56"),
        (str(SMALL["torchvision"]), str(SMALL["torchvision"])),
    ):  # fmt: skip
        laid = merge(below, {"experiments": {"one": {"workload": workload}}})
        assert {spec.workload for spec in plan(laid).runs.values()} == {name}


# Costs


EXPERTS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
MIXTURE = composed("transformers/mixtral", "wiki-mini", 16, EXPERTS | {"num_key_value_heads": 2, "head_dim": 16})


def test_a_mixture_of_experts_is_counted_with_values():
    """Each token takes two of eight experts, of three matrices each. Without values torch has no float32 for them."""
    tokens, d, hidden, vocabulary = 16, 32, 48, 1024
    products = tokens * (4 * d * d + 8 * d + 2 * 3 * d * hidden + d * vocabulary) + 2 * tokens**2 * d
    assert counted(str(MIXTURE)).profile.flops == 2 * products


def test_large_models_are_not_built_with_values(monkeypatch):
    monkeypatch.setattr(counting, "VALUED", 1000)
    monkeypatch.setattr(language_models, "check_causal", None)
    assert counted(str(SMALL["transformers"])).profile
    with pytest.raises(InputError, match="transformers refuses it: .*; with more than 1,000 weights it is not tried"):
        counted(str(MIXTURE))


def test_a_model_that_numbers_its_places_by_the_padding_can_predict_text():
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    assert counted(str(composed("transformers/roberta", "wiki-mini", 16, small | {"is_decoder": True}))).profile


def test_counted_costs_are_those_by_hand():
    """A vision transformer of one layer: width d, t = 16 patches of 7 x 7 and a class token, and ten classes."""
    d, t, patches, area, hidden, classes = 16, 17, 16, 49, 64, 10
    block = d * 3 * d + 3 * d + d * d + d + 2 * d * hidden + hidden + d + 4 * d
    parameters = area * d + d + t * d + d + block + 2 * d + d * classes + classes
    products = patches * area * d + t * (4 * d * d + 2 * d * hidden) + 2 * t * t * d + d * classes
    profile = counted(str(SMALL["timm"])).profile
    assert profile.parameters == parameters
    assert profile.flops == 2 * products
    assert (profile.sampled, profile.graded, profile.chunk, profile.tested) == (1000, 1000, 50, None)
    assert (profile.resident, profile.least) == (784, 1)


@pytest.mark.slow
def test_a_model_costs_what_the_same_registered_one_does():
    for name, model in {
        "wikitext103-gpt2": composed("transformers/gpt2", "wikitext-103"),
        "imagenet-resnet50": composed("torchvision/resnet50", "imagenet"),
    }.items():
        ours, theirs = counted(str(model)), registry.WORKLOADS[name]
        assert (ours.kind, ours.data) == (theirs.kind, theirs.data)
        assert ours.train_size == pytest.approx(theirs.train_size, rel=0.02)
        for fact in ("parameters", "flops", "sampled", "graded", "chunk", "tested", "resident"):
            assert getattr(ours.profile, fact) == getattr(theirs.profile, fact), (name, fact)
        assert ours.profile.activations == pytest.approx(theirs.profile.activations, rel=1e-3)


def test_a_model_is_counted_once(cache, monkeypatch):
    name = str(SMALL["torchvision"])
    assert workload_named(name).profile is None
    profile = counted(name).profile
    assert workload_named(name).profile == profile
    monkeypatch.setattr(profiles, "_found", {})
    assert workload_named(name).profile == profile  # from the file
    (kept,) = cache.glob("*.json")
    earlier = json.loads(kept.read_text())
    del earlier["norm"]
    for broken in ("", "[]", '{"parameters": "x"}', "{}", json.dumps(earlier), json.dumps(earlier | {"norm": 1})):
        kept.write_text(broken)
        monkeypatch.setattr(profiles, "_found", {})
        assert workload_named(name).profile is None
    assert counted(name).profile == profile
    assert workload_named(name).profile == profile


def test_costs_are_counted_without_a_cache_folder_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert counted(str(SMALL["torchvision"])).profile.parameters == 727_626


LARGE = {name for name, profile in profiles.COMMITTED.items() if profile.parameters > 1e6}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in profiles.COMMITTED if "/" in n],
)
def test_committed_costs_are_counted(name, monkeypatch):
    committed = profiles.COMMITTED[name]
    monkeypatch.delitem(profiles.COMMITTED, name)
    assert counted(name).profile == committed


def test_the_models_of_our_configs_are_planned_without_their_libraries():
    script = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from adasde.experiments import cost; from adasde.experiments.plan import plan\n"
        "from adasde.experiments.documents import merged\n"
        "for names in (['models'], ['gpu'], ['gpu', 'fashion'], ['paper']):\n"
        "    runs = plan(merged([f'workflow/config/{name}.yaml' for name in names])).runs.values()\n"
        "    assert any('/' in spec.workload for spec in runs if hasattr(spec, 'workload')), names\n"
        "    [cost.cost_of(spec) for spec in runs]\n"
        "print({'torch', 'timm', 'torchvision', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


# Data and training


def images(count):
    """Arrays of Fashion-MNIST's form with random pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count).remainder(10).to(torch.uint8)
    return {"train-images": pixels, "train-labels": labels, "test-images": pixels, "test-labels": labels}


def test_images_are_resized_and_grey_ones_repeated():
    tensors = images(8)
    same, larger, smaller, three = (
        ModelWorkload(model, tensors)
        for model in (
            composed("timm/resnet18", "fashion-mnist"), composed("timm/resnet18", "fashion-mnist", 56),
            composed("timm/resnet18", "fashion-mnist", 14), composed("torchvision/resnet18", "fashion-mnist", 28),
        )
    )  # fmt: skip
    pixels, labels = same.gather(torch.arange(8))
    assert pixels.shape == (8, 1, 28, 28)
    assert torch.equal(labels, tensors["train-labels"].long())
    assert larger.gather(torch.arange(8))[0].shape == (8, 1, 56, 56)
    halved = smaller.gather(torch.arange(8))[0]
    assert halved.shape == (8, 1, 14, 14)
    assert halved.mean().item() == pytest.approx(pixels.mean().item(), abs=0.02)  # antialiased: every pixel counts
    repeated = three.gather(torch.arange(8))[0]
    assert torch.equal(repeated, pixels.expand(-1, 3, -1, -1))
    assert [len(labels) for _, labels in larger.test] == [8]
    assert torch.equal(next(iter(larger.test))[0], larger.gather(torch.arange(8))[0])
    assert not larger.streamed
    assert ModelWorkload(composed("timm/resnet18", "fashion-mnist", 128), tensors).streamed


@pytest.mark.parametrize("library", SMALL)
def test_a_model_of_each_library_trains_with_adamw(library, spec, data_root, tmp_path):
    """Four steps, stopped after the second and resumed: the same rows, bit for bit."""
    name, size = str(SMALL[library]), 4
    optimizer = spec.document["optimizer"] | {"lr": 1e-3, "weight_decay": 0.1, "decoupled": True}
    own = {"batch_size": size, "samples": 4 * size, "evaluate": [2 * size, 4 * size], "noise": [], "tested": 20}
    spec = changed(spec, workload=name, optimizer=optimizer, horizon=4e-6, **own)
    task = load_workload(name, data_root)
    assert task.size == workload_named(name).train_size
    task.subset, task.graded = list(task.subset)[:1], []
    rows, _ = train(spec, task)
    until = (2 * size, tmp_path / "state")
    train(spec, task, until=until)
    again, _ = train(spec, task, earlier=tmp_path / "state")
    assert again == rows
    values = {(step, metric): value for _, step, _, metric, value in rows}
    assert values[4, "train_loss"] != values[0, "train_loss"]
    assert all(metric != "diverged" for _, metric in values)


def test_large_images_are_made_step_by_step_and_train_alike(spec, monkeypatch):
    own = {"batch_size": 4, "samples": 16, "evaluate": [8, 16], "noise": [], "tested": 8}
    spec = changed(spec, workload=str(SMALL["timm"]), horizon=4e-6, **own)
    gathered = ModelWorkload(SMALL["timm"], images(40))
    monkeypatch.setattr(vision_models, "LARGE", 1)
    streamed = ModelWorkload(SMALL["timm"], images(40))
    assert (gathered.streamed, streamed.streamed) == (False, True)
    assert train(spec, streamed)[0] == train(spec, gathered)[0]


def test_a_model_trains_on_imagenet(spec, root):
    """On a miniature of its archives, decoded to the model's size."""
    prepare("imagenet", root)
    model = composed("timm/vit_tiny_patch16_224", "imagenet", 32, VIT | {"patch_size": 16})
    own = {"batch_size": 4, "samples": 8, "evaluate": [8], "noise": [], "tested": 4}
    spec = changed(spec, workload=str(model), horizon=4e-6, **own)
    assert (workload_named(spec.workload).workers, spec.data) == (16, "imagenet")
    task = load_workload(spec.workload, root)
    rows, _ = train(spec, task)
    values = {(step, metric): value for _, step, _, metric, value in rows}
    assert values[0, "train_loss"] == pytest.approx(math.log(1000), rel=0.2)
    assert values[2, "train_loss"] != values[0, "train_loss"]


def test_a_last_layer_that_is_not_there_is_not_frozen(spec):
    spec = changed(spec, workload=str(SMALL["torchvision"]), frozen="last-layer")
    with pytest.raises(InputError, match="frozen = 'last-layer': the model has no linear layer; take none"):
        Run(spec, ModelWorkload(SMALL["torchvision"], images(40)))


def test_weights_decay_without_the_gradient(spec, data_root):
    """AdamW on a model by name: decoupled decay alone shrinks every weight by the same factor."""
    optimizer = spec.document["optimizer"] | {"lr": 1e-3, "weight_decay": 0.5, "decoupled": True}
    own = {"batch_size": 4, "samples": 4, "evaluate": [4], "noise": []}
    spec = changed(spec, workload=str(SMALL["timm"]), optimizer=optimizer, horizon=1e-6, **own)
    with torch.random.fork_rng():
        run = Run(spec, load_workload(spec.workload, data_root))
        before = [weight.detach().clone() for weight in run.trained]
        for weight in run.trained:
            weight.grad = torch.zeros_like(weight)
        run.optimizer.step()
    for weight, old in zip(run.trained, before, strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 1e-3 * 0.5))


def test_a_model_that_sees_later_tokens_is_refused(data_root, monkeypatch):
    """Also where its data are loaded, since large models are not built before."""
    model = language_models.build(SMALL["transformers"])
    monkeypatch.setattr(language_models, "build", lambda named: Blurred(model))
    with pytest.raises(InputError, match="sees the tokens that it should predict"):
        language_models.load(str(SMALL["transformers"]), load_arrays("wiki-mini", data_root))


class Blurred(torch.nn.Module):
    """A model whose scores at every place depend on all places."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        found = self.model(input_ids=input_ids)
        found.logits = found.logits + found.logits.mean(1, keepdim=True)
        return found


def test_the_config_of_models_names_them_by_mappings():
    document = yaml.safe_load((ROOT / "workflow/config/models.yaml").read_text())
    experiments = document["experiments"].values()
    assert {experiment["workload"]["model"].partition("/")[0] for experiment in experiments} == {"timm", "torchvision"}
    assert any(experiment["optimizer"].get("decoupled") for experiment in experiments)
