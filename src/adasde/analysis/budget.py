"""Cut a campaign to a budget of device-hours: which cells it keeps, with how many seeds, at how many epochs.

A cell is kept only if it can be decided: with the spread between seeds that finished runs have measured
(``spreads.csv``), the probability that a claim on it is *reproduced* if the true gap is 0 is at least `POWER`, for each
of its claims. Seeds are raised, or lowered, to that.

Steps are bought one after another, in an order that the budget does not change, until one is dearer than what is left.
A step adds a cell of the square-root rule or of SVAG, with the other rules at its level, at an eighth of the
experiment's epochs to begin with; or it doubles these epochs. The first is that which costs least, the next that which
costs least for its worth. The second cell of an experiment is worth half as much as its first, the third a third, and
cells are worth the square root of the part of the epochs that they run (ours): so a little of everything comes before
all of one. A larger budget keeps all cells that a smaller one keeps, at no fewer seeds and epochs.

Simulations are kept as they are. Fine-tunings, whose spread no finished run has measured, come last. Experiments from
which others branch keep their epochs.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from adasde.analysis.claims.base import WORDS
from adasde.analysis.claims.spreads import Spread, pooled, read_spreads
from adasde.analysis.claims.trajectory import RELATIVES
from adasde.analysis.figures.registry import figure_runs
from adasde.analysis.statistics import POWER, Sample
from adasde.common import InputError
from adasde.experiments.config import Branching, Config, Experiment, config_of
from adasde.experiments.cost import DEVICES, START, cost_of, hours_of
from adasde.experiments.documents import merge
from adasde.experiments.jobs import Plan
from adasde.experiments.plan import plan
from adasde.experiments.specs import AnySpec, Finetune, Simulation, Trained, Training
from adasde.scaling.rules import ScalingWarning

MOST = 20  # seeds of a cell (ours); one that needs more is given up
SHARES = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "all"}  # of an experiment's epochs
LIMIT = 1e6  # hours
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
class Proposal:
    """What is kept: cells by experiment, and which part of its epochs each of these runs."""

    priced: Mapping[str, Mapping[float, Priced]]  # by name and part of the epochs
    cells: Mapping[str, tuple[str, ...]]  # by experiment, their names
    shares: Mapping[str, float]

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

    @cached_property
    def hours(self) -> float:
        """Device-hours of all that is kept."""
        return sum(map(self.hours_of, self.cells)) + sum(self.of(name).hours((), 1) for name in self.parents)

    def worth(self, name: str) -> float:
        """What the kept cells of an experiment are worth."""
        number = len(self.cells.get(name, ()))
        return math.sqrt(self.shares.get(name, 0.0)) * sum(1 / place for place in range(1, number + 1))

    def steps(self) -> Iterator["Step"]:
        """Yield every way to keep more: a cell, or twice the epochs of an experiment."""
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


@dataclass(frozen=True)
class Cut:
    """A campaign and what a budget leaves of it: the overlay, both plans, and why the rest is given up."""

    budget: str
    hours: float
    unit: str
    whole: Plan
    plan: Plan
    overlay: dict[str, Any]
    proposal: Proposal
    then: Step | None  # the next step, which was too dear
    finetunings: tuple[str, ...]  # those that are kept
    device: str | None

    @property
    def planned(self) -> float:
        """Hours that the planner gives for the overlay laid over the config."""
        return hours_by_unit(self.plan, self.device)[self.unit]


@cache
def power(spread: float, seeds: int, paired: bool) -> float:
    """Probability that a gap of 0 is shown to be within its tolerance, as `Sample.power` has it.

    Args:
        spread: Standard deviation of the gap of one seed, in tolerances.
        seeds: Number of seeds, at least 2.
        paired: Whether a gap is that of a pair of runs, or else of two independent ones.
    """
    return Sample.single(spread, seeds, paired).power(1.0)


def budget_of(text: str) -> tuple[float, bool]:
    """Return the hours of a budget such as ``100gpuh`` or ``5h``, and whether they are those of GPUs by name."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|gpuh)", text)
    if not found:
        raise InputError(f"budget = {text!r}: must be a number and a unit, h or gpuh, such as 100gpuh")
    hours = float(found[1])
    if not 0 < hours <= LIMIT:
        raise InputError(f"budget = {text!r}: must be above 0, and {LIMIT:,.0f} hours at most")
    return hours, found[2] == "gpuh"


