"""``sde-real-data``: the algorithm, SVAG and the integrated SDE on finite sums over real images."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style
from adasde.experiments.studies import ORACLES

POWER = -2  # of the unit of time
METRICS = {"loss": "train loss (nats)", "squared_norm": style.LABELS["squared_norm"], "accuracy": "train accuracy (%)"}


def draw(simulations, subject):
    """A row per oracle and optimizer: test functions against time, and the distance from the SDE against ell."""
    style.use()
    rows = simulations[simulations["study"] == "convergence"]
    runs = list(rows["run"].unique())
    figure, axes = plt.subplots(
        len(runs), len(METRICS) + 1, figsize=(11.5, 0.8 + 2.2 * len(runs)), squeeze=False, layout="constrained"
    )
    for line, run in zip(axes, runs, strict=True):
        part = rows[rows["run"] == run]
        for panel, metric in zip(line, METRICS, strict=False):
            _trajectories(panel, part[part["metric"] == metric], 100.0 if metric == "accuracy" else 1.0)
            panel.set_ylabel(METRICS[metric])
        _distance(line[-1], simulations, run)
        name = f"{style.OPTIMIZERS[part['optimizer'].iloc[0]]}, {ORACLES[part['oracle'].iloc[0]].title}"
        line[0].set_title(name, loc="left", fontweight="bold")
    for panel in axes[-1, :-1]:
        panel.set_xlabel(rf"time $t = \sum\eta^2$ ($10^{{{POWER}}}$)")
    axes[-1, -1].set_xlabel(r"$\ell$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=(len(labels) + len(names) + 1) // 2)
    figure.suptitle(f"SVAG converges to the SDE; 95% intervals from {rows['batch'].nunique()} batches of paths")
    return figure


def _trajectories(panel, rows, unit):
    levels = np.sort(rows.loc[rows["process"] == "svag", "level"].unique())
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.15, len(levels)))
    for level, colour in zip(levels, shades, strict=True):
        label = r"$\ell = 1$ (the algorithm)" if level == 1 else rf"$\ell = {level:g}$"
        _curve(panel, rows[(rows["process"] == "svag") & (rows["level"] == level)], unit, colour, "-", label)
    integrations = np.sort(rows.loc[rows["process"] == "sde", "level"].unique())
    if len(integrations) > 1:
        _curve(panel, weak_error.integrated(rows), unit, "black", "--", r"SDE, extrapolated to steps of 0")
    for level in integrations[-1:]:
        label = rf"SDE, steps of $\eta^2/{level:g}$"
        _curve(panel, rows[(rows["process"] == "sde") & (rows["level"] == level)], unit, "0.5", ":", label)


def _curve(panel, rows, unit, colour, line, label):
    values = unit * rows.pivot(index="batch", columns="time", values="value")
    low, high = statistics.interval(statistics.bootstrap(values.to_numpy(), lambda mean: mean))
    time = values.columns / 10.0**POWER
    panel.fill_between(time, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(time, values.mean(), color=colour, linestyle=line, label=label)


def _distance(panel, simulations, run):
    """Root mean square distance over test functions and times; under the noise line there is nothing to see."""
    errors = weak_error.convergence(simulations, run)
    low, high = errors.interval()
    bars = np.maximum([errors.error - low, high - errors.error], 0.0)
    panel.errorbar(
        errors.levels, errors.error, yerr=bars, color="0.2", marker="o", capsize=2, label="distance from the SDE"
    )
    lost = ~np.isin(errors.levels, errors.resolved().levels)
    look = {"color": "0.2", "marker": "o", "markerfacecolor": "white", "linestyle": "", "zorder": 4}
    panel.plot(errors.levels[lost], errors.error[lost], **look, label="below twice that error")
    panel.plot(errors.levels, errors.noise, color="0.6", linestyle=":", label="its Monte Carlo error")
    integrations = weak_error.convergence(simulations, run, "sde")
    if len(integrations.levels) > 1:
        label = rf"distance of its integration at $\eta^2/{integrations.levels[-1]:g}$"
        panel.axhline(integrations.error[-1], color="0.5", linewidth=0.9, linestyle="-.", label=label)
    panel.set_xscale("log", base=2)
    style.log_axis(panel, [errors.error, low, high, errors.noise])
    panel.set_xticks(errors.levels, [f"{level:g}" for level in errors.levels])
    panel.xaxis.set_minor_locator(NullLocator())
    resolved = errors.resolved()
    slope, replicates = resolved.slope()
    if np.isfinite(slope):
        bounds = "order {:.2f} [{:.2f}, {:.2f}]".format(-slope, *sorted(-np.array(statistics.interval(replicates))))
        panel.set_title(rf"{bounds}, $\ell \leq {resolved.levels[-1]:g}$", fontsize="small")
    panel.set_ylabel("distance (path deviations)")
