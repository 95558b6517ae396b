"""One look for all figures: colours, labels, panels, and the axis that counts both SDE time and epochs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from adasde.common import InputError, atomic
from adasde.experiments.oracles import ORACLES
from adasde.scaling.hyperparameters import OPTIMIZERS
from adasde.workloads.registry import workload_named

matplotlib.use("Agg")

METRICS = ("train_loss", "test_accuracy", "log_perplexity", "squared_norm")  # test functions that have panels
LABELS = {
    "train_loss": "train loss (nats)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (%)",
    "log_perplexity": "validation log-perplexity (nats)",
    "squared_norm": r"squared norm $\|\theta\|^2$",
    "gradient_norm": r"gradient norm $\|\nabla f\|$",
}
UNITS = {"test_accuracy": 100.0}  # factor from the table's unit to the label's

PALETTE = sns.color_palette("colorblind")
_LOOKS = {
    "sqrt": ("square root", 0, "o", "-"),
    "linear": ("linear", 3, "s", "--"),
    "lr-only": (r"lr only, $\sqrt{\kappa}$", 1, "^", "-."),
    "none": ("nothing changed", 7, "D", ":"),
    "sqrt-no-betas": (r"square root without $\beta$", 2, "v", "--"),
    "sqrt-no-eps": (r"square root without $\epsilon$", 4, "P", "-."),
    "half-life": (r"square root, $\beta^\kappa$", 9, "X", "--"),
    "invariant": ("invariant Adam", 8, "*", "-."),
}
RULES = {rule: label for rule, (label, *_) in _LOOKS.items()}
RULE_STYLES = {
    rule: {"color": PALETTE[place], "marker": marker, "linestyle": line}
    for rule, (_, place, marker, line) in _LOOKS.items()
}
REACH = 2.0  # of intervals beyond their curves, up to which a logarithmic axis shows them whole
BAND = {"color": "0.88", "zorder": 0}  # where a rule that preserves training stays
BASELINE = "baseline, 95% interval"


def panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """Set the style and make a figure of ``size`` inches with an array (rows, columns) of panels."""
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(
        {"figure.dpi": 100, "savefig.dpi": 160, "pdf.fonttype": 42}
        | {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        | {"axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6}
        | {"lines.linewidth": 1.4, "lines.markersize": 3.5}
    )
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)


def pairs(
    count: int, size: tuple[float, float], margin: tuple[float, float], **shared: Any
) -> tuple[Figure, np.ndarray, int]:
    """Make a figure of pairs of panels, one below the other, at most three pairs side by side.

    Each pair has ``size`` inches, and the figure ``margin`` inches more. Returns the figure, its pairs (count, 2), and
    how many are side by side.
    """
    across = min(count, 3)
    rows = -(-count // across)
    whole = (margin[0] + size[0] * across, margin[1] + size[1] * rows)
    figure, axes = panels(2 * rows, across, whole, **shared)
    found = axes.reshape(rows, 2, across).swapaxes(1, 2).reshape(-1, 2)
    for panel in found[count:].flat:
        panel.set_axis_off()
    return figure, found[:count], across


def metrics_of(trajectories: pd.DataFrame) -> list[str]:
    """Test functions that have a panel, of those that the runs measured."""
    measured = set(trajectories["metric"])
    return [metric for metric in METRICS if metric in measured] or [METRICS[0]]


def subject(row: Any, separator: str = ", ") -> str:
    """Title of a row of a table: its optimizer, and its workload or oracle."""
    what = workload_named(row["task"]) if "task" in row else ORACLES[row["oracle"]]
    return f"{OPTIMIZERS[row['optimizer']].title}{separator}{what.title}"


def colours_of(levels: Iterable[float]) -> dict[float, Any]:
    """One colour per kappa, or ell, dark for the smallest to light for the largest, readable without colour vision."""
    levels = sorted(levels)
    return dict(zip(levels, plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(levels))), strict=True))


def kappa_label(kappa: float) -> str:
    """Legend entry of a kappa."""
    return rf"$\kappa = {kappa:g}$"


def sample(seeds: int | set[int], one: str = "one seed", many: str = "seeds") -> str:
    """Words for what a curve and its band are; ``seeds`` is a number or, if panels differ, a set of numbers."""
    counts = sorted(seeds) if isinstance(seeds, set) else [seeds]
    if counts[-1] == 1:
        return one
    return f"mean and 95% interval of {' or '.join(map(str, counts))} {many}"


def curve(panel: Axes, x: Any, mean: Any, low: Any, high: Any, colour: Any, alpha: float = 0.2, **look: Any) -> None:
    """Plot a mean with its points, and its interval as a band."""
    panel.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)
    panel.plot(x, mean, **{"color": colour, "marker": "o"} | look)


def points(panel: Axes, x: Any, values: np.ndarray, low: np.ndarray, high: np.ndarray, **look: Any) -> None:
    """Plot points with their intervals as bars."""
    errors = np.maximum([values - low, high - values], 0.0)
    panel.errorbar(x, values, yerr=errors, **{"marker": "o", "capsize": 2} | look)


def legend(figure: Figure, entries: Mapping[str, Any] | Iterable[Axes], columns: int | None = None) -> None:
    """Put one legend below all panels, at most so many ``columns`` wide.

    ``entries`` are handles by their label, or panels: then what these name, once, in the order of first mention.
    """
    if not isinstance(entries, Mapping):
        named: dict[str, Any] = {}
        for panel in entries:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                named.setdefault(label, handle)
        entries = named
    columns = min(columns or len(entries), len(entries))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def time_axes(top: Axes, bottom: Axes, epoch: np.ndarray, time: np.ndarray) -> None:
    """Let the x-axis of a column of panels count epochs, and mark above ``top`` the SDE time reached.

    At a constant learning rate the two are proportional. Under a schedule the time all but stops when the learning
    rate drops, and an axis that counted time would hide the rest of the run.
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


