"""Tasks: data, model, loss and test functions under one name. The registry imports no torch.

A task is an object with
  ``size``                 number of training examples
  ``model()``              a new torch module, its weights drawn from torch's global generator
  ``device``               the torch.device on which its model and its batches are
  ``noise(count, generator)``
                           random numbers for what is done to that many examples, such as masks or crops: a tuple of
                           tensors of that length, from ``generator``, or torch's global one; empty if nothing is done
  ``gather(indices, *noise)``
                           the training examples at ``indices`` as a batch, a tuple of tensors of that length
  ``loss(model, *batch, weights=None)``
                           mean loss of a minibatch, a scalar tensor; with weights, a tensor of one number per example,
                           the sum of the weights times the examples' losses: what SVAG needs, and nothing else
  ``measure(model, sigma, eps)``  test functions of the current weights: metric name -> float; for predictions from
                           the gradient's noise it is told the run's noise scale sigma = 1 / sqrt(batch size) and eps
and is made by ``load(name, tensors, device)`` of its module from the arrays of its data set. A task whose examples take
long to make has, in place of ``gather``, ``stream(draws)``: it makes of an endless iterator over (indices, *noise) one
over batches, ahead of time. A new task is one entry here and one module with that function; train.py does not change.
"""

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from adasde.common import InputError
from adasde.workloads.data.registry import Corpus, dataset_named, load_arrays

# Of a data set's size: those that are made here are known exactly but for other versions of the libraries, and those
# that are too large to be here only about.
TOLERANCE, GUESSED = 0.02, 0.3


