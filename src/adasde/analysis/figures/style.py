"""One look for all figures: colours, labels, sizes, and the axis that counts both SDE time and epochs."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from adasde.analysis.figures.registry import OPTIMIZERS  # noqa: F401, as all words of figures are here
from adasde.common import InputError, atomic

matplotlib.use("Agg")

LABELS = {
    "train_loss": "train loss (nats)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (%)",
    "log_perplexity": "validation log-perplexity (nats)",
    "squared_norm": r"squared norm $\|\theta\|^2$",
    "gradient_norm": r"gradient norm $\|\nabla f\|$",
}
UNITS = {"test_accuracy": 100.0}  # factor from the table's unit to the label's

RULES = {
    "sqrt": "square root",
    "linear": "linear",
    "lr-only": r"lr only, $\sqrt{\kappa}$",
    "none": "nothing changed",
    "sqrt-no-betas": r"square root without $\beta$",
    "sqrt-no-eps": r"square root without $\epsilon$",
}
REACH = 2.0  # of intervals beyond their curves, up to which a logarithmic axis shows them whole
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
    """One colour per kappa, or ell, dark for the smallest to light for the largest, readable without colour vision."""
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(kappas)))
    return dict(zip(sorted(kappas), shades, strict=True))


def batch_label(batch_size, kappa, diverged=False):
    """Legend entry of a batch size."""
    name = rf"$B = {batch_size}$" + (" (baseline)" if kappa == 1 else rf" ($\kappa = {kappa:g}$)")
    return name + (", diverged" if diverged else "")


def ell_label(ell, diverged=False):
    """Legend entry of a SVAG level."""
    return rf"$\ell = {ell:g}$" + (" (plain run)" if ell == 1 else "") + (", diverged" if diverged else "")


def divergence(diverged):
    """Words for the kappas at which runs of a rule diverged; empty if none did."""
    kappas = ", ".join(f"{kappa:g}" for kappa in sorted(diverged))
    return rf" (diverged at $\kappa = {kappas}$)" if kappas else ""


def sample(seeds, one="one seed", many="seeds"):
    """Words for what a curve and its band are; ``seeds`` is a number or, where panels differ, a set of numbers."""
    counts = sorted(seeds) if isinstance(seeds, set) else [seeds]
    if counts[-1] == 1:
        return one
    return f"mean and 95% interval of {' or '.join(map(str, counts))} {many}"


def curve(panel, x, mean, low, high, colour, label=None, line="-"):
    """Draw a mean with its points, and its interval as a band."""
    panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.plot(x, mean, color=colour, marker="o", linestyle=line, label=label)


def legend(figure, panels, columns=4):
    """Put one legend below all panels: what each of ``panels`` names, once and in the order in which they name it."""
    entries = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(columns, len(entries)))


def time_axes(top, bottom, epoch, time):
    """Run the x-axis of a column of panels in epochs, and mark above ``top`` the SDE time reached.

    At a constant learning rate the two are proportional. Under a schedule the time all but stops when the learning
    rate drops, and an axis that ran in time would hide the rest of the run.
    """
    bottom.set_xlim(0, epoch[-1] * 1.02)
    locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    ticks = [tick for tick in locator.tick_values(0, epoch[-1]) if 0 <= tick <= epoch[-1]]
    times = np.interp(ticks, [0, *epoch], [0, *time])
    power = int(np.floor(np.log10(time[-1])))
    bottom.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    bottom.set_xlabel("epochs")
    above = top.secondary_xaxis("top")
    above.set_xticks(ticks, [f"{t / 10.0**power:.2f}" if t else "0" for t in times])
    above.set_xlabel(rf"time $t = \sum \eta^2$ reached ($10^{{{power}}}$)")


def log_axis(panel, curves, bounds=()):
    """Make the y-axis logarithmic, its range that of ``curves``, with plain numbers at 1, 2, 3 and 5 of each decade.

    The range reaches to those ``bounds`` of intervals that lie within a factor of REACH of the curves' own. Intervals
    beyond, to below 0 perhaps, end at the frame: with few seeds they would leave the curves little room.
    """
    values, bounds = (np.concatenate([np.ravel(curve) for curve in part] or [[]]) for part in (curves, bounds))
    values = values[np.isfinite(values) & (values > 0)]
    panel.set_yscale("log")
    if len(values):
        near = (bounds >= values.min() / REACH) & (bounds <= values.max() * REACH)
        values = np.concatenate([values, bounds[near]])
        margin = (values.max() / values.min()) ** 0.06
        panel.set_ylim(values.min() / margin, values.max() * margin)
    plain_log(panel)


def plain_log(panel):
    """Put plain numbers at 1, 2, 3 and 5 of each decade of a logarithmic y-axis."""
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def behind(figure, reference):
    """Draw the curves of ``reference``, a figure of the same panels, behind those of ``figure``, and close it."""
    pairs = list(zip(figure.axes, reference.axes, strict=False))
    if len(figure.axes) != len(reference.axes) or any(a.get_xlabel() != b.get_xlabel() for a, b in pairs):
        plt.close(reference)
        raise InputError("reference: its figure has other panels; it was drawn from other experiments")
    for panel, other in pairs:
        for line in other.lines:
            if line.get_transform() == other.transData and len(line.get_xdata()):  # and not a line across the panel
                look = {"marker": line.get_marker(), "linestyle": line.get_linestyle()}
                size = {"markersize": 2.2 * line.get_markersize(), "linewidth": 3.5}
                panel.plot(*line.get_data(), color="0.5", alpha=0.35, zorder=0.5, **look, **size)
    plt.close(reference)
    figure.text(0.995, 0.005, "broad, grey: reference", ha="right", va="bottom", color="0.4", fontsize="small")


def save(figure, paths):
    """Write a figure to every path (PNG or PDF), each whole or not at all, and close it."""
    for path in paths:
        with atomic(path) as temporary:
            metadata = {"CreationDate": None} if temporary.suffix == ".pdf" else {"Software": None}
            figure.savefig(temporary, metadata=metadata)
            figure.set_layout_engine("none")  # which keeps where everything is, so that it is worked out once
    plt.close(figure)
