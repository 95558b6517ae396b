"""``scaling-<experiment>``: the trajectories of all batch sizes under the square-root rule, on one clock."""

import matplotlib.pyplot as plt
import numpy as np

from adasde.analysis import reference, statistics, tables
from adasde.analysis.claims.evaluation import MARGIN
from adasde.analysis.figures import style
from adasde.workloads.registry import workload_named

METRICS = ("train_loss", "test_accuracy", "log_perplexity", "squared_norm")  # those that a task measures


def draw(trajectories, experiment):
    """One curve per batch size, named by it and its kappa."""

    def label(kappa, groups):
        return style.batch_label(groups.batch_size[kappa], kappa, kappa in groups.diverged)

    return compare(trajectories, experiment, "sqrt", "square-root scaling rule", "baseline", label)


def compare(trajectories, experiment, rule, title, baseline, label):
    """Top: mean test functions over seeds, 95% intervals. Bottom: distances from level 1, in seed noise.

    A level is a kappa or an ell, as in tables.Groups; ``label(level, groups)`` is its legend entry, ``baseline`` the
    name of level 1.
    """
    style.use()
    row = trajectories[trajectories["experiment"] == experiment].iloc[0]
    measured = set(trajectories.loc[trajectories["experiment"] == experiment, "metric"])
    metrics = [metric for metric in METRICS if metric in measured] or METRICS[:1]
    figure, axes = plt.subplots(
        2,
        len(metrics),
        figsize=(3.2 * len(metrics), 5.4),
        sharex=True,
        squeeze=False,
        height_ratios=(3, 2),
        layout="constrained",
    )
    for (top, bottom), metric in zip(axes.T, metrics, strict=True):
        groups = tables.groups(trajectories, experiment, rule, metric)
        bounds = _values(top, groups, style.UNITS.get(metric, 1.0), label)
        if metric == "log_perplexity" and rule == "sqrt":
            _published(top, f"{row['task']}-{row['optimizer']}", groups)
        _distances(bottom, groups)
        top.set_ylabel(style.LABELS[metric])
        style.time_axes(top, bottom, groups.epoch, groups.time)
        if metric == "train_loss":
            style.log_axis(top, [values.mean(axis=0) for values in groups.values.values()], bounds)
    axes[1, 0].set_ylabel(f"distance from {baseline}\n(seed deviations)")
    figure.suptitle(
        f"{style.OPTIMIZERS[row['optimizer']]}, {workload_named(row['task']).title}: {title}, {style.sample(groups.seeds)}"
    )
    style.legend(figure, axes.flat)
    return figure


def _values(panel, groups, unit, label):
    """Draw the curves of all levels; return the bounds of their intervals."""
    bounds = []
    colours = style.batch_colours(groups.values)
    drawn = statistics.bootstrap_means(groups.healthy)
    for level, values in groups.values.items():
        low, high = statistics.interval(drawn[level]) if level in drawn else (np.nan, np.nan)
        mean = unit * values.mean(axis=0)
        style.curve(panel, groups.epoch, mean, unit * low, unit * high, colours[level], label(level, groups))
        bounds += [unit * low, unit * high]
    return bounds


def _published(panel, name, groups):
    """Draw the authors' own curves of the experiment ``name`` behind ours, where there are any."""
    published = reference.author_curves(name)
    colours = style.batch_colours(groups.values)
    sizes = {size: kappa for kappa, size in groups.batch_size.items()}
    for size, (part, value) in published.items():
        panel.plot(
            groups.epoch[-1] * np.array(part),
            value,
            color=colours.get(sizes.get(size), "0.7"),
            linewidth=3.0,
            alpha=0.3,
            zorder=0,
        )
    if published:
        panel.plot([], [], color="0.6", linewidth=3.0, alpha=0.5, label="the authors'")


def _distances(panel, groups):
    """The others' distance from level 1, linear within the margin and logarithmic beyond it."""
    panel.axhspan(-MARGIN, MARGIN, color="0.88", zorder=0, label=f"within {MARGIN:g} seed deviations")
    panel.axhline(0, color="0.4", linewidth=0.8)
    colours = style.batch_colours(groups.values)
    drawn = statistics.bootstrap_means(groups.healthy)
    noise = statistics.seed_noise(groups.healthy)
    for level in groups.healthy:
        if level != 1 and 1 in drawn:
            low, high = statistics.interval(statistics.in_noise(drawn[level], drawn[1], noise))
            gap = statistics.in_noise(groups.values[level].mean(axis=0), groups.values[1].mean(axis=0), noise)
            style.curve(panel, groups.epoch, gap, low, high, colours[level])
    if not np.isfinite(noise).any():
        panel.text(0.5, 0.8, "unknown: one seed", transform=panel.transAxes, ha="center")
    panel.set_yscale("symlog", linthresh=MARGIN, linscale=1.0)
    low, high = panel.get_ylim()
    ticks = [0.0, *(sign * tick for tick in (MARGIN, 10, 30, 100, 300, 1000) for sign in (-1, 1))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_yticks([], minor=True)