@dataclass(frozen=True)
class CostProfile:
    """What a task costs, without torch: see cost.py. tests/test_cost.py counts it with torch.

    ``parameters`` are trained weights; ``flops`` those of one example's forward pass, two per multiply-add;
    ``activations`` the float32 bytes that this holds for the backward pass, with fused attention, and ``moment`` those
    that a step holds beyond for a moment, where they are many; ``resident`` bytes of an example stay in a GPU's memory
    all along. An evaluation takes the gradient of ``graded`` training examples,
    ``chunk`` at a time, and tests ``tested`` others: all that the data set has for it, if None.
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
    """Where a task is made and which data set it learns; ``title`` is its name in figures, ``facts`` what it costs.

    ``examples`` is the number of training examples where that is not the data set's own: of sequences of tokens, or of
    texts to classify. It is about right for the data sets that are too large to be here. ``pretrained`` is the task
    whose models it fine-tunes. With ``workers`` its examples are files, which up to so many processes decode: ``load``
    of its module is told how many this machine has cores for, and the ``folder`` of the data set.
    """

    title: str
    data: str
    module: str
    facts: CostProfile | None = None
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
        return self.facts.tested or dataset_named(self.data).test_size

    @property
    def kind(self) -> str:
        """What it is about: vision or language."""
        return "vision" if self.module.endswith((".vision", ".imagenet")) else "language"


_IMAGES = {"graded": 1000, "chunk": 50}
_SEQUENCES = {"graded": 64, "chunk": 4, "tested": 128}


def _classifier(classes):
    """Facts of RoBERTa-large with that many outputs, on 128 tokens."""
    outputs = {"parameters": 354_966_528 + 1025 * classes, "flops": 78.92e9, "activations": 227.8e6}
    return CostProfile(**outputs, graded=64, chunk=4, resident=1032)


WORKLOADS = {
    "fashion-cnn": Entry(
        "CNN on Fashion-MNIST",
        "fashion-mnist",
        "adasde.workloads.vision",
        CostProfile(parameters=20_746, flops=639_744, activations=22_000, resident=784, **_IMAGES),
    ),
    "fashion-resnet": Entry(
        "ResNet on Fashion-MNIST",
        "fashion-mnist",
        "adasde.workloads.vision",
        CostProfile(parameters=18_626, flops=838_848, activations=41_780, resident=784, **_IMAGES),
    ),
    **{
        f"{images}-{network}": Entry(f"{title} on {of}", data, "adasde.workloads.vision", facts)
        for images, of, data in (
            ("cifar10", "CIFAR-10", "cifar-10"),
            ("fashion32", "framed Fashion-MNIST", "fashion-mnist"),
        )
        for network, title, facts in (
            (
                "vgg16",
                "VGG-16",
                CostProfile(parameters=14_728_266, flops=626.4e6, activations=2.599e6, resident=3072, **_IMAGES),
            ),
            (
                "resnet56",
                "ResNet-56",
                CostProfile(parameters=853_018, flops=251.0e6, activations=4.272e6, resident=3072, **_IMAGES),
            ),
            (
                "resnet50",
                "ResNet-50",
                CostProfile(parameters=23_520_842, flops=2.596e9, activations=25.51e6, resident=3072, **_IMAGES),
            ),
        )
    },
    "imagenet-resnet50": Entry(
        "ResNet-50 on ImageNet",
        "imagenet",
        "adasde.workloads.imagenet",
        CostProfile(parameters=25_557_032, flops=8.178e9, activations=85.91e6, **_IMAGES),
        workers=16,
    ),
    "wiki-gpt2": Entry(
        "GPT-2 on a Wikipedia extract",
        "wiki-mini",
        "adasde.workloads.language",
        CostProfile(parameters=169_728, flops=23.07e6, activations=1.217e6, **_SEQUENCES),
        16_268,
    ),
    "wiki-roberta": Entry(
        "RoBERTa on a Wikipedia extract",
        "wiki-mini",
        "adasde.workloads.language",
        CostProfile(parameters=125_376, flops=11.22e6, activations=441_600, **_SEQUENCES),
        16_268,
    ),
    "wiki-articles": Entry(
        "articles of paragraphs, RoBERTa",
        "wiki-mini",
        "adasde.workloads.glue",
        CostProfile(
            parameters=127_604, flops=7.618e6, activations=308_300, graded=64, chunk=4, tested=1053, resident=536
        ),
        2_166,
        "wiki-roberta",
    ),
    "wikitext103-gpt2": Entry(
        "GPT-2 on WikiText-103",
        "wikitext-103",
        "adasde.workloads.language",
        # The logits of 50,257 tokens at 1,024 places, two and a half times in float32 (measured on an H100).
        CostProfile(parameters=124_439_808, flops=291.6e9, activations=1.349e9, moment=0.515e9, **_SEQUENCES),
        115_000,
    ),
    "wikibooks-roberta": Entry(
        "RoBERTa on Wiki+Books",
        "wiki-books",
        "adasde.workloads.language",
        CostProfile(parameters=355_018_841, flops=80.92e9, activations=232.4e6, **_SEQUENCES),
        47_600_000,
    ),
} | {
    f"glue-{name}": Entry(
        f"GLUE {title}, RoBERTa",
        f"glue-{name}",
        "adasde.workloads.glue",
        _classifier(classes),
        pretrained="wikibooks-roberta",
    )
    for name, title, classes in (
        ("cola", "CoLA", 2),
        ("sst2", "SST-2", 2),
        ("mrpc", "MRPC", 2),
        ("stsb", "STS-B", 1),
        ("qqp", "QQP", 2),
        ("mnli", "MNLI", 3),
        ("qnli", "QNLI", 2),
        ("rte", "RTE", 2),
    )
}


def workload_named(name: str) -> Entry:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in WORKLOADS:
        raise InputError(f"task = {name!r}: must be one of {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def load_workload(name: str, root, pretrained=None, device="cpu"):
    """Return the task called ``name`` on its prepared data under ``root``, computing on ``device``.

    ``pretrained`` are weights that its model starts from, by name. InputError if the data hold another number of
    examples than the registry says.
    """
    entry = workload_named(name)
    options = {"pretrained": pretrained} if pretrained is not None else {}
    if entry.workers:
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        options |= {"folder": Path(root, entry.data), "workers": max(0, min(cores - 1, entry.workers))}
    task = import_module(entry.module).load(name, load_arrays(entry.data, root), device=device, **options)
    about = isinstance(dataset_named(entry.data), Corpus)
    if abs(task.size / entry.train_size - 1.0) > (GUESSED if about else TOLERANCE):
        raise InputError(
            f"{name}: {task.size} training examples in {root}, but {entry.train_size} in the registry; "
            "the data were prepared by other versions of the libraries"
        )
    return task
