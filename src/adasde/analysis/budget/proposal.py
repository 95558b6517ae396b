"""What of a config is kept, and in which order more of it is bought."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from adasde.analysis.budget.prices import SHARES, Cell, Priced, Tuning


@dataclass(frozen=True)
class Proposal:
    """What is kept: cells by experiment, which part of its epochs each of these runs, and fine-tunings."""

    priced: Mapping[str, Mapping[float, Priced]]  # by name and part of the epochs
    tunings: Mapping[str, Tuning]
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by experiment, their names
    shares: Mapping[str, float] = field(default_factory=dict)
    tuned: tuple[str, ...] = ()

    def of(self, name: str) -> Priced:
        """An experiment at its part of the epochs: the one that is kept, or else the smallest."""
        return self.priced[name][self.shares.get(name, min(self.priced[name]))]

    def kept(self, name: str) -> list[Cell]:
        """The cells of an experiment that are kept."""
        return [cell for cell in self.of(name).cells if cell.name in self.cells.get(name, ())]

    def seeds(self, name: str) -> int:
        """Seeds of an experiment: what its most demanding cell needs."""
        return max(cell.seeds or 0 for cell in self.kept(name))

    @property
    def parents(self) -> list[str]:
        """Experiments of which a baseline is kept only because branches start from it."""
        found = [self.of(name).parent for name in self.cells]
        return list(dict.fromkeys(name for name in found if name and name not in self.cells))

    def hours_of(self, name: str) -> float:
        """Device-hours of an experiment."""
        return self.of(name).hours(self.kept(name), self.seeds(name))

    def models(self, name: str) -> int:
        """Models that an experiment leaves to be fine-tuned: a seed each of its baseline and of larger batches."""
        return (1 + sum(cell.rule == "sqrt" for cell in self.kept(name))) * self.seeds(name)

    def tuning_hours(self, name: str) -> float:
        """Device-hours of a fine-tuning; never below what the planner gives for it, which starts fewer jobs."""
        own = self.tunings[name]
        return own.hours * (own.seeds * self.models(own.pretrained) + own.scratch)

    @cached_property
    def hours(self) -> float:
        """Device-hours of all that is kept."""
        parents = sum(self.of(name).hours((), 1) for name in self.parents)
        return sum(map(self.hours_of, self.cells)) + parents + sum(map(self.tuning_hours, self.tuned))

    def worth(self, name: str) -> float:
        """What the kept cells of an experiment are worth, and its fine-tunings, each as much as one more cell."""
        number = len(self.cells.get(name, ())) + sum(self.tunings[tuned].pretrained == name for tuned in self.tuned)
        return math.sqrt(self.shares.get(name, 0.0)) * sum(1 / place for place in range(1, number + 1))

    def steps(self) -> Iterator["Step"]:
        """Yield every way to keep more: a cell, twice the epochs of an experiment, or a fine-tuning of one."""
        for name, shares in self.priced.items():
            share = self.shares.get(name, min(shares))
            at = {**self.shares, name: share}
            for group in self.of(name).groups:
                more = tuple(cell.name for cell in group if cell.name not in self.cells.get(name, ()))
                if more and all(cell.seeds for cell in group):
                    cells = {**self.cells, name: (*self.cells.get(name, ()), *more)}
                    words = "" if share == 1 else f" at {SHARES[share]} of its epochs"
                    yield Step(f"{more[0]}{words}", name, self, replace(self, cells=cells, shares=at))
            if name in self.cells and 2 * share in shares:
                words = f"{name} at {SHARES[2 * share]} of its epochs"
                yield Step(words, name, self, replace(self, shares={**at, name: 2 * share}))
        for name, tuning in self.tunings.items():
            if name not in self.tuned and tuning.pretrained in self.cells:
                words = f"{name} of {tuning.pretrained}"
                yield Step(words, tuning.pretrained, self, replace(self, tuned=(*self.tuned, name)))


@dataclass(frozen=True)
class Step:
    """One step from a proposal to the next."""

    words: str
    experiment: str
    before: Proposal
    after: Proposal

    @property
    def hours(self) -> float:
        """Hours that it takes."""
        return self.after.hours - self.before.hours

    @property
    def price(self) -> float:
        """Hours for its worth."""
        return self.hours / (self.after.worth(self.experiment) - self.before.worth(self.experiment))


def in_order(start: Proposal) -> Iterator[Step]:
    """Yield all steps from a proposal on, the one with the lowest price first; of an empty one, the shortest."""
    kept = start
    while step := min(kept.steps(), key=lambda step: step.price if step.before.cells else step.hours, default=None):
        yield step
        kept = step.after


def bought(start: Proposal, hours: float) -> tuple[Proposal, Step | None]:
    """Return the last proposal that fits, and the next step, which does not; None if there is nothing more."""
    kept = start
    for step in in_order(start):
        if step.after.hours > hours:
            return kept, step
        kept = step.after
    return kept, None
