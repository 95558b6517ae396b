"""``scaling-<experiment>``: the trajectories of all batch sizes under the square-root rule, on one clock."""

import matplotlib.pyplot as plt
import numpy as np

from .. import stats, tables
from ..claims import MARGIN
from ..tasks import task_named
from . import style

METRICS = ("train_loss", "test_accuracy", "squared_norm")


def draw(trajectories, experiment):
    """Top: mean test functions over seeds, 95% intervals. Bottom: distances from the baseline, in seed noise."""
    style.use()
    figure, axes = plt.subplots(
        2, len(METRICS), figsize=(9.6, 5.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for (top, bottom), metric in zip(axes.T, METRICS, strict=True):
        groups = tables.groups(trajectories, experiment, "sqrt", metric)
        _values(top, groups, style.UNITS.get(metric, 1.0))
        _distances(bottom, groups)
        top.set_ylabel(style.LABELS[metric])
        style.time_axes(top, bottom, groups.epoch, groups.time)
        if metric == "train_loss":
            style.log_axis(top, [values.mean(axis=0) for values in groups.values.values()])
    axes[1, 0].set_ylabel("distance from baseline\n(seed deviations)")
    row = trajectories[trajectories["experiment"] == experiment].iloc[0]
    figure.suptitle(
        f"{style.OPTIMIZERS[row['optimizer']]}, {task_named(row['task']).title}: square-root scaling rule, "
        f"{style.sample(groups.seeds)}"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    band, name = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles + band, labels + name, loc="outside lower center", ncols=min(4, len(labels) + 1))
    return figure


def _values(panel, groups, unit):
    colours = style.batch_colours(groups.values)
    drawn = stats.bootstrap_means(groups.healthy)
    for kappa, values in groups.values.items():
        label = style.batch_label(groups.batch_size[kappa], kappa, kappa in groups.diverged)
        low, high = stats.interval(drawn[kappa]) if kappa in drawn else (np.nan, np.nan)
        style.curve(panel, groups.epoch, unit * values.mean(axis=0), unit * low, unit * high, colours[kappa], label)


def _distances(panel, groups):
    """The others' distance from the baseline, linear within the margin and logarithmic beyond it."""
    panel.axhspan(-MARGIN, MARGIN, color="0.88", zorder=0, label=f"within {MARGIN:g} seed deviations")
    panel.axhline(0, color="0.4", linewidth=0.8)
    colours = style.batch_colours(groups.values)
    drawn = stats.bootstrap_means(groups.healthy)
    noise = stats.seed_noise(groups.healthy)
    for kappa in groups.healthy:
        if kappa != 1 and 1 in drawn:
            low, high = stats.interval(stats.in_noise(drawn[kappa], drawn[1], noise))
            gap = stats.in_noise(groups.values[kappa].mean(axis=0), groups.values[1].mean(axis=0), noise)
            style.curve(panel, groups.epoch, gap, low, high, colours[kappa])
    if not np.isfinite(noise).any():
        panel.text(0.5, 0.8, "unknown: one seed", transform=panel.transAxes, ha="center")
    panel.set_yscale("symlog", linthresh=MARGIN, linscale=1.0)
    low, high = panel.get_ylim()
    ticks = [0.0, *(sign * tick for tick in (MARGIN, 10, 30, 100, 300, 1000) for sign in (-1, 1))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_yticks([], minor=True)
