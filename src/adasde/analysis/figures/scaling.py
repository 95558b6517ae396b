"""``scaling-<experiment>``: the trajectories of all batch sizes under the square-root rule, on one clock."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import reference, statistics, tables
from adasde.analysis.claims.trajectory import MARGIN
from adasde.analysis.figures import style


def plot(trajectories: pd.DataFrame, experiment: str) -> Figure:
    """One curve per batch size, named by it and its kappa."""

    def label(kappa, groups):
        return rf"$B = {groups.batch_size[kappa]}$" + (" (baseline)" if kappa == 1 else rf" ($\kappa = {kappa:g}$)")

    return compare(trajectories, experiment, "sqrt", "square-root scaling rule", "baseline", label)


def compare(
    trajectories: pd.DataFrame,
    experiment: str,
    rule: str,
    title: str,
    baseline: str,
    label: Callable[[float, tables.Groups], str],
) -> Figure:
    """Plot the mean test functions over seeds (top), and their distances from level 1 in seed deviations (bottom).

    A level is a kappa or an ell, as in tables.Groups. ``label(level, groups)`` is its legend entry, ``baseline`` the
    name of level 1.
    """
    row, metrics = trajectories.iloc[0], style.metrics_of(trajectories)
    size = (3.2 * len(metrics), 5.4)
    figure, axes = style.panels(2, len(metrics), size, sharex=True, height_ratios=(3, 2))
    for (top, bottom), metric in zip(axes.T, metrics, strict=True):
        groups = tables.groups(trajectories, experiment, rule, metric)
        colours, bounds, unit = style.colours_of(groups.values), [], style.UNITS.get(metric, 1.0)
        for level, (mean, low, high) in statistics.mean_intervals(groups.values).items():
            name = label(level, groups) + (", diverged" if level in groups.diverged else "")
            style.curve(top, groups.epoch, unit * mean, unit * low, unit * high, colours[level], label=name)
            bounds += [unit * low, unit * high]
        if metric == "log_perplexity" and rule == "sqrt":
            _published(top, f"{row['task']}-{row['optimizer']}", groups, colours)
        _distances(bottom, groups, colours)
        top.set_ylabel(style.LABELS[metric])
        style.time_axes(top, bottom, groups.epoch, groups.time)
        if metric == "train_loss":
            style.log_axis(top, [values.mean(axis=0) for values in groups.values.values()], bounds)
    axes[1, 0].set_ylabel(f"distance from {baseline}\n(seed deviations)")
    figure.suptitle(f"{style.subject(row)}: {title}, {style.sample(groups.seeds)}")
    style.legend(figure, axes.flat, columns=4)
    return figure


def _published(panel, name, groups, colours):
    """Plot the authors' own curves of the experiment ``name`` behind ours, if there are any."""
    published = reference.author_curves(name)
    sizes = {size: kappa for kappa, size in groups.batch_size.items()}
    for size, (part, value) in published.items():
        look = {"color": colours.get(sizes.get(size), "0.7"), "linewidth": 3.0, "alpha": 0.3, "zorder": 0}
        panel.plot(groups.epoch[-1] * np.array(part), value, **look)
    if published:
        panel.plot([], [], color="0.6", linewidth=3.0, alpha=0.5, label="the authors'")


def _distances(panel, groups, colours):
    """Plot the others' distance from level 1, linear within the margin and logarithmic beyond it."""
    panel.axhspan(-MARGIN, MARGIN, **style.BAND, label=f"within {MARGIN:g} seed deviations")
    panel.axhline(0, color="0.4", linewidth=0.8)
    drawn = statistics.bootstrap_means(groups.healthy)
    spread = statistics.seed_spread(groups.healthy)
    for level in groups.healthy:
        if level != 1 and 1 in drawn:
            low, high = statistics.interval(statistics.in_deviations(drawn[level], drawn[1], spread))
            gap = statistics.in_deviations(groups.values[level].mean(axis=0), groups.values[1].mean(axis=0), spread)
            style.curve(panel, groups.epoch, gap, low, high, colours[level])
    if not np.isfinite(spread).any():
        panel.text(0.5, 0.8, "unknown: one seed", transform=panel.transAxes, ha="center")
    panel.set_yscale("symlog", linthresh=MARGIN, linscale=1.0)
    low, high = panel.get_ylim()
    ticks = [0.0, *(sign * tick for tick in (MARGIN, 10, 30, 100, 300, 1000) for sign in (-1, 1))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_yticks([], minor=True)
