"""What the registry says of costs is what torch counts: `make cost-profiles` writes it."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from count_costs import counted, forward, made_up

from adasde.experiments import cost
from adasde.workloads.data.registry import dataset_named
from adasde.workloads.registry import WORKLOADS, load_workload

LARGE = [name for name, entry in WORKLOADS.items() if entry.data not in ("fashion-mnist", "wiki-mini")]
LARGE += [name for name in WORKLOADS if name.startswith("fashion32")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in WORKLOADS])
def test_profiles_are_what_torch_counts(name, data_root):
    assert WORKLOADS[name].profile == counted(name, data_root)


def test_data_sets_take_the_bytes_that_are_said(data_root):
    for name in ("fashion-mnist", "wiki-mini"):
        found = sum(path.stat().st_size for path in (data_root / name).glob("*.npy"))
        assert dataset_named(name).prepared_bytes == pytest.approx(found, rel=0.02)


def test_an_evaluation_tests_as_many_texts_as_the_profile_says(data_root):
    articles = load_workload("wiki-articles", data_root)
    assert sum(len(labels) for _, labels in articles.test) == WORKLOADS["wiki-articles"].tested


@pytest.mark.slow
def test_activations_of_bfloat16_are_the_share_that_is_said():
    def held(name, layers=None):
        workload = import_module(WORKLOADS[name].module).load(name, made_up(name))
        if layers:
            workload.dimensions = replace(workload.dimensions, layers=layers)
        model = workload.model().train()
        return forward(workload, model, 2, "cpu")[1] - forward(workload, model, 1, "cpu")[1]

    def share(bytes_):
        before = bytes_()
        with torch.autocast("cpu", torch.bfloat16):
            return bytes_() / before

    def large():  # what the embeddings and the head hold, and 24 layers as one that is added
        first, both = held("glue-cola", 1), held("glue-cola", 2)
        return first + 23 * (both - first)

    assert cost.BF16["vision"] == pytest.approx(share(lambda: held("fashion-resnet")), abs=0.01)
    assert cost.BF16["language"] == pytest.approx(share(large), abs=0.01)
