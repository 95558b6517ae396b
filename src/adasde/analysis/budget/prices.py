"""What the cells of a config cost, and how many seeds decide them."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from adasde.analysis.claims.base import WORDS
from adasde.analysis.claims.spreads import Spread, pooled, read_spreads
from adasde.analysis.claims.trajectory import RELATIVES
from adasde.analysis.statistics import POWER, Sample
from adasde.common import InputError
from adasde.experiments.config import Branching, Config, Experiment
from adasde.experiments.cost import START, cost_of
from adasde.experiments.jobs import Plan
from adasde.experiments.plan import plan
from adasde.experiments.specs import Finetune, Training

MOST = 20  # seeds of a cell (ours); one that needs more is given up
SHARES = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "all"}  # of an experiment's epochs
RUNS = 50  # of a job at least, if it is an experiment: its specs would else be too long for a command line


@dataclass(frozen=True)
class Cell:
    """One experiment at one rule and level: hours of one seed without the start of jobs, and what decides it.

    ``runs`` is the number of runs of a seed, more than one if a branching does several things to the second moment.
    ``spreads`` are those of its test functions, in tolerances, and ``basis`` is where they were measured. ``seeds`` is
    the least number that decides every one of its claims, None if that would be more than `MOST`.
    """

    experiment: str
    rule: str
    level: float
    runs: int
    hours: float
    spreads: tuple[tuple[str, float], ...]
    basis: str
    seeds: int | None

    @cached_property
    def name(self) -> str:
        """Its name, as in the ids of runs."""
        return f"{self.experiment}.{self.rule}.{'l' if self.rule == 'svag' else 'k'}{self.level:g}"

    @property
    def claims(self) -> int:
        """Number of claims on it: one per test function, or one on all of them where it is a rival."""
        related = self.rule in ("sqrt", "svag", *(relative.rule for relative in RELATIVES))
        return len(self.spreads) if related else 1

    def powers(self, seeds: int) -> dict[str, float]:
        """Power of the claims by test function."""
        return {metric: power(spread, seeds, self.rule != "svag") for metric, spread in self.spreads}


@dataclass(frozen=True)
class Priced:
    """An experiment as the budget sees it: hours of a job's start and of one baseline, its cells, and its parent.

    ``groups`` are cells that are kept together. ``jobs`` is what one job runs, as in the config.
    """

    start: float
    baseline: float
    cells: tuple[Cell, ...]
    groups: tuple[tuple[Cell, ...], ...]
    jobs: str
    parent: str | None = None

    def hours(self, kept: Sequence[Cell], seeds: int) -> float:
        """Device-hours of the baseline and of these cells; never below what the planner gives for them."""
        cells = 1 + sum(cell.runs for cell in kept)
        starts = {"run": seeds * cells, "cell": cells, "experiment": 2 + seeds * cells // RUNS}[self.jobs]
        if self.parent:
            starts += 1  # the job that makes the state
        return self.start * starts + seeds * (self.baseline + sum(cell.hours for cell in kept))


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning as the budget sees it: hours of one run with the start of a job, and how many runs there are.

    These are ``seeds`` per model that ``pretrained`` leaves, and ``scratch`` from new weights.
    """

    pretrained: str
    seeds: int
    scratch: int
    hours: float


@cache
def power(spread: float, seeds: int, paired: bool) -> float:
    """Probability that a gap of 0 is shown to be within its tolerance, as `Sample.power` has it.

    Args:
        spread: Standard deviation of the gap of one seed, in tolerances.
        seeds: Number of seeds, at least 2.
        paired: Whether a gap is that of a pair of runs, or else of two independent ones.
    """
    return Sample.single(spread, seeds, paired).power(1.0)


def place_of(spec: Training) -> tuple[str, float]:
    """Rule and level of a run."""
    return spec.rule, float(spec.ell if spec.rule == "svag" else spec.kappa)


def priced(document: Any, config: Config, device: str | None) -> dict[str, dict[float, Priced]]:
    """Return what each experiment and branching costs, by its name and the part of its epochs that it runs."""
    spreads, branched = read_spreads(), {branching.parent for branching in config.branches.values()}
    found: dict[str, dict[float, Priced]] = {}
    for name in (*config.experiments, *config.branches):
        for share in SHARES:
            if share == 1 or name not in branched:
                with suppress(InputError) if share < 1 else nullcontext():  # too few epochs for its evaluations
                    alone = plan(_alone(document, config, name, share))
                    found.setdefault(name, {})[share] = _priced_alone(alone, config, name, spreads, device)
    return found


def tunings(whole: Plan, config: Config, device: str | None) -> dict[str, Tuning]:
    """Return what each fine-tuning costs, by its name."""
    found = {}
    for name, content in config.finetunings.items():
        spec = next(s for s in whole.runs.values() if isinstance(s, Finetune) and s.experiment == name)
        cost = cost_of(spec, device)
        hours = cost.hours + START[spec.kind] * cost.processes / 3600
        found[name] = Tuning(content.pretrained, content.seeds, content.scratch, hours)
    return found