def cut(document: Any, budget: str, device: str | None = None) -> Cut:
    """Return what a budget leaves of a config.

    Args:
        document: The config, as YAML holds it.
        budget: Hours of devices: ``100gpuh`` of GPUs, ``5h`` of what trains the config's networks.
        device: Device to train on, by default the config's.

    Raises:
        InputError: If the budget is no such text, if it is one of GPUs and the config trains on cores, or if it is too
            small for one cell that can be decided; the message names the least that would do, and for which cell.
    """
    hours, gpus = budget_of(budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingWarning)
        whole, config = plan(document), config_of(document)
        trained = next(spec for spec in whole.runs.values() if isinstance(spec, Trained))
        unit = DEVICES[cost_of(trained, device).device].unit
        if gpus and unit != "GPU":
            raise InputError(f"budget = {budget!r}: {whole.scale} trains on cores; say {hours:g}h")
        simulated = [run for run, spec in whole.runs.items() if isinstance(spec, Simulation)]
        aside = hours_of(whole, simulated, device).get(unit, (0.0, 0.0))[0]
        bought, then = _bought(Proposal(_priced(document, config, device), {}, {}), hours - aside)
        if not bought.cells:
            raise InputError(_too_small(budget, whole.scale, then, aside, unit))
        tuned: tuple[str, ...] = ()
        if then is None:
            tuned = _tuned(whole, config, bought, hours - aside - bought.hours, device)
        overlay = _overlay(whole, config, bought, tuned, f"{whole.scale}-{budget.replace('.', '-')}")
        left = plan(merge(document, overlay))
        return Cut(budget, hours, unit, whole, left, overlay, bought, then, tuned, device)


# What cells cost, and what decides them


def _priced(document: Any, config: Config, device: str | None) -> dict[str, dict[float, Priced]]:
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


def _alone(document: Any, config: Config, name: str, share: float) -> dict[str, Any]:
    """Return a config with one seed of one experiment, at a part of its epochs, and of the parent of a branching."""
    section = "branches" if name in config.branches else "experiments"
    kept, once = config.branches[name].parent if name in config.branches else name, {"seeds": _given(1, "")}
    own = {**document[section][name], **once, **({"epochs": _epochs(config, name, share)} if share < 1 else {})}
    nothing: dict[str, Any] = {"figures": [], "branches": {}, "finetunings": {}, "simulations": {}}
    part = {**document, **nothing, "experiments": {kept: {**document["experiments"][kept], **once}}}
    return {**part, section: {**part[section], name: own}}


def _priced_alone(planned: Plan, config: Config, name: str, spreads: Sequence[Spread], device: str | None) -> Priced:
    levels: dict[tuple[str, float], list[Training]] = {}
    for spec in planned.runs.values():
        if isinstance(spec, Training) and spec.experiment == name:
            levels.setdefault(place_of(spec), []).append(spec)
    (baseline,) = levels.pop(("sqrt", 1.0))
    cells = []
    for (rule, level), specs in levels.items():
        basis, known = spreads_of(specs[0], spreads)
        needed = _seeds_needed(tuple(known.values()), rule != "svag")
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

    Its own workload counts first, then all of its kind, vision or language; SVAG may take the square-root rule's. All
    that count are pooled. Rivals have the spread of the square-root rule: the question is whether they do as well.
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
            return f"{words} ({scales})", {name: pooled(row for row in rows if row.metric == name) for name in metrics}
    return "", {}


@cache
def _seeds_needed(spreads: tuple[float, ...], paired: bool) -> int | None:
    """The least number of seeds that decides every claim; None if `MOST` do not, or nothing is known."""
    if not spreads:
        return None
    worst = max(spreads)
    return next((n for n in range(2, MOST + 1) if power(worst, n, paired) >= POWER), None)


# What is bought


def in_order(start: Proposal) -> Iterator[Step]:
    """Yield all steps from a proposal on, the one with the lowest price first; of an empty one, the shortest."""
    kept = start
    while step := min(kept.steps(), key=lambda step: step.price if step.before.cells else step.hours, default=None):
        yield step
        kept = step.after


def _bought(start: Proposal, hours: float) -> tuple[Proposal, Step | None]:
    """Return the last proposal that fits, and the next step, which does not; None if there is nothing more."""
    kept = start
    for step in in_order(start):
        if step.after.hours > hours:
            return kept, step
        kept = step.after
    return kept, None


def _epochs(config: Config, name: str, share: float) -> dict[str, Any]:
    epochs = _content(config, name).epochs
    return _given(epochs * share, f"{SHARES[share]} of {epochs:g}")


def _content(config: Config, name: str) -> Experiment | Branching:
    return config.experiments[name] if name in config.experiments else config.branches[name]


