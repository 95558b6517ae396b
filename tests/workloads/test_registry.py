"""The registry: every entry is made by its module, costs what is counted, and has as many examples as it states."""

from dataclasses import replace
from importlib import import_module

import pytest

from adasde.common import InputError
from adasde.workloads import Workload
from adasde.workloads.data.registry import DATASETS, dataset_named
from adasde.workloads.registry import WORKLOADS, load_workload, workload_named

SMALL = ("fashion-cnn", "fashion-resnet", "wiki-gpt2", "wiki-roberta", "wiki-articles")


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_has_as_many_examples_as_the_registry_states(name, data_root):
    workload = load_workload(name, data_root)
    assert isinstance(workload, Workload)
    assert workload.size == workload_named(name).train_size
    assert not workload.streamed


def test_another_number_of_examples_is_refused(data_root, monkeypatch):
    monkeypatch.setitem(WORKLOADS, "wiki-gpt2", replace(WORKLOADS["wiki-gpt2"], examples=10))
    with pytest.raises(InputError, match="wiki-gpt2: 16268 training examples in .*, but 10 in the registry"):
        load_workload("wiki-gpt2", data_root)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="workload = 'wiki-article': must be one of fashion-cnn, fashion-resnet, "):
        workload_named("wiki-article")


def test_every_entry_names_a_data_set_a_module_and_what_it_fine_tunes():
    for name, entry in WORKLOADS.items():
        assert dataset_named(entry.data) is DATASETS[entry.data]
        assert callable(import_module(entry.module).load), name
        assert entry.kind in ("vision", "language")
        assert entry.pretrained is None or entry.pretrained in WORKLOADS