def kappa_axis(panel: Axes, kappas: Sequence[float], label: str) -> None:
    """Make the x-axis logarithmic, with a tick at every kappa."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(kappas, [f"{kappa:g}" for kappa in kappas])
    panel.set_xlabel(label)


def log_axis(panel: Axes, curves: Sequence[np.ndarray] = (), bounds: Sequence[np.ndarray] = ()) -> None:
    """Make the y-axis logarithmic, with plain numbers at 1, 2, 3 and 5 of each decade.

    Its range is that of ``curves``, if there are any. It reaches to those ``bounds`` of intervals that lie within a
    factor of REACH of the curves' own. Intervals beyond, perhaps to below 0, end at the frame. With few seeds they
    would leave the curves little room.
    """
    values, bounds = (np.concatenate([np.ravel(curve) for curve in part] or [[]]) for part in (curves, bounds))
    values = values[np.isfinite(values) & (values > 0)]
    panel.set_yscale("log")
    if len(values):
        near = (bounds >= values.min() / REACH) & (bounds <= values.max() * REACH)
        values = np.concatenate([values, bounds[near]])
        margin = (values.max() / values.min()) ** 0.06
        panel.set_ylim(values.min() / margin, values.max() * margin)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def behind(figure: Figure, reference: Figure) -> None:
    """Plot the curves of ``reference``, a figure of the same panels, behind those of ``figure``, and close it."""
    both = list(zip(figure.axes, reference.axes, strict=False))
    if len(figure.axes) != len(reference.axes) or any(a.get_xlabel() != b.get_xlabel() for a, b in both):
        plt.close(reference)
        raise InputError("reference: its figure has other panels; it was drawn from other experiments")
    for panel, other in both:
        for line in other.lines:
            if line.get_transform() == other.transData and len(line.get_xdata()):  # and not a line across the panel
                look = {"marker": line.get_marker(), "linestyle": line.get_linestyle()}
                size = {"markersize": 2.2 * line.get_markersize(), "linewidth": 3.5}
                panel.plot(*line.get_data(), color="0.5", alpha=0.35, zorder=0.5, **look, **size)
    plt.close(reference)
    figure.text(0.995, 0.005, "broad, grey: reference", ha="right", va="bottom", color="0.4", fontsize="small")


def save(figure: Figure, paths: Iterable[Path]) -> None:
    """Write a figure to every path (PNG or PDF), each whole or not at all, and close it."""
    for path in paths:
        with atomic(path) as temporary:
            # Dates in a PDF would make equal figures differ.
            metadata = {"CreationDate": None} if temporary.suffix == ".pdf" else {"Software": None}
            figure.savefig(temporary, metadata=metadata)
            figure.set_layout_engine("none")  # keeps where everything is, so that it is worked out once
    plt.close(figure)