def _tuned(whole: Plan, config: Config, kept: Proposal, left: float, device: str | None) -> tuple[str, ...]:
    """Names of the fine-tunings that fit, in the config's order, of those whose pre-training is kept."""
    found: tuple[str, ...] = ()
    for name, content in config.finetunings.items():
        if content.pretrained not in kept.cells:
            continue
        spec = next(s for s in whole.runs.values() if isinstance(s, Finetune) and s.experiment == name)
        sizes = 1 + sum(cell.rule == "sqrt" for cell in kept.kept(content.pretrained))
        models = sizes * kept.seeds(content.pretrained)
        cost = cost_of(spec, device)
        hours = (models * content.seeds + content.scratch) * (cost.hours + START[spec.kind] * cost.processes / 3600)
        if hours <= left:
            found, left = (*found, name), left - hours
    return found


def _too_small(budget: str, scale: str, first: Step | None, aside: float, unit: str) -> str:
    """The line that refuses a budget."""
    if first is None:
        return f"budget = {budget!r}: no cell of {scale} can be decided with {MOST} seeds at any budget"
    least = f"{_up(first.hours + aside)}{'gpuh' if unit == 'GPU' else 'h'}"
    return f"budget = {budget!r}: too small to decide one claim; {least} would do, for {first.words}"


def _up(hours: float) -> str:
    """Hours with two digits, rounded up."""
    step = 10.0 ** (np.floor(np.log10(hours)) - 1)
    return f"{np.ceil(hours / step) * step:.9f}".rstrip("0").rstrip(".")


# The overlay


def _given(value: Any, note: str) -> dict[str, Any]:
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return {"value": number, "source": "ours", "note": note}


def _overlay(whole: Plan, config: Config, kept: Proposal, tuned: Sequence[str], scale: str) -> dict[str, Any]:
    """Return the config that, laid over the other one, leaves what is kept."""
    overlay: dict[str, Any] = {"scale": scale, "figures": [], "experiments": {}}
    for section in ("experiments", "branches"):
        for name in getattr(config, section):
            own = _reduced(config, kept, name) if name in (*kept.cells, *kept.parents) else None
            if own != {}:
                overlay.setdefault(section, {})[name] = own
    if dropped := [name for name in config.finetunings if name not in tuned]:
        overlay["finetunings"] = dict.fromkeys(dropped)
    left = {run: spec for run, spec in whole.runs.items() if _stays(spec, kept, tuned)}
    overlay["figures"] = [name for name in whole.figures if _shown(replace(whole, runs=left, figures=(name,)))]
    return overlay


def _reduced(config: Config, kept: Proposal, name: str) -> dict[str, Any]:
    """Return what differs from an experiment in the config."""
    content, cells = _content(config, name), kept.kept(name)
    seeds, note = kept.seeds(name) if cells else 1, "cut to a budget"
    own: dict[str, Any] = {} if seeds == content.seeds else {"seeds": _given(seeds, f"{content.seeds} in the whole")}
    rules: dict[str, Any] = {}
    for rule, kappas in content.rules.items():
        left = [k for k in kappas if (rule, k) == ("sqrt", 1) or (rule, k) in {(c.rule, c.level) for c in cells}]
        if left != kappas:
            rules[rule] = _given(left, note) if left else None
    if rules:
        own["rules"] = rules
    ells = [ell for ell in content.ell if ell == 1 or ("svag", ell) in {(c.rule, c.level) for c in cells}]
    if ells != content.ell:
        own["ell"] = _given(ells, note)
    if kept.shares.get(name, 1) != 1:
        own["epochs"] = _epochs(config, name, kept.shares[name])
    return own


def _stays(spec: AnySpec, kept: Proposal, tuned: Sequence[str]) -> bool:
    """Whether the overlay leaves a run, but for its number of seeds."""
    if isinstance(spec, Training):
        if spec.is_baseline:
            return spec.experiment in kept.cells or spec.experiment in kept.parents
        return place_of(spec) in {(cell.rule, cell.level) for cell in kept.kept(spec.experiment)}
    return isinstance(spec, Simulation) or spec.experiment in tuned


def place_of(spec: Training) -> tuple[str, float]:
    """Rule and level of a run."""
    return spec.rule, float(spec.ell if spec.rule == "svag" else spec.kappa)


def _shown(planned: Plan) -> bool:
    try:
        return bool(figure_runs(planned))
    except InputError:
        return False


def hours_by_unit(planned: Plan, device: str | None) -> dict[str, float]:
    """Device-hours of a plan, for GPUs and cores apart."""
    return {unit: hours for unit, (hours, _) in hours_of(planned, planned.runs, device).items()}
