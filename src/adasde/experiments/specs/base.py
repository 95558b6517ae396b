"""What specs of all kinds have, and the types of their numbers."""

from abc import ABC
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, model_validator

from adasde.common import InputError, canonical, digest
from adasde.experiments.fields import (
    MOST,
    Count,
    Model,
    Number,
    Positive,
    RunId,
    Whole,
)  # fmt: skip

# Raised by hand when a change of the code changes results. Every spec carries it, so all runs start anew.
RECIPE = 6

Seed = Annotated[int, Field(ge=0, le=MOST)]
Ell = Annotated[Number, Field(ge=1, le=1e6)]  # of a training run
Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Wholes = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Positives = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]


class Spec(Model, ABC):
    """What all kinds of runs have: the RECIPE that they follow, and an id derived from their parameters."""

    recipe: int
    run: RunId

    @property
    def document(self) -> dict[str, Any]:
        """The spec as plain values. Options that have their default are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @cached_property
    def canonical(self) -> str:
        """The spec as JSON with sorted keys: equal specs are equal strings."""
        return canonical(self.document)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest(self.canonical)

    @model_validator(mode="after")
    def _check_recipe(self) -> "Spec":
        if self.recipe != RECIPE:
            raise InputError(f"recipe = {self.recipe}: this version runs recipe {RECIPE}")
        return self
