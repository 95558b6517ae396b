"""``sde-real-data``: the algorithm, SVAG and the integrated SDE on finite sums over real images."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style

POWER = -2  # of the unit of time


def plot(simulations: pd.DataFrame, subject: str) -> Figure:
    """A row per oracle: the train loss against time for each optimizer, and the distance from the SDE against ell."""
    oracles, optimizers = (list(simulations[name].unique()) for name in ("oracle", "optimizer"))
    size = (3.4 * (len(optimizers) + 1), 1.2 + 2.7 * len(oracles))
    figure, axes = style.panels(len(oracles), len(optimizers) + 1, size)
    looks = dict(zip(optimizers, ("o", "s"), strict=False))
    nearer = []
    for line, oracle in zip(axes, oracles, strict=True):
        for panel, optimizer in zip(line, optimizers, strict=False):
            rows = simulations[(simulations["oracle"] == oracle) & (simulations["optimizer"] == optimizer)]
            if rows.empty:
                panel.set_axis_off()
                continue
            _trajectories(panel, rows[rows["metric"] == "loss"])
            panel.set_title(style.subject(rows.iloc[0], ",\n"), fontsize="medium")
            nearer.append(_distance(line[-1], rows, looks[optimizer], optimizer))
        style.log_axis(line[-1])
        line[-1].set_ylabel("distance (path deviations)")
        style.level_axis(line[-1], sorted(simulations.loc[simulations["process"] == "svag", "level"].unique()), "")
    for panel in axes[-1, :-1]:
        panel.set_xlabel(rf"time $t = \sum\eta^2$ ($10^{{{POWER}}}$)")
    axes[-1, -1].set_xlabel(r"SVAG's $\ell$")
    style.legend(figure, axes[0], columns=4)
    ends = [_span(part) for part in zip(*nearer, strict=True)]
    largest = simulations.loc[simulations["process"] == "svag", "level"].max()
    batches = style.repeats(simulations["batch"].nunique(), "batch of paths", "batches of paths")
    message = f"SVAG's distance from the SDE is {ends[0]} path deviations at ell 1 and {ends[1]} at ell {largest:g}"
    style.headline(figure, message, f"means and 95% intervals from {batches}")
    return figure


def _trajectories(panel, rows):
    """Plot the train loss against time: SVAG at every ell, and the SDE extrapolated."""
    svag = rows[rows["process"] == "svag"]
    for level in np.sort(svag["level"].unique()):
        label = rf"$\ell = {level:g}$" + (" (the algorithm)" if level == 1 else "")
        _curve(panel, svag[svag["level"] == level], style.ell_colour(level), "-", label)
    _curve(panel, weak_error.integrated(rows), style.PALETTE[3], "--", "SDE, extrapolated to steps of 0")
    panel.set_ylabel(style.LABELS["train_loss"])


def _curve(panel, rows, colour, line, label):
    values = rows.pivot(index="batch", columns="time", values="value")
    low, high = statistics.interval(statistics.bootstrap(values.to_numpy()))
    time = values.columns / 10.0**POWER
    style.curve(panel, time, values.mean(), low, high, colour, linestyle=line, label=label)


def _distance(panel, simulations, marker, optimizer):
    """Plot the distance over all test functions and times against ell.

    Return the first and the last: each with the upper end of its interval, and whether it is told from 0.

    Distances below twice their Monte Carlo error are open points: they may be 0.
    """
    errors = weak_error.convergence(simulations, simulations["run"].iloc[0])
    low, high = errors.interval()
    title = style.subject(simulations.iloc[0]).partition(",")[0]
    seen = np.isin(errors.levels, errors.resolved().levels)
    colour = style.PALETTE[0] if optimizer == "rmsprop" else style.PALETTE[1]
    aside = errors.levels * (0.97 if optimizer == "rmsprop" else 1.03)  # keeps the intervals apart
    look = {"color": colour, "marker": marker, "markersize": 5, "linestyle": ""}
    floor = np.maximum(low, errors.error / 20)
    style.points(panel, aside, errors.error, floor, high, **look, label=f"distance, {title}")
    open_points = look | {"markerfacecolor": "white", "zorder": 4}
    panel.plot(aside[~seen], errors.error[~seen], **open_points, label="open: below twice its Monte Carlo error")
    return [(errors.error[place], high[place], seen[place]) for place in (0, -1)]


def _span(distances):
    """The range of distances in words; where one cannot be told from 0, below what they all are."""
    sizes, highs, seen = zip(*distances, strict=True)
    if not all(seen):
        return f"below {max(highs):.2g}"
    return f"{min(sizes):.2g}" + (f" to {max(sizes):.2g}" if len(sizes) > 1 else "")
