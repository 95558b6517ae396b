"""Registry of the workloads: name -> `Entry`. It does not import torch.

To add a workload, write a module with a function ``load(name, tensors, device)`` that returns a `base.Workload`, add an
entry here, and run `make cost-profiles` so that `adasde plan` knows what it costs. Training does not change.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adasde.common import InputError, cores, not_installed
from adasde.workloads import model_names, profiles
from adasde.workloads.base import Workload
from adasde.workloads.data.registry import dataset_named, load_arrays
from adasde.workloads.profiles import CostProfile

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Entry:
    """A registered workload: where it is made, and what can be known of it without torch."""

    title: str  #: its name in figures
    data: str  #: name of its data set
    kind: Literal["vision", "language"]  #: what it is about
    module: str  #: whose `load` makes it
    profile: CostProfile | None = None  #: None if it was not counted
    examples: int | None = None  #: training examples if the data set counts something else, such as tokens
    pretrained: str | None = None  #: the workload whose models it fine-tunes
    workers: int = 0  #: most processes that decode its examples; `load` is then given `workers` and the data's `folder`
    model: model_names.ModelName | None = None  #: a model that a config names

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return self.examples or dataset_named(self.data).train_size

    @property
    def tested(self) -> int:
        """Number of examples that an evaluation tests."""
        return (self.profile and self.profile.tested) or dataset_named(self.data).test_size


WORKERS = 16  # processes that decode ImageNet, at most


def _vision(title: str, data: str, module: str = "vision", workers: int = 0) -> Entry:
    return Entry(title, data, "vision", f"adasde.workloads.{module}", workers=workers)


def _language(title: str, data: str, examples: int) -> Entry:
    return Entry(title, data, "language", "adasde.workloads.language", examples=examples)


def _classified(title: str, data: str, pretrained: str, examples: int | None = None) -> Entry:
    return Entry(f"{title}, RoBERTa", data, "language", "adasde.workloads.glue", None, examples, pretrained)


WORKLOADS = {
    "fashion-cnn": _vision("CNN on Fashion-MNIST", "fashion-mnist"),
    "fashion-resnet": _vision("ResNet on Fashion-MNIST", "fashion-mnist"),
    "cifar10-vgg16": _vision("VGG-16 on CIFAR-10", "cifar-10"),
    "cifar10-resnet56": _vision("ResNet-56 on CIFAR-10", "cifar-10"),
    "cifar10-resnet50": _vision("ResNet-50 on CIFAR-10", "cifar-10"),
    "fashion32-vgg16": _vision("VGG-16 on framed Fashion-MNIST", "fashion-mnist"),
    "fashion32-resnet56": _vision("ResNet-56 on framed Fashion-MNIST", "fashion-mnist"),
    "fashion32-resnet50": _vision("ResNet-50 on framed Fashion-MNIST", "fashion-mnist"),
    "imagenet-resnet50": _vision("ResNet-50 on ImageNet", "imagenet", "imagenet", workers=WORKERS),
    "wiki-gpt2": _language("GPT-2 on a Wikipedia extract", "wiki-mini", 16_268),
    "wiki-roberta": _language("RoBERTa on a Wikipedia extract", "wiki-mini", 16_268),
    "wiki-articles": _classified("articles of paragraphs", "wiki-mini", "wiki-roberta", 2_166),
    # The examples of these are about right, as their data are too large to be here.
    "wikitext103-gpt2": _language("GPT-2 on WikiText-103", "wikitext-103", 115_000),
    "wikibooks-roberta": _language("RoBERTa on Wiki+Books", "wiki-books", 47_600_000),
    "glue-cola": _classified("GLUE CoLA", "glue-cola", "wikibooks-roberta"),
    "glue-sst2": _classified("GLUE SST-2", "glue-sst2", "wikibooks-roberta"),
    "glue-mrpc": _classified("GLUE MRPC", "glue-mrpc", "wikibooks-roberta"),
    "glue-stsb": _classified("GLUE STS-B", "glue-stsb", "wikibooks-roberta"),
    "glue-qqp": _classified("GLUE QQP", "glue-qqp", "wikibooks-roberta"),
    "glue-mnli": _classified("GLUE MNLI", "glue-mnli", "wikibooks-roberta"),
    "glue-qnli": _classified("GLUE QNLI", "glue-qnli", "wikibooks-roberta"),
    "glue-rte": _classified("GLUE RTE", "glue-rte", "wikibooks-roberta"),
}
WORKLOADS |= {name: replace(entry, profile=profiles.COMMITTED.get(name)) for name, entry in WORKLOADS.items()}


def workload_named(name: str) -> Entry:
    """Return the entry of a workload.

    Args:
        name: Name in the registry, or a model, a data set and options as `ModelName` writes them.

    Returns:
        The entry. Its profile is None for a model that was not counted yet, which `counted` does.

    Raises:
        InputError: If the name is unknown; the message lists the known ones.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    if "/" not in name:
        raise InputError(f"workload = {name!r}: must be one of {', '.join(WORKLOADS)}, or name a model")
    model = model_names.parsed(name)
    kind, size = model.learned.kind, dataset_named(model.data).train_size
    return Entry(
        model.title,
        model.data,
        kind,
        f"adasde.workloads.{kind}_models",
        profiles.known(name, model.library),
        examples=(size - 1) // model.size if kind == "language" else None,
        workers=WORKERS if model.data == "imagenet" else 0,
        model=model,
    )


def counted(name: str) -> Entry:
    """Return the entry of a workload with its profile. A model that a config names is built and counted if need be.

    Args:
        name: As for `workload_named`.

    Returns:
        The entry.

    Raises:
        InputError: If the name or one of its options is unknown, or the model refuses the size of the data.
    """
    entry = workload_named(name)
    if entry.profile is None and entry.model is not None:
        check_installed([name])
        profile = import_module("adasde.workloads.counting").count(entry.model)
        profiles.keep(name, entry.model.library, profile)
        entry = replace(entry, profile=profile)
    return entry


def check_installed(names: Iterable[str]) -> None:
    """Raise an InputError if one of these workloads has a model of a library that is not installed."""
    for model in filter(None, (workload_named(name).model for name in dict.fromkeys(names))):
        if find_spec(model.library) is None:
            raise InputError(f"workload = {model}: {not_installed(ModuleNotFoundError(name=model.library))}")


def load_workload(
    name: str, root: str | Path, pretrained: Mapping[str, Any] | None = None, device: "torch.device | str" = "cpu"
) -> Workload:
    """Return a workload on its prepared data.

    Args:
        name: As for `workload_named`.
        root: Folder in which `prepare` made the folders of data sets.
        pretrained: Weights that its model starts from, by name, for a workload that fine-tunes; default none.
        device: Device that it computes on; default the CPU.

    Returns:
        The workload.

    Raises:
        InputError: If the name is unknown, if the data are missing or altered, or if they hold another number of
            examples than the registry states.
    """
    entry = workload_named(name)
    options = {"pretrained": pretrained} if pretrained is not None else {}
    if entry.workers:
        share = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        options |= {"folder": Path(root, entry.data), "workers": max(0, min(share - 1, entry.workers))}
    workload = import_module(entry.module).load(name, load_arrays(entry.data, root), device=device, **options)
    if abs(workload.size / entry.train_size - 1.0) > dataset_named(entry.data).tolerance:
        raise InputError(
            f"{name}: {workload.size} training examples in {root}, but {entry.train_size} in the registry; "
            "the data were prepared by other versions of the libraries"
        )
    return workload
