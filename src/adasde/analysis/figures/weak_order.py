"""``weak-order``: the SDE's error against the algorithm's time step, test function by test function."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style
from adasde.experiments.oracles import ORACLES

FUNCTIONS = {
    "theta": r"$\theta$",
    "cosine": r"$\cos\theta$",
    "squared_norm": r"$\|\theta\|^2$",
    "loss": r"$f$",
    "u": r"$u$",
    "m": r"$m$",
}
COLOURS = dict(zip(FUNCTIONS, style.PALETTE, strict=False))
VARIANTS = {  # of RMSprop: name, colour and marker
    "paper": ("paper's RMSprop", "0.2", "o"),
    "torch": ("torch's", style.PALETTE[0], "s"),
    "authors": ("authors' practice", style.PALETTE[1], "^"),
}


def plot(simulations: pd.DataFrame, subject: str) -> Figure:
    """A row per optimizer and a panel per oracle; in the last column, the variants of RMSprop on one oracle."""
    own = simulations[simulations["run"].isin(simulations.loc[simulations["process"] == "paper", "run"])]
    variants = simulations[~simulations["run"].isin(own["run"])]
    optimizers, oracles = list(own["optimizer"].unique()), list(own["oracle"].unique())
    columns = len(oracles) + (not variants.empty)
    size = (2.7 * columns, 0.7 + 2.5 * len(optimizers))
    figure, axes = style.panels(len(optimizers), columns, size, sharex="col", sharey=True)
    for line, optimizer in zip(axes, optimizers, strict=True):
        for panel, oracle in zip(line, oracles, strict=False):
            rows = own[(own["optimizer"] == optimizer) & (own["oracle"] == oracle)]
            _functions(panel, rows)
            panel.set_title(style.subject(rows.iloc[0]))
        line[0].set_ylabel("error of the mean, relative")
    lowest = list(axes[-1])
    if not variants.empty:
        lowest[-1] = axes[0, -1]
        _variants(axes[0, -1], own, variants)
        # The panels below hold the legend of the variants.
        place, where = (axes[1, -1], "upper left") if len(axes) > 1 else (axes[0, -1], "lower right")
        place.legend(*axes[0, -1].get_legend_handles_labels(), loc=where, title="slope", fontsize="small")
        for panel in axes[1:, -1]:
            panel.set_axis_off()
    axes[0, 0].set_ylim(bottom=3e-5)  # below are functions whose error happens to vanish
    for panel in lowest:
        panel.set_xlabel(r"time step $\eta^2$")
    for panel in axes.flat:
        panel.xaxis.set_tick_params(labelbottom=True)
    handles = {FUNCTIONS[name]: plt.Line2D([], [], color=colour, marker="o") for name, colour in COLOURS.items()}
    handles["all, root mean square"] = plt.Line2D([], [], color="0.2", linewidth=2.2)
    handles["order 1"] = plt.Line2D([], [], color="0.5", linestyle="--")
    style.legend(figure, handles)
    batches = simulations["batch"].nunique()
    figure.suptitle(f"The SDE's weak error shrinks with the step; 95% intervals from {batches} batches of paths")
    return figure


def _functions(panel, rows):
    """Plot the errors of every test function on one oracle, and their root mean square with its slope."""
    errors = weak_error.weak_order(rows, rows["run"].iloc[0], "paper")
    low, high = statistics.interval(statistics.bootstrap(errors.gaps))
    for point, name in enumerate(weak_error.function_names(rows)):
        value = errors.gaps.mean(axis=0)[:, point]
        spread = np.abs(np.array([low[:, point], high[:, point]]) - value)
        spread = spread if (value >= 0).all() else spread[::-1] if (value <= 0).all() else spread
        size = np.abs(value)
        bars = [np.minimum(spread[0], 0.95 * size), spread[1]]  # a log axis has no zero
        panel.errorbar(errors.levels, size, yerr=bars, color=COLOURS[name], marker="o", linewidth=0.9, capsize=2)
    slope = _total(panel, errors, "0.2", linewidth=2.2)
    _axes(panel, errors)
    panel.text(0.04, 0.95, f"slope {slope}", transform=panel.transAxes, va="top")


def _variants(panel, own, variants):
    """Plot the variants' total errors on the oracle where they are compared."""
    oracle = variants["oracle"].iloc[0]
    paper = own.loc[(own["optimizer"] == "rmsprop") & (own["oracle"] == oracle), "run"].iloc[0]
    compared = {"paper": weak_error.weak_order(own, paper, "paper")}
    for name in variants["process"].unique():
        if name != "sde":
            compared[name] = weak_error.weak_order(variants, variants["run"].iloc[0], name)
    for name, errors in compared.items():
        title, colour, marker = VARIANTS[name]
        _total(panel, errors, colour, title, linewidth=1.4, marker=marker)
    _axes(panel, errors)
    panel.set_title(f"variants of RMSprop, {ORACLES[oracle].title}")
    _ticks(panel, np.unique(np.concatenate([errors.levels for errors in compared.values()])))


def _total(panel, errors, colour, title=None, **look):
    """Plot the root mean square over all test functions; return its slope with the interval."""
    slope, replicates = errors.slope()
    words = "{:.2f} [{:.2f}, {:.2f}]".format(slope, *statistics.interval(replicates))
    label = f"{title}: {words}" if title else None
    style.curve(
        panel, errors.levels, errors.error, *errors.interval(), colour, **{"label": label, "marker": None} | look
    )
    return words


def _axes(panel, errors):
    top = errors.error[-1] * 3
    panel.plot(errors.levels, top * errors.levels / errors.levels[-1], color="0.5", linestyle="--", linewidth=1)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    _ticks(panel, errors.levels)


def _ticks(panel, levels):
    panel.set_xticks(levels, [f"1/{1 / level:g}" for level in levels])
    panel.minorticks_off()
