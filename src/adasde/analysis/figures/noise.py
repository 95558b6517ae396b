"""``noise``: how far noise dominates the gradient along training, and the speeds that the baselines predict from it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.figures import style
from adasde.common import InputError
from adasde.scaling.lag import SPEED

SHOWN = (2, 4, 16, 64)  # kappas of the predicted speeds, among those that a run records


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """Top: B |grad f|^2 / tr Sigma of the runs, which the rule needs to be small. Bottom: predicted relative speed."""
    if "noise_trace" not in set(trajectories["metric"]):
        raise InputError("figure = 'noise': the runs hold no noise_trace; they were made by an older recipe")
    experiments = list(trajectories["experiment"].unique())
    figure, pairs, across = style.pairs(len(experiments), (2.9, 4.8), (1.2, 0.4))
    for top, bottom in pairs[1:]:
        top.sharey(pairs[0, 0])
        bottom.sharey(pairs[0, 1])
    colours = style.colours_of({*trajectories.loc[trajectories["rule"] == "sqrt", "kappa"], *SHOWN})
    seeds = set()
    for (top, bottom), experiment in zip(pairs, experiments, strict=True):
        runs = trajectories[trajectories["experiment"] == experiment]
        top.sharex(bottom)
        top.tick_params(labelbottom=False)
        _curves(top, *_ratios(runs, experiment), colours)
        top.axhline(1, color="0.4", linewidth=0.8)
        for kappa in SHOWN:
            groups = tables.groups(runs, experiment, "sqrt", f"{SPEED}{kappa}")
            baseline = {kappa: groups.healthy[1]} if 1 in groups.healthy else {}
            _curves(bottom, groups.epoch, baseline, colours, limits=(0.0, 1.0))
        seeds.add(groups.seeds)
        top.set_title(style.subject(runs.iloc[0], ",\n"), fontsize="medium")
        style.time_axes(top, bottom, groups.epoch, groups.time)
    pairs[0, 0].set_yscale("log")
    pairs[0, 1].set_ylim(0, 1.05)
    for top, bottom in pairs[::across]:
        top.set_ylabel("signal over noise\n" + r"$B\,\|\nabla f\|^2 / \mathrm{tr}\,\Sigma$")
        bottom.set_ylabel("predicted speed at\n" + r"$\kappa$ times the batch")
    figure.suptitle(f"How far noise dominates the gradient, {style.sample(seeds)}")
    names = {kappa: style.kappa_label(kappa) + (" (baseline)" if kappa == 1 else "") for kappa in colours}
    style.legend(figure, {names[k]: plt.Line2D([], [], color=c, marker="o") for k, c in colours.items()})
    return figure


def _ratios(trajectories, experiment):
    """Epochs, and per healthy kappa the logarithm of each run's signal over noise at its own batch size.

    An estimate below a tenth of its error, from so few examples, counts as that tenth. The error is the difference
    between the unbiased estimate and the subset's own squared gradient: there are enough examples for the noise.
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
    """Plot means and intervals of ``values`` per kappa, (seeds, points): logarithms, unless they have ``limits``."""
    for kappa, curves in statistics.mean_intervals(values).items():
        curves = np.clip(curves, *limits) if limits else np.exp(curves)
        style.curve(panel, epoch, *curves, colours[kappa])
