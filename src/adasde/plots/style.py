"""One look for all figures: colours, labels, sizes, and the axis that counts both SDE time and epochs."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..store import atomic

LABELS = {
    "train_loss": "train loss (nats)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (%)",
    "squared_norm": r"squared norm $\|\theta\|^2$",
    "gradient_norm": r"gradient norm $\|\nabla f\|$",
}
UNITS = {"test_accuracy": 100.0}  # factor from the table's unit to the label's

OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop"}

RULES = {
    "sqrt": "square root",
    "linear": "linear",
    "lr-only": r"lr only, $\sqrt{\kappa}$",
    "none": "nothing changed",
    "sqrt-no-betas": r"square root without $\beta$",
    "sqrt-no-eps": r"square root without $\epsilon$",
}
_COLOURS = sns.color_palette("colorblind")
RULE_STYLES = {
    rule: {"color": _COLOURS[i], "marker": marker, "linestyle": line}
    for rule, i, marker, line in (
        ("sqrt", 0, "o", "-"),
        ("linear", 3, "s", "--"),
        ("lr-only", 1, "^", "-."),
        ("none", 7, "D", ":"),
        ("sqrt-no-betas", 2, "v", "--"),
        ("sqrt-no-eps", 4, "P", "-."),
    )
}


def use():
    """Set the style; call before a figure is made."""
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.4,
            "lines.markersize": 3.5,
            "legend.frameon": False,
            "pdf.fonttype": 42,
            # Dates in a PDF would make equal figures differ.
            "svg.hashsalt": "adasde",
        }
    )


def batch_colours(kappas):
    """One colour per kappa, dark for the smallest batch to light for the largest, readable without colour vision."""
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(kappas)))
    return dict(zip(sorted(kappas), shades, strict=True))


def batch_label(batch_size, kappa):
    """Legend entry of a batch size."""
    return rf"$B = {batch_size}$" + (" (baseline)" if kappa == 1 else rf" ($\kappa = {kappa:g}$)")


def time_axes(top, bottom, epoch, time):
    """Run the x-axis of a column of panels in epochs, marked above ``top``; mark the SDE time below ``bottom``.

    At a constant learning rate the two are proportional. Under a schedule the time all but stops when the learning
    rate drops, and an axis that ran in time would hide the rest of the run.
    """
    bottom.set_xlim(0, epoch[-1] * 1.02)
    ticks = [
        tick for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, epoch[-1]) if 0 <= tick <= epoch[-1]
    ]
    times = np.interp(ticks, [0, *epoch], [0, *time])
    power = int(np.floor(np.log10(time[-1])))
    bottom.set_xticks(ticks, [f"{t / 10.0**power:.2f}" if t else "0" for t in times])
    bottom.set_xlabel(rf"time $t = \sum \eta^2$ ($10^{{{power}}}$)")
    epochs = top.secondary_xaxis("top")
    epochs.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    epochs.set_xlabel("epochs")


def plain_log_axis(axis):
    """Label a logarithmic axis with plain numbers at 1, 2, 3 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def save(figure, paths):
    """Write a figure to every path (PNG or PDF), each whole or not at all, and close it."""
    for path in paths:
        with atomic(path) as temporary:
            metadata = {"CreationDate": None} if temporary.suffix == ".pdf" else {"Software": None}
            figure.savefig(temporary, metadata=metadata)
    plt.close(figure)
