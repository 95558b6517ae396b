"""Registry of the workloads: name -> `Entry`. It does not import torch.

To add a workload, write a module with a function ``load(name, tensors, device)`` that returns a `base.Workload`, add an
entry here, and run `make cost-profiles` so that `adasde plan` knows what it costs. Training does not change.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adasde.common import InputError
from adasde.workloads.base import Workload
from adasde.workloads.data.registry import dataset_named, load_arrays

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CostProfile:
    """What a workload costs, known without torch. `make cost-profiles` counts it into cost_profiles.json."""

    parameters: int  # number of trained weights
    flops: float  # of one example's forward pass, two per multiply-add
    activations: float  # float32 bytes that this pass holds for the backward pass, with fused attention
    graded: int  # training examples whose gradient an evaluation takes
    chunk: int  # examples per gradient of these
    tested: int | None = None  # other examples that an evaluation tests; all test examples of the data set if None
    resident: int = 0  # bytes of an example that stay in a GPU's memory during the whole run
    moment: float = 0.0  # bytes per example that a step holds for a moment beside the activations, where they matter


@dataclass(frozen=True)
class Entry:
    """A registered workload: where it is made, and what can be known of it without torch."""

    title: str  # its name in figures
    data: str  # name of its data set
    kind: str  # vision or language
    module: str  # whose `load` makes it
    profile: CostProfile | None = None  # None if it was not counted
    examples: int | None = None  # training examples if the data set counts something else, such as tokens
    pretrained: str | None = None  # the workload whose models it fine-tunes
    workers: int = 0  # most processes that decode its examples; `load` is then given `workers` and the data's `folder`

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return self.examples or dataset_named(self.data).train_size

    @property
    def tested(self) -> int:
        """Number of examples that an evaluation tests."""
        return (self.profile and self.profile.tested) or dataset_named(self.data).test_size


def _entry(title: str, data: str, kind: str, module: str, **options: Any) -> Entry:
    return Entry(title, data, kind, f"adasde.workloads.{module}", **options)


def _entries() -> dict[str, Entry]:
    """Return the workloads, without what they cost."""
    small = {"cnn": "CNN", "resnet": "ResNet"}
    paper = {"vgg16": "VGG-16", "resnet56": "ResNet-56", "resnet50": "ResNet-50"}
    images = [
        ("fashion", "Fashion-MNIST", "fashion-mnist", small),
        ("cifar10", "CIFAR-10", "cifar-10", paper),
        ("fashion32", "framed Fashion-MNIST", "fashion-mnist", paper),
    ]
    glue = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B"}
    glue |= {"qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI", "rte": "RTE"}
    language, classified = ("language", "language"), ("language", "glue")
    return {
        **{
            f"{prefix}-{network}": _entry(f"{title} on {what}", data, "vision", "vision")
            for prefix, what, data, networks in images
            for network, title in networks.items()
        },
        "imagenet-resnet50": _entry("ResNet-50 on ImageNet", "imagenet", "vision", "imagenet", workers=16),
        "wiki-gpt2": _entry("GPT-2 on a Wikipedia extract", "wiki-mini", *language, examples=16_268),
        "wiki-roberta": _entry("RoBERTa on a Wikipedia extract", "wiki-mini", *language, examples=16_268),
        "wiki-articles": _entry(
            "articles of paragraphs, RoBERTa", "wiki-mini", *classified, examples=2_166, pretrained="wiki-roberta"
        ),
        "wikitext103-gpt2": _entry("GPT-2 on WikiText-103", "wikitext-103", *language, examples=115_000),
        "wikibooks-roberta": _entry("RoBERTa on Wiki+Books", "wiki-books", *language, examples=47_600_000),
        **{
            f"glue-{name}": _entry(
                f"GLUE {title}, RoBERTa", f"glue-{name}", *classified, pretrained="wikibooks-roberta"
            )
            for name, title in glue.items()
        },
    }


def _with_profiles(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    profiles = json.loads(files("adasde.workloads").joinpath("cost_profiles.json").read_text())
    return {
        name: replace(entry, profile=CostProfile(**profiles[name]) if name in profiles else None)
        for name, entry in entries.items()
    }


WORKLOADS = _with_profiles(_entries())


def workload_named(name: str) -> Entry:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in WORKLOADS:
        raise InputError(f"workload = {name!r}: must be one of {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def load_workload(
    name: str, root: str | Path, pretrained: Mapping[str, Any] | None = None, device: "torch.device | str" = "cpu"
) -> Workload:
    """Return a workload on its prepared data.

    Args:
        name: Name in the registry.
        root: Folder in which `prepare` made the folders of data sets.
        pretrained: Weights that its model starts from, by name, for a workload that fine-tunes.
        device: Device that it computes on.

    Raises:
        InputError: If the name is unknown, if the data are missing or altered, or if they hold another number of
            examples than the registry states.
    """
    entry = workload_named(name)
    options = {"pretrained": pretrained} if pretrained is not None else {}
    if entry.workers:
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        options |= {"folder": Path(root, entry.data), "workers": max(0, min(cores - 1, entry.workers))}
    workload = import_module(entry.module).load(name, load_arrays(entry.data, root), device=device, **options)
    if abs(workload.size / entry.train_size - 1.0) > dataset_named(entry.data).tolerance:
        raise InputError(
            f"{name}: {workload.size} training examples in {root}, but {entry.train_size} in the registry; "
            "the data were prepared by other versions of the libraries"
        )
    return workload
