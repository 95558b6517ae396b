"""One look for all figures: colours, labels, panels and axes."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from adasde.analysis.optimizers import TITLES
from adasde.common import InputError, atomic
from adasde.experiments.oracles import ORACLES
from adasde.workloads.registry import workload_named

matplotlib.use("Agg")

METRICS = ("train_loss", "test_accuracy", "log_perplexity", "squared_norm")  # test functions that have panels
LABELS = {
    "train_loss": "train loss (nats)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (%)",
    "log_perplexity": "log-perplexity (nats)",
    "squared_norm": r"squared norm $\|\theta\|^2$",
}
UNITS = {"test_accuracy": 100.0}  # factor from the table's unit to the label's
GAPS = {"test_accuracy": "test accuracy (points)"}  # labels of gaps, where they are not those of the values

PALETTE = sns.color_palette("colorblind")
# What a run follows beside the square root: its name, colour, marker and line.
_LOOKS = {
    "sqrt": ("square root", "0.15", "o", "-"),
    "half-life": (r"square root, $\beta^\kappa$", PALETTE[9], "X", "-"),
    "invariant": ("invariant Adam", PALETTE[8], "*", "-"),
    "none": ("nothing changed", PALETTE[7], "D", "-"),
    "linear": ("linear", PALETTE[3], "s", "-"),
    "lr-only": (r"lr only, $\sqrt{\kappa}$", PALETTE[1], "^", "-"),
    "sqrt-no-betas": (r"square root without $\beta$", PALETTE[2], "v", "--"),  # often the same as lr-only
    "sqrt-no-eps": (r"square root without $\epsilon$", PALETTE[4], "P", "-"),
    "sqrt-no-decay": ("square root, decay fixed", PALETTE[5], "h", "-"),
    "keep": ("second moment kept", PALETTE[0], "<", "-"),
    "fresh": ("new optimizer", PALETTE[6], ">", "-"),
}
RULES = {rule: label for rule, (label, *_) in _LOOKS.items()}
RULE_STYLES = {
    rule: {"color": colour, "marker": marker, "linestyle": line} for rule, (_, colour, marker, line) in _LOOKS.items()
}
PLASMA = (0.02, 0.22, 0.4, 0.55, 0.68, 0.79, 0.88, 0.94)  # places on the map of kappa 2, 4, 8, ..., 256
ENTRY = 44  # characters of a line in a key: any registered workload with its optimizer
MARKERS = "os^vDPX*<>"
HALVES = ((0.5, 1), (1, 2), (2, 5))  # round numbers, each with one about half as large
TOLERATED = {"color": "#d8ecd8", "zorder": 0, "linewidth": 0}  # within the tolerance
SKIPPED = {"color": "0.93", "zorder": -1, "linewidth": 0}  # before the window


def panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """Set the style and make a figure of ``size`` inches with an array (rows, columns) of panels."""
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(
        {"figure.dpi": 100, "savefig.dpi": 160, "pdf.fonttype": 42, "figure.titlesize": 10.5}
        | {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        | {"axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6}
        | {"lines.linewidth": 1.4, "lines.markersize": 3.5}
    )
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)


def headline(figure: Figure, message: str, detail: str) -> None:
    """Write the message of a figure above it, and below that what it shows, in lines that fit."""
    width = int(12.5 * figure.get_size_inches()[0])
    figure.suptitle("\n".join(balanced(part, width) for part in (message, detail)))


def balanced(text: str, width: int) -> str:
    """Return ``text`` in as few lines of at most ``width`` characters as hold it, the longest as short as can be."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    while width > 1 and len(narrower := textwrap.wrap(text, width - 1, break_on_hyphens=False)) == len(lines):
        lines, width = narrower, width - 1
    return "\n".join(lines)


def metrics_of(trajectories: pd.DataFrame, message: str = "") -> list[str]:
    """Test functions that have a panel, of those that the runs measured.

    The test loss has that of the train loss where it decides alone, and ``message``, the title, says so.
    """
    measured = set(trajectories["metric"])
    metrics = [metric for metric in METRICS if metric in measured] or [METRICS[0]]
    loss = "test_loss" if "by its test loss" in message else "train_loss"
    return [loss if metric == "train_loss" else metric for metric in metrics]


def subject(row: Any, separator: str = ", ") -> str:
    """Title of a row of a table: its optimizer, and its workload or oracle."""
    what = workload_named(row["workload"]) if "workload" in row else ORACLES[row["oracle"]]
    return f"{TITLES[row['optimizer']]}{separator}{what.title}"


def entry(row: Any) -> str:
    """The `subject` of a row in a key, in lines that leave room for the panels."""
    return textwrap.fill(subject(row), ENTRY)


