"""Pages of the package: its public names, the options of a config, workloads, data sets, and what commands print."""

import contextlib
import inspect
import io
import re
import sys
from importlib import import_module
from typing import Annotated, Union, get_args, get_origin

from tables import table

from adasde import cli
from adasde.experiments import config
from adasde.workloads import metrics
from adasde.workloads.data.registry import DATASETS
from adasde.workloads.registry import WORKLOADS

# Every public name of the package by topic; a name that is missing here is an error.
TOPICS = {
    "Hyperparameters and recipes": (
        "AdamHyperparameters", "RMSpropHyperparameters", "SGDHyperparameters", "Recipe", "Schedule", "scaled_steps",
    ),
    "Your training loop": (
        "rescale", "rescale_arguments", "branch", "BranchReport", "MicroBatchNoise", "NoiseMonitor", "trainer_callback",
        "lightning_callback", "BatchRamp", "InvariantAdam", "svag_loss", "minibatches_apart",
    ),
    "Errors and warnings": ("InputError", "ScalingWarning"),
}  # fmt: skip
# The public modules beside `adasde` itself.
PUBLIC = {
    "Theory": "adasde.sde",
    "Workloads": "adasde.workloads",
    "Metrics of a workload": "adasde.workloads.metrics",
}
# Public values, which have no docstring: type and meaning.
VALUES = {"WORKLOADS": ("dict[str, Entry]", "The registry: every workload's entry by its name.")}
# Options whose name and model say enough in the code.
MEANINGS = {
    "experiments": "experiments by name", "branches": "branches by name",
    "finetunings": "finetunings by name", "simulations": "simulations by name",
    "evaluate": "when test functions are measured", "study": "what is studied, as in the title",
    "optimizers": "adam, rmsprop or sgd, each with its hyperparameters or the constants of its SDE",
    "name": "the optimizer", "lr": "learning rate", "beta": "decay of the average of squared gradients",
    "beta1": "decay of the average of gradients", "beta2": "decay of the average of squared gradients",
    "eps": "number added to the denominator", "weight_decay": "weight decay",
}  # fmt: skip


def measured() -> str:
    """Return the test functions, from the glossary in the docstring of `adasde.workloads.metrics`."""
    entries = re.findall(r"^  ([a-z][\w<>]*(?:, \w+)*)\s+(.*(?:\n {6,}.*)*)", metrics.__doc__, re.M)
    rows = [(", ".join(f"`{name}`" for name in names.split(", ")), " ".join(words.split())) for names, words in entries]
    return table(("metric", "what it is"), rows)


def workloads() -> str:
    """Return the workloads, as the registry knows them."""
    rows = [
        (f"`{name}`", entry.title, f"`{entry.data}`", f"{entry.train_size:,}", f"{entry.profile.parameters:,}")
        for name, entry in WORKLOADS.items()
    ]
    return table(("workload", "what it is", "data set", "training examples", "trained weights"), rows)


def datasets() -> str:
    """Return the data sets, as the registry knows them."""
    rows = [
        (f"`{name}`", f"{d.train_size:,} {d.unit}", f"{d.test_size:,}", f"{d.download_bytes / 1e6:,.4g} MB", d.licence)
        for name, d in DATASETS.items()
    ]
    return table(("data set", "training", "test", "download", "licence"), rows)


def options() -> str:
    """Return the page of all options of a config, from the models that check it."""
    models = {
        "A config": config.Config, "An experiment": config.Experiment, "A branch": config.Branching,
        "A finetuning": config.Finetuning, "A workload by its model": config.ModelChoice,
        "optimizer: adam": config.Adam, "optimizer: rmsprop": config.RMSprop, "schedule": config.Schedule,
        "evaluate": config.Evaluate, "A simulation of the weak order": config.WeakOrder,
        "A simulation of SVAG's convergence": config.Convergence, "A simulation of the breakdown": config.Breakdown,
    }  # fmt: skip
    parts = [
        "# Config options\n\nKeys marked with * take a value with its source, `{value: 32, source: ours, note: why}`. "
        "The source is `paper`, `authors' code`, `authors' blog`, `secondary` or `ours`; the note is optional.\n"
    ]
    for title, model in models.items():
        rows = []
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else _short(field.default)
            rows.append((f"`{name}`{'*' * _sourced(field.annotation)}", default, field.description or MEANINGS[name]))
        parts.append(f"## {title}\n\n{inspect.getdoc(model)}\n\n{table(('key', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


def _sourced(annotation) -> bool:
    """Whether a key takes a value with its source; one that may be left out is a union with None."""
    if get_origin(annotation) in (Annotated, Union):
        return any(map(_sourced, get_args(annotation)))
    return isinstance(annotation, type) and issubclass(annotation, config.Sourced)


def _short(default) -> str:
    return "" if default is None or not isinstance(default, str | int | float | list) else f"`{default}`"


def printed(*arguments: str) -> str:
    """Return what a command of `adasde` prints."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            status = cli.main(list(arguments))
    except SystemExit as stop:  # after --help
        status = stop.code
    if status:
        sys.exit(f"docs/generate.py: adasde {' '.join(arguments)}: failed")
    return text.getvalue()


def directive(module, name: str) -> str:
    """Return the lines that have autodoc describe a public object."""
    found, place = getattr(module, name), f"{module.__name__}.{name}"
    if not callable(found):
        kind, meaning = VALUES[name]
        return f".. py:data:: {name}\n   :type: {kind}\n\n   {meaning}"
    if inspect.isclass(found) and not issubclass(found, Exception):
        # With what it inherits from bases of ours, not from torch's or Python's.
        foreign = [base.__name__ for base in found.__mro__ if not base.__module__.startswith("adasde")]
        return f".. autoclass:: {place}\n   :members:\n   :inherited-members: {', '.join(foreign)}"
    return f".. auto{'exception' if inspect.isclass(found) else 'function'}:: {place}"


def api() -> str:
    """Return the page that describes every public object from its docstring."""
    import adasde

    missing = set(adasde.__all__) - {name for names in TOPICS.values() for name in names}
    if missing:
        sys.exit(f"docs/generate.py: no topic for {', '.join(sorted(missing))}")
    sections = {title: (adasde, names) for title, names in TOPICS.items()}
    callbacks = import_module("adasde.scaling.callbacks")
    sections["What the callbacks are: adasde.scaling.callbacks"] = (callbacks, ["NoiseCallback"])
    for title, name in PUBLIC.items():
        module = import_module(name)
        sections[f"{title}: {name}"] = (module, module.__all__)
    parts = ["# API reference\n"]
    for title, (module, names) in sections.items():
        body = "\n\n".join(directive(module, name) for name in names)
        parts.append(f"## {title}\n\n```{{eval-rst}}\n.. currentmodule:: {module.__name__}\n\n{body}\n```\n")
    return "\n".join(parts)