def _alone(document: Any, config: Config, name: str, share: float) -> dict[str, Any]:
    """Return a config with one seed of one experiment, at a part of its epochs, and of the parent of a branching."""
    section = "branches" if name in config.branches else "experiments"
    kept, once = config.branches[name].parent if name in config.branches else name, {"seeds": given(1, "")}
    own = {**document[section][name], **once, **({"epochs": epochs_at(config, name, share)} if share < 1 else {})}
    nothing: dict[str, Any] = {"figures": [], "branches": {}, "finetunings": {}, "simulations": {}}
    part = {**document, **nothing, "experiments": {kept: {**document["experiments"][kept], **once}}}
    alone = {**part, section: {**part[section], name: own}}
    for content in (alone["experiments"][kept], own):
        content.pop("more_seeds", None)
    return alone


def _priced_alone(planned: Plan, config: Config, name: str, spreads: Sequence[Spread], device: str | None) -> Priced:
    levels: dict[tuple[str, float], list[Training]] = {}
    for spec in planned.runs.values():
        if isinstance(spec, Training) and spec.experiment == name:
            levels.setdefault(place_of(spec), []).append(spec)
    (baseline,) = levels.pop(("sqrt", 1.0))
    cells = []
    for (rule, level), specs in levels.items():
        basis, known = spreads_of(specs[0], spreads)
        needed = seeds_needed(tuple(known.values()), rule != "svag")
        hours = sum(cost_of(spec, device).hours for spec in specs)
        cells.append(Cell(name, rule, level, len(specs), hours, tuple(known.items()), basis, needed))
    parent = config.branches[name].parent if name in config.branches else None
    cost = cost_of(baseline, device)
    start = START[baseline.kind] * cost.processes / 3600
    return Priced(start, cost.hours, tuple(cells), _groups(cells, parent is not None), planned.per_job, parent)


def _groups(cells: Sequence[Cell], branch: bool) -> tuple[tuple[Cell, ...], ...]:
    """Cells that are kept together: the square-root rule's or SVAG's, and those that mean nothing without it.

    These are the other rules at its kappa. In branches the best rival sets the tolerance, of SVAG at ell^2 too.
    """
    others = [cell for cell in cells if cell.rule not in ("sqrt", "svag")]
    groups = []
    for cell in (cell for cell in cells if cell not in others):
        kappa = cell.level if cell.rule == "sqrt" else cell.level**2 if branch else None
        groups.append((cell, *(other for other in others if other.level == kappa)))
    grouped = {cell for group in groups for cell in group}
    return (*groups, *((cell,) for cell in others if cell not in grouped))


def spreads_of(spec: Training, known: Sequence[Spread]) -> tuple[str, dict[str, float]]:
    """Return where the spreads of a cell come from, and they themselves by test function; none if nothing is near.

    Its own workload counts first, then the median workload of its kind, vision or language; SVAG may take the
    square-root rule's. Rivals have the spread of the square-root rule: the question is whether they do as well.
    """
    claim = "svag" if spec.rule == "svag" else "rule"
    kind = [row for row in known if (row.kind, row.about) == (spec.origin, spec.kind)]
    start = "from scratch" if spec.origin == "scratch" else "in branches"
    for words, rows in (
        (f"{spec.workload} {start}", [row for row in kind if (row.workload, row.claim) == (spec.workload, claim)]),
        (f"{spec.kind} {start}", [row for row in kind if row.claim == claim]),
        (f"{spec.kind} {start} under sqrt", [row for row in kind if row.claim == "rule"]),
    ):
        if rows:
            lags = claim == "rule" and (spec.rule == "sqrt" or spec.rule in {r.rule for r in RELATIVES})
            lags = lags and spec.origin == "scratch" and spec.schedule.constant
            metrics = [name for name in WORDS if any(row.metric == name for row in rows) and (lags or name != "lag")]
            scales = ", ".join(dict.fromkeys(row.scale for row in rows))
            return f"{words} ({scales})", {name: _median(row for row in rows if row.metric == name) for name in metrics}
    return "", {}


def _median(rows: Iterable[Spread]) -> float:
    """The median over workloads, by their degrees of freedom: one that is far off should not speak for others."""
    workloads: dict[str, list[Spread]] = {}
    for row in rows:
        workloads.setdefault(row.workload, []).append(row)
    spreads, freedom = zip(*((pooled(own), sum(row.freedom for row in own)) for own in workloads.values()), strict=True)
    return float(np.median(np.repeat(spreads, freedom)))


@cache
def seeds_needed(spreads: tuple[float, ...], paired: bool) -> int | None:
    """The least number of seeds that decides every claim; None if `MOST` do not, or nothing is known."""
    if not spreads:
        return None
    worst = max(spreads)
    return next((n for n in range(2, MOST + 1) if power(worst, n, paired) >= POWER), None)


def content_of(config: Config, name: str) -> Experiment | Branching:
    """Return the experiment or the branching of this name."""
    return config.experiments[name] if name in config.experiments else config.branches[name]


def epochs_at(config: Config, name: str, share: float) -> dict[str, Any]:
    """Return a part of an experiment's epochs, as a config gives it."""
    epochs = content_of(config, name).epochs
    return given(epochs * share, f"{SHARES[share]} of {epochs:g}")


def given(value: Any, note: str) -> dict[str, Any]:
    """Return a value of ours, as a config gives it."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return {"value": number, "source": "ours", "note": note}
