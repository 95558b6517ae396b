"""``weak-order``: the SDE's error against the algorithm's time step, test function by test function."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, weak_error
from adasde.analysis.figures import style
from adasde.common import InputError

FUNCTIONS = {
    "theta": r"weights $\theta$",
    "cosine": r"$\cos\theta$",
    "squared_norm": r"squared norm $\|\theta\|^2$",
    "loss": r"loss $f(\theta)$",
    "u": r"Adam's and RMSprop's average $u$ of squared gradients",
    "m": r"Adam's average $m$ of gradients",
}
COLOURS = dict(zip(FUNCTIONS, style.PALETTE, strict=False))
VARIANTS = {"torch": ("as in torch", "--"), "authors": ("as in the authors' code", ":")}
TOTAL = "0.15"


def plot(simulations: pd.DataFrame, subject: str) -> Figure:
    """A row per optimizer and a panel per oracle; practice's variants of RMSprop beside the paper's on their oracle."""
    own = simulations[simulations["run"].isin(simulations.loc[simulations["process"] == "paper", "run"])]
    variants = simulations[~simulations["run"].isin(own["run"])]
    optimizers, oracles = list(own["optimizer"].unique()), list(own["oracle"].unique())
    if own.empty:
        raise InputError("figure = 'weak-order': no simulation is of the paper's algorithm")
    size = (0.6 + 3.2 * len(oracles), 2.0 + 2.6 * len(optimizers))
    figure, axes = style.panels(len(optimizers), len(oracles), size, sharex=True, sharey=True)
    slopes = []
    for line, optimizer in zip(axes, optimizers, strict=True):
        for panel, oracle in zip(line, oracles, strict=True):
            rows = own[(own["optimizer"] == optimizer) & (own["oracle"] == oracle)]
            panel.set_title(style.subject(rows.iloc[0]))
            slopes.append(_functions(panel, rows))
            beside = variants[(variants["optimizer"] == optimizer) & (variants["oracle"] == oracle)]
            for run, name in beside[["run", "process"]].drop_duplicates().itertuples(index=False, name=None):
                if name in VARIANTS:
                    errors = weak_error.weak_order(beside, run, name)
                    panel.plot(errors.levels, errors.error, color=TOTAL, linestyle=VARIANTS[name][1], linewidth=1.6)
        line[0].set_ylabel("error of the mean, relative")
    for panel in axes[-1]:
        panel.set_xlabel(r"the algorithm's time step $\eta^2$")
    levels = np.unique(np.concatenate([line.get_xdata() for panel in axes.flat for line in panel.lines]))
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_xticks(levels, [f"1/{1 / level:g}" for level in levels])
    axes[0, 0].minorticks_off()
    key = {FUNCTIONS[name]: plt.Line2D([], [], color=COLOURS[name], marker="o") for name in FUNCTIONS}
    key["root mean square over all"] = plt.Line2D([], [], color=TOTAL, linewidth=2.2)
    if not variants.empty:
        key |= {
            f"RMSprop {text}": plt.Line2D([], [], color=TOTAL, linestyle=line, linewidth=1.6)
            for text, line in VARIANTS.values()
        }
    key["slope 1"] = plt.Line2D([], [], color="0.6", linewidth=0.9)
    style.legend(figure, key, columns=3)
    message = f"Orders of the SDE's error in the time step: {min(slopes):.2f} to {max(slopes):.2f}, by the theorems 1"
    batches = style.repeats(simulations["batch"].nunique(), "batch of paths", "batches of paths")
    style.headline(figure, message, f"slopes of the root mean square with 95% intervals from {batches}")
    return figure


def _functions(panel, rows):
    """Plot the errors on one oracle that are told from 0, and their root mean square; return its slope."""
    errors = weak_error.weak_order(rows, rows["run"].iloc[0], "paper")
    mean = np.abs(errors.gaps.mean(axis=0))
    low, high = statistics.interval(statistics.bootstrap(errors.gaps))
    told = (low > 0) | (high < 0) | np.isnan(low)
    for point, name in enumerate(weak_error.function_names(rows)):
        values = np.where(told[:, point], mean[:, point], np.nan)
        panel.plot(errors.levels, values, color=COLOURS[name], marker="o", linewidth=0.9)
    style.curve(panel, errors.levels, errors.error, *errors.interval(), TOTAL, linewidth=2.2, marker=None)
    slope, replicates = errors.slope()
    guide = errors.error[-1] * errors.levels / errors.levels[-1]
    panel.plot(errors.levels, 2.5 * guide, color="0.6", linewidth=0.9)
    panel.set_yscale("log")
    words = "slope {:.2f} [{:.2f}, {:.2f}]".format(slope, *statistics.interval(replicates))
    panel.text(0.04, 0.95, words, transform=panel.transAxes, va="top")
    return slope
