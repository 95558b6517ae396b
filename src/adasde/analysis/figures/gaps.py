"""Panels that scaling, branch, svag and rescale share: gaps to the baseline along a run, and their tolerance."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.special import stdtrit

from adasde.analysis.claims.experiment import BASELINE, Experiment, Followed
from adasde.analysis.claims.tolerances import WINDOW, window
from adasde.analysis.figures import style
from adasde.analysis.lags import paired_lags
from adasde.analysis.statistics import TAIL, Sample

TIMES = {"scratch": "epochs", "branch": "epochs since the branch point"}
INTERVAL = f"{100 * (1 - 2 * TAIL):g}% intervals"
Line = tuple[Followed, float, dict[str, Any]]  # what runs followed, at which level, and how its line looks


def gap_panel(panel: Axes, found: Experiment, metric: str, lines: Iterable[Line]) -> None:
    """Plot mean gaps to the baseline with their pointwise intervals, those of the test of equivalence.

    The axis is linear within the tolerance, a band, and logarithmic beyond it. Where the tolerance of a line is wider,
    dashes in its colour show it. A test function that is not judged has no band and a linear axis. Runs that diverged,
    and gaps to a baseline that did, or that shares no seed, are left out.
    """
    unit, lines = style.UNITS.get(metric, 1.0), list(lines)
    panel.axhline(0, color="0.15", linewidth=1.0)
    groups = found.groups(BASELINE[0], metric)
    tolerances = [_tolerance(found, followed, level, metric) * unit for followed, level, _ in lines]
    known = _known(tolerances, lines)
    start = 0.0
    if found.kind == "scratch":
        start = _window_start(groups)
        panel.axvspan(0, start, **style.SKIPPED, label="before the window")
    if known:
        ends = [start, 1.02 * groups.epoch[-1]]
        panel.fill_between(ends, -min(known), min(known), **style.TOLERATED, label="tolerance")
    reach = [0.0, *(side * tolerance for tolerance in known for side in (-1, 1))]
    for (followed, level, look), tolerance in zip(lines, tolerances, strict=True):
        if found.diverged(followed, level) or found.missing(followed, level):
            panel.plot([], [], **look)  # for its name
            continue
        gap = found.sample(followed, level, metric, skipped=0.0).gap
        own = found.groups(followed, metric)
        mean, error, freedom = gap.mean, gap.error, np.broadcast_to(gap.freedom, gap.mean.shape)
        if len(mean) < len(own.epoch):  # the branch point itself, where all are equal
            mean, error, freedom = (np.insert(part, 0, value) for part, value in ((mean, 0), (error, 0), (freedom, 1)))
        half = stdtrit(freedom, 1.0 - TAIL) * error
        curves = (unit * part for part in (mean, mean - half, mean + half))
        style.curve(panel, own.epoch, *curves, look["color"], alpha=0.15, **look)
        reach += [unit * mean.min(), unit * mean.max()]
        if known and tolerance > 1.001 * min(known):
            for side in (-tolerance, tolerance):
                panel.axhline(side, color=look["color"], linestyle="--", linewidth=0.9)
    panel.set_ylabel(f"gap in {style.GAPS.get(metric, style.LABELS[metric])}")
    style.progress_axis(panel, groups.epoch[-1], TIMES[found.kind])
    if not known:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        panel.text(0.98, 0.04, "not judged", transform=panel.transAxes, ha="right", color="0.4", bbox=box)
        return
    panel.set_ylim(1.4 * min(reach), 1.4 * max(reach))  # the intervals of few seeds may end at the frame
    style.symlog_axis(panel, min(known))


def _tolerance(found, followed, level, metric):
    """The tolerance of a test function; 0 where it is not judged."""
    return found.tolerance(metric, level, followed.rule == "svag").value if metric in found.metrics else 0.0


def _known(tolerances, lines):
    """The tolerances of the levels that are judged: not the baseline's own, which has no rival to widen it."""
    return [size for size, line in zip(tolerances, lines, strict=True) if size > 0 and line[:2] != BASELINE]


def lag_panel(panel: Axes, found: Experiment, lines: Iterable[Line]) -> None:
    """Plot how far the mean train losses lie behind the baseline's, as a share of the time, with intervals.

    What is judged is the mean over the window.
    """
    groups = found.groups(BASELINE[0], "train_loss")
    start, tolerance = _window_start(groups), 100.0 * found.tolerance("lag", 1).value
    panel.axhline(0, color="0.15", linewidth=1.0)
    panel.axvspan(0, start, **style.SKIPPED, label="before the window")
    ends = [start, 1.02 * groups.epoch[-1]]
    panel.fill_between(ends, -tolerance, tolerance, **style.TOLERATED, label="tolerance")
    for followed, level, look in lines:
        if found.diverged(followed, level) or found.missing(followed, level):
            continue
        own = found.groups(followed, "train_loss")
        values, reference = own.pairs(level, groups, 1)
        gap = Sample((100.0 * paired_lags(own.time, reference, values),)).gap
        half = stdtrit(gap.freedom, 1.0 - TAIL) * gap.error
        curves = (gap.mean, gap.mean - half, gap.mean + half)
        style.curve(panel, own.epoch, *curves, look["color"], alpha=0.15, **look)
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, -50.0), min(high, 105.0))
    panel.set_ylabel("lag (% of the time)")
    style.progress_axis(panel, groups.epoch[-1], TIMES[found.kind])


def _window_start(groups):
    """The epoch at which the window of a run from scratch begins, at a quarter of its time."""
    return np.interp(WINDOW * groups.time[-1], groups.time, groups.epoch)


def curve_panel(panel: Axes, found: Experiment, metric: str, lines: Iterable[Line]) -> None:
    """Plot mean trajectories, with the tolerance about the baseline's within the window.

    The baseline may have more seeds than other lines, and seeds differ more than batch sizes do. So a line is the
    baseline's mean plus the mean gap of the seeds that both have, and looks as far from the baseline as it is.
    """
    unit, lines = style.UNITS.get(metric, 1.0), list(lines)
    if found.kind == "scratch":
        panel.axvspan(0, _window_start(found.groups(BASELINE[0], metric)), **style.SKIPPED, label="before the window")
    known = _known([_tolerance(found, followed, level, metric) for followed, level, _ in lines], lines)
    groups = found.groups(BASELINE[0], metric)
    middle = groups.values[1].mean(axis=0)
    if known:
        kept = window(groups.time, found.kind)
        ends = (unit * (middle + side * min(known)) for side in (-1, 1))
        panel.fill_between(groups.epoch, *ends, where=kept, **style.TOLERATED, label="tolerance")
    for followed, level, look in lines:
        own = found.groups(followed, metric)
        values, reference = own.pairs(level, groups, 1)
        paired = len(values) and 1 not in groups.diverged
        mean = middle + (values - reference).mean(axis=0) if paired else own.values[level].mean(axis=0)
        panel.plot(own.epoch, unit * mean, **{"marker": "o"} | look)
    panel.set_ylabel(style.LABELS[metric])
    style.progress_axis(panel, groups.epoch[-1], "")


def remark(found: Experiment, followed: Followed, level: float) -> str:
    """What the name of a line adds if there is none: that runs diverged, or share no seed with the baseline."""
    if found.diverged(followed, level):
        return ", diverged"
    return ", no common seed" if found.missing(followed, level).startswith("no seed") else ""


def seeds_of(found: Experiment, lines: Iterable[Line]) -> str:
    """Number of seeds of the lines in words."""
    return style.repeats({found.seeds(followed, level) for followed, level, _ in lines})
