"""``weak-order``: the SDE's error against the algorithm's time step, test function by test function."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style
from adasde.experiments.studies import ORACLES

FUNCTIONS = {
    "theta": r"$\theta$",
    "cosine": r"$\cos\theta$",
    "squared_norm": r"$\|\theta\|^2$",
    "loss": r"$f$",
    "u": r"$u$",
    "m": r"$m$",
}
VARIANTS = {"paper": "paper's RMSprop", "torch": "torch's", "authors": "authors' practice"}


def draw(simulations, subject):
    """A row per optimizer and a panel per oracle; in the last column, the variants of RMSprop on one oracle."""
    style.use()
    rows = simulations[simulations["study"] == "weak-order"]
    own = rows[rows["run"].isin(rows.loc[rows["process"] == "paper", "run"])]
    optimizers, oracles = list(own["optimizer"].unique()), list(own["oracle"].unique())
    variants = rows[~rows["run"].isin(own["run"])]
    columns = len(oracles) + (not variants.empty)
    figure, axes = plt.subplots(
        len(optimizers),
        columns,
        figsize=(2.7 * columns, 0.7 + 2.5 * len(optimizers)),
        squeeze=False,
        sharex="col",
        sharey=True,
        layout="constrained",
    )
    colours = dict(zip(FUNCTIONS, sns.color_palette("colorblind"), strict=False))
    for line, optimizer in zip(axes, optimizers, strict=True):
        for panel, oracle in zip(line, oracles, strict=False):
            run = own.loc[(own["optimizer"] == optimizer) & (own["oracle"] == oracle), "run"].iloc[0]
            _functions(panel, weak_error.weak_order(simulations, run, "paper"), _names(simulations, run), colours)
            panel.set_title(f"{style.OPTIMIZERS[optimizer]}, {ORACLES[oracle].title}")
        line[0].set_ylabel("error of the mean, relative")
    if not variants.empty:
        handles, labels = _variants(axes[0, -1], simulations, own, variants)
        place = axes[1, -1] if len(axes) > 1 else axes[0, -1]
        place.legend(
            handles, labels, loc="upper left" if len(axes) > 1 else "lower right", title="slope", fontsize="small"
        )
    for panel in axes[1:, -1] if not variants.empty else ():
        panel.set_axis_off()  # it holds the legend of the one above
    axes[0, 0].set_ylim(bottom=3e-5)  # below are functions whose error happens to vanish
    for panel in axes[-1] if variants.empty else [*axes[-1, :-1], axes[0, -1]]:
        panel.set_xlabel(r"time step $\eta^2$")
    for panel in axes.flat:
        panel.xaxis.set_tick_params(labelbottom=True)
    handles = [plt.Line2D([], [], color=c, marker="o", label=FUNCTIONS[name]) for name, c in colours.items()]
    handles.append(plt.Line2D([], [], color="0.2", linewidth=2.2, label="all, root mean square"))
    handles.append(plt.Line2D([], [], color="0.5", linestyle="--", label="order 1"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    batches = rows["batch"].nunique()
    figure.suptitle(f"The SDE's weak error shrinks with the step; 95% intervals from {batches} batches of paths")
    return figure


def _functions(panel, errors, names, colours):
    drawn = statistics.bootstrap(errors.gaps, lambda mean: mean)
    low, high = statistics.interval(drawn)
    for point, name in enumerate(names):
        value = errors.gaps.mean(axis=0)[:, point]
        spread = np.abs(np.array([low[:, point], high[:, point]]) - value)
        spread = spread if (value >= 0).all() else spread[::-1] if (value <= 0).all() else spread
        magnitude = np.abs(value)
        lower = np.minimum(spread[0], 0.95 * magnitude)  # a log axis has no zero
        panel.errorbar(
            errors.levels, magnitude, yerr=[lower, spread[1]], color=colours[name], marker="o", linewidth=0.9, capsize=2
        )
    _total(panel, errors, "0.2", 2.2)
    _axes(panel, errors)
    slope, replicates = errors.slope()
    panel.text(0.04, 0.95, f"slope {slope:.2f} {_bounds(replicates)}", transform=panel.transAxes, va="top")


def _variants(panel, simulations, own, variants):
    """Draw the variants' total errors on the oracle where they are compared; return the handles and labels of each."""
    oracle = variants["oracle"].iloc[0]
    paper = own.loc[(own["optimizer"] == "rmsprop") & (own["oracle"] == oracle), "run"].iloc[0]
    compared = {"paper": weak_error.weak_order(simulations, paper, "paper")}
    for name in variants["process"].unique():
        if name != "sde":
            compared[name] = weak_error.weak_order(simulations, variants["run"].iloc[0], name)
    colours = ("0.2", *sns.color_palette("colorblind")[:2])
    look = dict(zip(VARIANTS, zip(colours, "os^", strict=True), strict=True))
    for name, errors in compared.items():
        slope, replicates = errors.slope()
        colour, marker = look[name]
        _total(panel, errors, colour, 1.4, marker, f"{VARIANTS[name]}: {slope:.2f} {_bounds(replicates)}")
    _axes(panel, errors)
    panel.set_title(f"variants of RMSprop, {ORACLES[oracle].title}")
    _ticks(panel, np.unique(np.concatenate([errors.levels for errors in compared.values()])))
    return panel.get_legend_handles_labels()


def _total(panel, errors, colour, width, marker=None, label=None):
    low, high = errors.interval()
    panel.fill_between(errors.levels, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(errors.levels, errors.error, color=colour, linewidth=width, marker=marker, label=label)


def _axes(panel, errors):
    top = errors.error[-1] * 3
    panel.plot(errors.levels, top * errors.levels / errors.levels[-1], color="0.5", linestyle="--", linewidth=1)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    _ticks(panel, errors.levels)


def _ticks(panel, levels):
    panel.set_xticks(levels, [f"1/{1 / level:g}" for level in levels])
    panel.minorticks_off()


def _bounds(replicates):
    return "[{:.2f}, {:.2f}]".format(*statistics.interval(replicates))


def _names(simulations, run):
    names = simulations.loc[simulations["run"] == run, "metric"].unique()
    return [name for name in names if not name.endswith("_deviation")]
