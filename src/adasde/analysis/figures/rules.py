"""``rules-<workload>``: where each rule ends at each batch size, for every optimizer of a workload."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.figures import style
from adasde.scaling.hyperparameters import OPTIMIZERS
from adasde.workloads.registry import workload_named


def plot(trajectories: pd.DataFrame, workload: str) -> Figure:
    """Final test functions against kappa, one line per rule: means and 95% intervals over seeds."""
    experiments, metrics = list(trajectories["experiment"].unique()), style.metrics_of(trajectories)
    size = (9.6, 0.8 + 2.6 * len(experiments))
    figure, axes = style.panels(len(experiments), len(metrics), size, sharex=True, sharey="col")
    for line, experiment in zip(axes, experiments, strict=True):
        runs = trajectories[trajectories["experiment"] == experiment]
        rules = [rule for rule in style.RULES if rule in set(runs["rule"])]
        for panel, metric in zip(line, metrics, strict=True):
            for place, rule in enumerate(rules):
                aside = 2.0 ** (0.1 * (place - (len(rules) - 1) / 2))  # keeps the intervals of rules apart
                groups = tables.groups(runs, experiment, rule, metric)
                _line(panel, groups, rule, style.UNITS.get(metric, 1.0), aside)
            panel.set_ylabel(style.LABELS[metric])
        line[len(metrics) // 2].set_title(OPTIMIZERS[runs["optimizer"].iloc[0]].title, fontweight="bold")
    style.log_axis(axes[0, -1], [line.get_ydata() for panel in axes[:, -1] for line in panel.lines])
    for panel in axes[-1]:
        kappas = sorted(trajectories["kappa"].unique())
        style.kappa_axis(panel, kappas, r"batch multiplier $\kappa$ (rules side by side)")
    title = workload_named(workload).title
    figure.suptitle(f"{title}: end of training at equal samples, {style.sample(groups.seeds)}")
    style.legend(figure, axes.flat, columns=6)
    return figure


def _line(panel, groups, rule, unit, aside):
    """Plot where one rule ends; a dash leads from the baseline, which is the square root's, to another rule's first."""
    final = {kappa: unit * values[:, -1:] for kappa, values in groups.healthy.items() if kappa != 1 or rule == "sqrt"}
    ends = {kappa: bounds[:, 0] for kappa, bounds in statistics.mean_intervals(final).items()}
    look = style.RULE_STYLES[rule]
    if rule == "sqrt" and 1 in ends:
        panel.axhspan(*ends[1][1:], **style.BAND, label=style.BASELINE)
    if rule != "sqrt" and ends and 1 in groups.healthy:
        first = [unit * groups.values[1][:, -1].mean(), next(iter(ends.values()))[0]]
        panel.plot([1, aside * min(ends)], first, **look | {"marker": None})
    lost = ", ".join(f"{kappa:g}" for kappa in sorted(groups.diverged))
    label = style.RULES[rule] + (rf" (diverged at $\kappa = {lost}$)" if lost else "")
    means, low, high = np.reshape(list(ends.values()), (-1, 3)).T
    style.points(panel, aside * np.array(list(ends)), means, low, high, label=label, **look)
