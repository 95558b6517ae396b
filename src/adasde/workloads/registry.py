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
from typing import Any

from adasde.common import InputError
from adasde.workloads.base import Workload
from adasde.workloads.data.registry import dataset_named, load_arrays


@dataclass(frozen=True)
class CostProfile:
    """What a workload costs, known without torch. `make cost-profiles` counts it into cost_profiles.json.

    Attributes:
        parameters: Number of trained weights.
        flops: FLOPs of one example's forward pass, two per multiply-add.
        activations: float32 bytes that this pass holds for the backward pass, with fused attention.
        graded: Number of training examples whose gradient an evaluation takes.
        chunk: Examples per gradient of these.
        tested: Number of other examples that an evaluation tests; all test examples of the data set if None.
        resident: Bytes of an example that stay in a GPU's memory during the whole run.
        moment: Bytes per example that a step holds for a moment beside the activations, where they matter.
    """

    parameters: int
    flops: float
    activations: float
    graded: int
    chunk: int
    tested: int | None = None
    resident: int = 0
    moment: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A registered workload.

    Attributes:
        title: Name in figures.
        data: Name of its data set.
        kind: ``vision`` or ``language``.
        module: Module whose ``load`` makes it, imported when it is needed.
        profile: What it costs; None if that was not counted.
        examples: Number of training examples where that is not the data set's own, such as sequences of tokens. It is
            approximate for data sets that are too large to be prepared here.
        pretrained: The workload whose models it fine-tunes.
        workers: Largest number of processes that decode its examples, if these are files. ``load`` is then given
            ``workers``, as many as this machine has cores for, and the data set's ``folder``.
    """

    title: str
    data: str
    kind: str
    module: str
    profile: CostProfile | None = None
    examples: int | None = None
    pretrained: str | None = None
    workers: int = 0

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
    language = ("language", "language")
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
            "articles of paragraphs, RoBERTa",
            "wiki-mini",
            "language",
            "glue",
            examples=2_166,
            pretrained="wiki-roberta",
        ),
        "wikitext103-gpt2": _entry("GPT-2 on WikiText-103", "wikitext-103", *language, examples=115_000),
        "wikibooks-roberta": _entry("RoBERTa on Wiki+Books", "wiki-books", *language, examples=47_600_000),
        **{
            f"glue-{name}": _entry(
                f"GLUE {title}, RoBERTa", f"glue-{name}", "language", "glue", pretrained="wikibooks-roberta"
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


def load_workload(name: str, root: str | Path, pretrained: Mapping[str, Any] | None = None, device="cpu") -> Workload:
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
