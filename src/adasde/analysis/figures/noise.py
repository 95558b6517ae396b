"""``noise``: how far noise dominates the gradient along training, and the speeds that the baselines predict from it."""

import matplotlib.pyplot as plt
import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.figures import style
from adasde.common import InputError
from adasde.scaling import lag
from adasde.scaling.rules import ABLATIONS
from adasde.workloads.registry import workload_named

ACROSS = 3  # columns beside each other
SHOWN = (2, 4, 16, 64)  # kappas of the predicted speeds, among those that a run records


def draw(trajectories, subject):
    """Top: B |grad f|^2 / tr Sigma of the runs, which the rule needs to be small. Bottom: predicted relative speed."""
    style.use()
    rules = trajectories.groupby("experiment", sort=False)["rule"].agg(set)
    experiments = [
        name for name, followed in rules.items() if "sqrt" in followed and not followed & {"svag", *ABLATIONS}
    ]
    if "noise_trace" not in set(trajectories["metric"]):
        raise InputError("figure = 'noise': the runs hold no noise_trace; they were made by an older recipe")
    across = min(len(experiments), ACROSS)
    blocks = -(-len(experiments) // across)
    size = (1.2 + 2.9 * across, 0.4 + 4.8 * blocks)
    figure, axes = plt.subplots(2 * blocks, across, figsize=size, squeeze=False, layout="constrained")
    pairs = axes.reshape(blocks, 2, across).swapaxes(1, 2).reshape(-1, 2)
    for top, bottom in pairs[1:]:
        top.sharey(pairs[0, 0])
        bottom.sharey(pairs[0, 1])
    for panel in pairs[len(experiments) :].flat:
        panel.set_axis_off()
    shown = trajectories[trajectories["experiment"].isin(experiments) & (trajectories["rule"] == "sqrt")]
    colours = style.batch_colours({*shown["kappa"], *SHOWN})
    seeds = set()
    for (top, bottom), experiment in zip(pairs, experiments, strict=False):
        top.sharex(bottom)
        top.tick_params(labelbottom=False)
        _curves(top, *_ratios(trajectories, experiment), colours)
        top.axhline(1, color="0.4", linewidth=0.8)
        for kappa in SHOWN:
            groups = tables.groups(trajectories, experiment, "sqrt", f"{lag.SPEED}{kappa}")
            baseline = {kappa: groups.healthy[1]} if 1 in groups.healthy else {}
            _curves(bottom, groups.epoch, baseline, colours, limits=(0.0, 1.0))
        seeds.add(groups.seeds)
        row = shown[shown["experiment"] == experiment].iloc[0]
        top.set_title(f"{style.OPTIMIZERS[row['optimizer']]},\n{workload_named(row['task']).title}", fontsize="medium")
        style.time_axes(top, bottom, groups.epoch, groups.time)
    pairs[0, 0].set_yscale("log")
    pairs[0, 1].set_ylim(0, 1.05)
    for top, bottom in pairs[::across]:
        top.set_ylabel("signal over noise\n" + r"$B\,\|\nabla f\|^2 / \mathrm{tr}\,\Sigma$")
        bottom.set_ylabel("predicted speed at\n" + r"$\kappa$ times the batch")
    handles = [plt.Line2D([], [], color=colours[kappa], marker="o") for kappa in sorted(colours)]
    labels = [rf"$\kappa = {kappa:g}$" + (" (baseline)" if kappa == 1 else "") for kappa in sorted(colours)]
    figure.suptitle(f"How far noise dominates the gradient, {style.sample(seeds)}")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _ratios(trajectories, experiment):
    """Epochs, and per healthy kappa the logarithm of each run's signal over noise at its own batch size.

    Where the unbiased estimate falls below a tenth of its error from so few examples, it counts as that. That error is
    what the estimate lacks of the subset's own squared gradient: a number of examples enough for the noise.
    """
    squares, traces, norms = (
        tables.groups(trajectories, experiment, "sqrt", metric)
        for metric in ("squared_gradient", "noise_trace", "gradient_norm")
    )
    values = {}
    for kappa in squares.healthy:
        square, trace = squares.values[kappa], traces.values[kappa]
        error = norms.values[kappa] ** 2 - square
        values[kappa] = np.log(squares.batch_size[kappa] * np.maximum(square, error / 10) / trace)
    return squares.epoch, values


def _curves(panel, epoch, values, colours, limits=None):
    """Means and intervals of ``values`` per kappa, (seeds, points): logarithms, unless they have ``limits``."""
    drawn = statistics.bootstrap_means(values) if values else {}
    for kappa, runs in values.items():
        curves = np.stack([runs.mean(axis=0), *statistics.interval(drawn[kappa])])
        curves = np.clip(curves, *limits) if limits else np.exp(curves)
        style.curve(panel, epoch, *curves, colours[kappa])
