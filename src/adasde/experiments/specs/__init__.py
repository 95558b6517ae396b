"""Specs: what a run computes, every number resolved.

A run is a `Training`, a `Branch`, a `Finetune` or a `Simulation`. A spec checks itself when it is made. Its canonical
JSON, and so its hash, tells runs, checkpoints and weights apart; both stay the same as long as RECIPE does.
"""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter

from adasde.experiments.fields import validated
from adasde.experiments.specs.base import RECIPE, Spec
from adasde.experiments.specs.simulation import Breakdown, Convergence, OnSamples, Simulation, WeakOrder
from adasde.experiments.specs.training import Branch, BranchPoint, Finetune, Parent, Trained, Training

__all__ = [
    "RECIPE",
    "AnySpec",
    "Branch",
    "BranchPoint",
    "Breakdown",
    "Convergence",
    "Finetune",
    "OnSamples",
    "Parent",
    "Simulation",
    "Spec",
    "Trained",
    "Training",
    "WeakOrder",
    "spec_of",
]

AnySpec = Training | Branch | Finetune | WeakOrder | Convergence | Breakdown


def _kind_of(document: Any) -> str:
    """Tell the kind of a spec from its JSON, which has no key for it: the one place where that is done."""
    if not isinstance(document, dict):
        return "a training"
    if "study" in document:
        return "a simulation"
    parent = document.get("parent")
    if isinstance(parent, dict) and "samples" in parent:
        return "a branch"
    return "a finetune" if parent or document.get("rule") in ("finetune", "scratch") else "a training"


_SIMULATION = Annotated[WeakOrder | Convergence | Breakdown, Field(discriminator="study")]
_SPEC: TypeAdapter[AnySpec] = TypeAdapter(
    Annotated[
        Annotated[Training, Tag("a training")]
        | Annotated[Branch, Tag("a branch")]
        | Annotated[Finetune, Tag("a finetune")]
        | Annotated[_SIMULATION, Tag("a simulation")],
        Discriminator(_kind_of),
    ]
)


def spec_of(document: object) -> AnySpec:
    """Return the spec that a JSON document holds; InputError, in one line, names the field that is wrong."""
    return validated(_SPEC, document, "simulation" if _kind_of(document) == "a simulation" else "run")
