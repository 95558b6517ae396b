"""``sde-real-data``: the algorithm, SVAG and the integrated SDE on finite sums over real images."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style

POWER = -2  # of the unit of time
METRICS = {"loss": "train loss (nats)", "squared_norm": style.LABELS["squared_norm"], "accuracy": "train accuracy (%)"}


def plot(simulations: pd.DataFrame, subject: str) -> Figure:
    """A row per oracle and optimizer: test functions against time, and the distance from the SDE against ell."""
    runs = dict(iter(simulations.groupby("run", sort=False)))
    figure, axes = style.panels(len(runs), len(METRICS) + 1, (11.5, 0.8 + 2.2 * len(runs)))
    for line, (run, part) in zip(axes, runs.items(), strict=True):
        for panel, metric in zip(line, METRICS, strict=False):
            _trajectories(panel, part[part["metric"] == metric], 100.0 if metric == "accuracy" else 1.0)
            panel.set_ylabel(METRICS[metric])
        _distance(line[-1], part, run)
        line[0].set_title(style.subject(part.iloc[0]), loc="left", fontweight="bold")
    for panel in axes[-1, :-1]:
        panel.set_xlabel(rf"time $t = \sum\eta^2$ ($10^{{{POWER}}}$)")
    axes[-1, -1].set_xlabel(r"$\ell$")
    shown = [panel.get_legend_handles_labels()[1] for panel in axes[0, [0, -1]]]
    style.legend(figure, axes[0, [0, -1]], columns=(sum(map(len, shown)) + 1) // 2)
    figure.suptitle(f"SVAG converges to the SDE; 95% intervals from {simulations['batch'].nunique()} batches of paths")
    return figure


def _trajectories(panel, rows, unit):
    """Plot one test function against time: SVAG at every ell, the SDE extrapolated, and its finest integration."""
    svag, sde = (rows[rows["process"] == process] for process in ("svag", "sde"))
    levels, steps = np.sort(svag["level"].unique()), np.sort(sde["level"].unique())
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.15, len(levels)))
    for level, colour in zip(levels, shades, strict=True):
        label = rf"$\ell = {level:g}$" + (" (the algorithm)" if level == 1 else "")
        _curve(panel, svag[svag["level"] == level], unit, colour, "-", label)
    if len(steps) > 1:
        _curve(panel, weak_error.integrated(rows), unit, "black", "--", r"SDE, extrapolated to steps of 0")
    for level in steps[-1:]:
        _curve(panel, sde[sde["level"] == level], unit, "0.5", ":", rf"SDE, steps of $\eta^2/{level:g}$")


def _curve(panel, rows, unit, colour, line, label):
    values = unit * rows.pivot(index="batch", columns="time", values="value")
    low, high = statistics.interval(statistics.bootstrap(values.to_numpy()))
    time = values.columns / 10.0**POWER
    style.curve(panel, time, values.mean(), low, high, colour, linestyle=line, label=label, marker=None)


def _distance(panel, simulations, run):
    """Plot the distance over all test functions and times against ell; below its Monte Carlo error it says nothing."""
    errors = weak_error.convergence(simulations, run)
    low, high = errors.interval()
    look = {"color": "0.2", "marker": "o"}
    style.points(panel, errors.levels, errors.error, low, high, **look, label="distance from the SDE")
    lost = ~np.isin(errors.levels, errors.resolved().levels)
    look |= {"markerfacecolor": "white", "linestyle": "", "zorder": 4}
    panel.plot(errors.levels[lost], errors.error[lost], **look, label="below twice that error")
    panel.plot(errors.levels, errors.monte_carlo_error, color="0.6", linestyle=":", label="its Monte Carlo error")
    integrations = weak_error.convergence(simulations, run, "sde")
    if len(integrations.levels) > 1:
        label = rf"distance of its integration at $\eta^2/{integrations.levels[-1]:g}$"
        panel.axhline(integrations.error[-1], color="0.5", linewidth=0.9, linestyle="-.", label=label)
    style.log_axis(panel, [errors.error, low, high, errors.monte_carlo_error])
    style.kappa_axis(panel, errors.levels, "")
    panel.xaxis.set_minor_locator(plt.NullLocator())
    resolved = errors.resolved()
    slope, replicates = resolved.slope()
    if np.isfinite(slope):
        bounds = "order {:.2f} [{:.2f}, {:.2f}]".format(-slope, *sorted(-np.array(statistics.interval(replicates))))
        panel.set_title(rf"{bounds}, $\ell \leq {resolved.levels[-1]:g}$", fontsize="small")
    panel.set_ylabel("distance (path deviations)")