def looks_by_name(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Marker and colour of every distinct name, in their order: open markers once the filled ones are used up."""
    fills: tuple[dict[str, Any], ...] = ({}, {"markerfacecolor": "white"})
    forms = ((fill, marker, colour) for fill in fills for marker, colour in zip(MARKERS, PALETTE, strict=True))
    return {
        name: {"marker": marker, "color": colour} | fill
        for name, (fill, marker, colour) in zip(dict.fromkeys(names), cycle(forms), strict=False)
    }


def looks_of(subjects: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Markers by (workload or oracle, optimizer): one form per workload, open for all but its first optimizer."""
    forms: dict[str, list[str]] = {}
    for what, optimizer in sorted(set(subjects)):
        forms.setdefault(what, []).append(optimizer)
    return {
        (what, optimizer): {"marker": marker} | ({"markerfacecolor": "white"} if optimizer != optimizers[0] else {})
        for marker, (what, optimizers) in zip(MARKERS, forms.items(), strict=False)
        for optimizer in optimizers
    }


def kappa_colour(kappa: float) -> Any:
    """The colour of a kappa in all figures: nearly black at 1, plasma from 2 to 256, blues from 1/2 to 1/16.

    The steps are widest between the smallest kappas, which most figures show.
    """
    power = np.log2(kappa)
    if power == 0:
        return "0.15"
    if power > 0:
        return plt.get_cmap("plasma")(np.interp(power, range(1, len(PLASMA) + 1), PLASMA))
    return plt.get_cmap("GnBu")(max(0.95 - 0.15 * (-power - 1), 0.4))


def ell_colour(ell: float) -> Any:
    """The colour of SVAG's ell in all figures: nearly black at 1, viridis from 2 to 16."""
    return "0.15" if ell == 1 else plt.get_cmap("viridis")(min(0.25 + 0.2 * (np.log2(ell) - 1), 0.88))


def kappa_label(kappa: float) -> str:
    """Legend entry of a kappa."""
    return rf"$\kappa = {kappa:g}$"


def repeats(counts: int | Iterable[int], one: str = "seed", many: str = "seeds") -> str:
    """Number of repeats in words; a set of numbers where panels differ."""
    found = sorted({counts} if isinstance(counts, int) else set(counts))
    span = f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return f"{span} {one if found[-1] == 1 else many}"


def curve(panel: Axes, x: Any, mean: Any, low: Any, high: Any, colour: Any, alpha: float = 0.2, **look: Any) -> None:
    """Plot a mean with its points, and its interval as a band."""
    panel.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)
    panel.plot(x, mean, **{"color": colour, "marker": "o"} | look)


def points(panel: Axes, x: Any, values: np.ndarray, low: np.ndarray, high: np.ndarray, **look: Any) -> None:
    """Plot points with their intervals as bars."""
    errors = np.maximum([values - low, high - values], 0.0)
    panel.errorbar(x, values, yerr=errors, **{"marker": "o", "capsize": 2, "elinewidth": 0.9} | look)


def named(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return what panels name, handles by label, once, in the order of first mention but areas last."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return dict(sorted(found.items(), key=lambda item: isinstance(item[1], Patch | Collection)))


def legend(figure: Figure, entries: Mapping[str, Any] | Iterable[Axes], columns: int | None = None) -> None:
    """Put one legend below all panels, at most so many ``columns`` wide.

    ``entries`` are handles by their label, or panels, for what these name.
    """
    if not isinstance(entries, Mapping):
        entries = named(entries)
    columns = min(columns or len(entries), len(entries))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def progress_axis(panel: Axes, end: float, label: str) -> None:
    """Let the x-axis run from 0 to ``end``, with few round ticks."""
    panel.set_xlim(0, 1.02 * end)
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    panel.set_xlabel(label)


def level_axis(panel: Axes, levels: Sequence[float], label: str) -> None:
    """Make the x-axis logarithmic, with a tick at every kappa or ell."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(levels, [f"{level:g}" for level in levels])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel(label)


def log_axis(panel: Axes, curves: Sequence[np.ndarray] = ()) -> None:
    """Make the y-axis logarithmic, with plain numbers at 1, 2, 3 and 5 of each decade, to the range of ``curves``."""
    values = np.concatenate([np.ravel(curve) for curve in curves] or [[]])
    values = values[np.isfinite(values) & (values > 0)]
    panel.set_yscale("log")
    if len(values):
        margin = (values.max() / values.min()) ** 0.06
        panel.set_ylim(values.min() / margin, values.max() * margin)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def symlog_axis(panel: Axes, threshold: float) -> None:
    """Make the y-axis linear up to the threshold and logarithmic beyond it, with round ticks."""
    panel.set_yscale("symlog", linthresh=threshold, linscale=1.0)
    low, high = panel.get_ylim()
    power = 10.0 ** np.floor(np.log10(threshold))
    half, step = max((half, step) for half, step in HALVES if step * power <= threshold * (1 + 1e-9))
    sizes = [half * power, *(step * power * 10.0**decade for decade in range(8))]
    if max(-low, high) < sizes[2]:  # the next decade is out of sight
        sizes += [more * power for more in (2, 5, 10, 20) if more > step]
    elif max(-low, high) > sizes[4]:  # so many decades leave no room for the half
        del sizes[0]
    ticks = [0.0, *(sign * size for size in sizes for sign in (-1, 1) if low <= sign * size <= high)]
    panel.set_yticks(sorted(ticks), [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in sorted(ticks)])
    panel.yaxis.set_minor_locator(NullLocator())


def behind(figure: Figure, reference: Figure) -> None:
    """Plot the curves of ``reference``, a figure of the same panels, behind those of ``figure``, and close it."""
    both = list(zip(figure.axes, reference.axes, strict=False))
    if len(figure.axes) != len(reference.axes) or any(a.get_xlabel() != b.get_xlabel() for a, b in both):
        plt.close(reference)
        raise InputError("reference: its figure has other panels; it shows other experiments")
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
