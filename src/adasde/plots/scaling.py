"""``scaling-<experiment>``: the trajectories of all batch sizes under the square-root rule, on one clock."""

import matplotlib.pyplot as plt

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
        _panels(top, bottom, groups, style.UNITS.get(metric, 1.0))
        top.set_ylabel(style.LABELS[metric])
        style.time_axes(top, bottom, groups.epoch, groups.time)
    axes[0, 0].set_yscale("log")
    style.plain_log_axis(axes[0, 0].yaxis)
    axes[1, 0].set_ylabel("distance from baseline\n(seed standard deviations)")
    row = trajectories[trajectories["experiment"] == experiment].iloc[0]
    figure.suptitle(
        f"{style.OPTIMIZERS[row['optimizer']]}, {task_named(row['task']).title}: square-root scaling rule, "
        f"mean and 95% interval of {len(groups.values[1])} seeds"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    band, name = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles + band, labels + name, loc="outside lower center", ncols=len(labels) + 1)
    return figure


def _panels(top, bottom, groups, unit):
    colours = style.batch_colours(groups.kappas)
    values = [groups.values[kappa] for kappa in groups.kappas]
    means = [v.mean(axis=0) for v in values]
    replicates = stats.bootstrap_means(values)
    noise = stats.seed_noise(values)
    bottom.axhspan(-MARGIN, MARGIN, color="0.88", zorder=0, label=f"within {MARGIN:g} deviations")
    bottom.axhline(0, color="0.4", linewidth=0.8)
    for k, (kappa, mean) in enumerate(zip(groups.kappas, means, strict=True)):
        label = style.batch_label(groups.batch_size[kappa], kappa)
        low, high = stats.interval(unit * replicates[k])
        _curve(top, groups.epoch, unit * mean, low, high, colours[kappa], label)
        if kappa != 1:
            low, high = stats.interval((replicates[k] - replicates[0]) / noise)
            _curve(bottom, groups.epoch, (mean - means[0]) / noise, low, high, colours[kappa])
    bottom.set_yscale("symlog", linthresh=MARGIN, linscale=1.0)
    ticks = [0, *(sign * tick for tick in (MARGIN, 10, 30, 100, 300) for sign in (-1, 1))]
    low, high = bottom.get_ylim()
    bottom.set_yticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    bottom.set_yticks([], minor=True)


def _curve(panel, x, mean, low, high, colour, label=None):
    panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(x, mean, color=colour, marker="o", label=label)
