"""One experiment's runs, as claims read them: gaps to the baseline of any rule and level, and their tolerances."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import LOSSES, TEST_FUNCTIONS
from adasde.analysis.claims.tolerances import RIVALS, WIDER, WINDOW, Tolerance, tolerance, window
from adasde.analysis.lags import constant_rate, paired_lags
from adasde.analysis.statistics import Sample
from adasde.scaling.rules import ROUNDING
from adasde.workloads.registry import workload_named


@dataclass(frozen=True)
class Followed:
    """What a run at a level followed: a rule, and in a branch what became of the second moment."""

    rule: str
    second_moment: str = "transport"

    @property
    def name(self) -> str:
        """The rule, or what was done to the second moment instead of carrying it over."""
        return self.rule if self.second_moment == "transport" else self.second_moment


BASELINE = (Followed("sqrt"), 1.0)


@dataclass
class Experiment:
    """The runs of one experiment, from scratch or in branches.

    Attributes:
        trajectories: The experiment's part of the table.
        name: Its name.
    """

    trajectories: pd.DataFrame
    name: str
    _groups: dict = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """``scratch``, ``branch`` or ``finetune``."""
        return self.trajectories["kind"].iloc[0]

    @cached_property
    def metrics(self) -> list[str]:
        """The test functions that count; if every run diverged before it was measured, those of its workload."""
        unjudged = set() if self.kind == "branch" else {"squared_norm"}
        found = (set(self.trajectories["metric"]) & set(TEST_FUNCTIONS)) - unjudged
        if not found:
            workload = workload_named(self.trajectories["workload"].iloc[0])
            language = workload.kind == "language" and workload.pretrained is None
            other = {"test_loss", "test_accuracy"} if language else {"log_perplexity"}
            found = set(TEST_FUNCTIONS) - unjudged - other
        return [metric for metric in TEST_FUNCTIONS if metric in found]

    @cached_property
    def has_lags(self) -> bool:
        """Whether lags say anything: from scratch, at a constant learning rate."""
        return self.kind == "scratch" and "train_loss" in self.metrics and constant_rate(self.trajectories)

    @cached_property
    def _levels(self) -> dict[Followed, list[float]]:
        """The levels other than 1 by what was followed, ascending."""
        found: dict[Followed, set[float]] = {}
        columns = ["rule", "second_moment", "kappa", "ell"]
        for rule, second_moment, kappa, ell in self.trajectories[columns].drop_duplicates().to_numpy():
            found.setdefault(Followed(rule, second_moment), set()).add(float(ell if rule == "svag" else kappa))
        return {followed: sorted(levels - {1}) for followed, levels in found.items()}

    def levels(self, followed: Followed) -> list[float]:
        """The levels other than 1 at which runs followed a rule, ascending."""
        return self._levels.get(followed, [])

    def groups(self, followed: Followed, metric: str) -> tables.Groups:
        """The runs that followed a rule, with the baseline."""
        key = (followed, metric)
        if key not in self._groups:
            own = (self.trajectories, self.name, followed.rule, metric)
            self._groups[key] = tables.groups(*own, second_moment=followed.second_moment)
        return self._groups[key]

    def diverged(self, followed: Followed, level: float) -> list[str]:
        """Names of the runs at a level that diverged."""
        return self.groups(followed, self.metrics[0]).diverged.get(level, [])

    def repeats(self, followed: Followed, level: float) -> list[int]:
        """Seeds of the runs at a level; none if there are no runs."""
        return self.groups(followed, self.metrics[0]).repeats.get(level, [])

    def seeds(self, followed: Followed, level: float) -> int:
        """Number of runs at a level."""
        return len(self.repeats(followed, level))

    def missing(self, followed: Followed, level: float, baseline: tuple[Followed, float] = BASELINE) -> str:
        """Why a level has no gap to the baseline, such as that this diverged or is not there; empty if it has one."""
        if lost := self.diverged(*baseline):
            return f"the baseline diverged: {', '.join(lost)}"
        seeds = self.repeats(*baseline)
        if not seeds:
            return "the baseline is missing"
        shared = followed.rule == "svag" or set(seeds) & set(self.repeats(followed, level))
        return "" if shared else "no seed in common with the baseline"

    def sample(
        self,
        followed: Followed,
        level: float,
        metric: str,
        skipped: float = WINDOW,
        baseline: tuple[Followed, float] = BASELINE,
    ) -> Sample:
        """The gaps of a level to the baseline within the window; unpaired for SVAG. Neither may hold diverged runs.

        The lag is one number, its mean over the window: where the loss is nearly flat, a lag at one time is mostly
        noise.
        """
        one, other = (self.groups(rule, measured(metric)) for rule in (followed, baseline[0]))
        if followed.rule == "svag":
            kept = window(one.time, self.kind, skipped)
            return Sample((one.values[level][:, kept], other.values[baseline[1]][:, kept]))
        return self.compared(metric, *one.pairs(level, other, baseline[1]), skipped)

    def compared(self, metric: str, values: np.ndarray, reference: np.ndarray, skipped: float = WINDOW) -> Sample:
        """The gaps within the window of runs to others of the same seeds, both (seeds, points) along the whole run."""
        time = self.groups(BASELINE[0], measured(metric)).time
        kept = window(time, self.kind, skipped)
        if metric == "lag":
            kept &= np.arange(len(time)) > 1  # before, there is no lag
            return Sample((paired_lags(time, reference, values)[:, kept].mean(axis=1, keepdims=True),))
        return Sample.paired(values[:, kept], reference[:, kept])

    def wider(self, followed: Followed, level: float, metric: str) -> float:
        """The largest gap from a tenth of a run from scratch on; NaN in branches, all of which counts anyway."""
        return self.sample(followed, level, metric, WIDER).gap.largest if self.kind == "scratch" else np.nan

    def deviations(self, followed: Followed, level: float, metric: str) -> float:
        """The largest gap within the window in standard deviations of a single run; NaN with one seed."""
        groups = self.groups(followed, metric)
        both = {name: groups.values[name][:, window(groups.time, self.kind)] for name in (level, 1)}
        means = (both[level].mean(axis=0), both[1].mean(axis=0))
        return np.abs(statistics.in_deviations(*means, statistics.seed_spread(both))).max()

    def tolerance(self, metric: str, level: float, svag: bool = False) -> Tolerance:
        """The tolerance of a test function at a level; NaN if the baseline diverged, or is missing."""
        if missing := self.missing(*BASELINE):
            return Tolerance(np.nan, missing.partition(":")[0])
        baseline = self.groups(BASELINE[0], measured(metric)).values[1].mean(axis=0)
        rival = None
        if self.kind == "branch" and metric in LOSSES:  # ell is as far from the baseline as kappa = ell^2
            rival = self._best_rival(metric, level**2 if svag else level)
        return tolerance(metric, self.kind, baseline, rival)

    def _best_rival(self, metric, kappa):
        """Name and largest gap of the rival that stays nearest to the baseline at kappa; None if all diverged.

        A rival that did not run at kappa counts by the largest kappa below, where its gap is smaller.
        """
        gaps = {}
        for rival in map(Followed, RIVALS):
            level = max((level for level in self.levels(rival) if 1 < level <= kappa * (1 + ROUNDING)), default=None)
            if level and not self.diverged(rival, level) and not self.missing(rival, level):
                gaps[rival.rule] = self.sample(rival, level, metric).gap.largest
        return min(gaps.items(), key=lambda item: item[1]) if gaps else None


def measured(metric: str) -> str:
    """The measured metric behind a test function: the lag is one of the train loss."""
    return "train_loss" if metric == "lag" else metric
