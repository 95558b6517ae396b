"""``map``: every experiment against every batch multiplier and ell, in units of the tolerance."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from adasde.analysis.cells import GROUPS, MARKS, OUTSIDE, UNDECIDED, WITHIN, columns_of, map_rows
from adasde.analysis.figures import style

# Upper ends of the gap in tolerances, and colours: blue within, orange and red beyond.
CLASSES = {0.25: "#4a8fc4", 0.5: "#8dbbe0", 1.0: "#cfe3f3", 2.0: "#fde0c0", 4.0: "#fdb97d", 16.0: "#ee7d3a"}
LARGEST = "#b8431a"
WORDS = {
    WITHIN: "shown to be within every tolerance",
    OUTSIDE: "shown to be outside one",
    UNDECIDED: "undecided",
}
AXES = {"kappa": r"batch multiplier $\kappa$ (square root)", "ell": r"SVAG's $\ell$"}


def plot(trajectories: pd.DataFrame, claims: pd.DataFrame, subject: str) -> Figure:
    """A field per experiment and level, in the colour of its largest gap, with the verdict and the forecast."""
    rows = map_rows(claims)
    columns = {axis: levels for axis, levels in columns_of(rows).items() if levels}
    widths = [len(levels) for levels in columns.values()]
    lines = [group for group in GROUPS.values() if any(row.group == group for row in rows)]
    heights: dict[int, float] = {}
    place, groups = 0.0, {}
    for number, row in enumerate(rows):
        if row.group not in groups:
            groups[row.group], place = place, place + 1.0  # a line for the name of the group
        heights[number], place = place, place + 1.0
    size = (max(7.2, 2.0 + 0.95 * sum(widths)), 2.0 + 0.25 * (len(rows) + len(lines)))
    figure, axes = style.panels(1, len(columns), size, width_ratios=widths)
    for panel, (axis, levels) in zip(axes[0], columns.items(), strict=True):
        for number, row in enumerate(rows):
            for column, level in enumerate(levels):
                _field(panel, column, heights[number], row.fields.get((axis, level)))
        panel.set(xlim=(-0.5, len(levels) - 0.5), ylim=(place, -0.1))
        panel.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        panel.set_xlabel(AXES[axis])
        panel.set_yticks([])
        panel.grid(False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    axes[0, 0].set_yticks([heights[n] + 0.5 for n in heights], [row.name for row in rows])
    for group, top in groups.items():
        axes[0, 0].text(-0.5, top + 0.55, group, va="center", fontweight="bold", fontsize="small")
    counts = claims.loc[claims["claim"].isin(["rule", "svag", "rival", "relative"]), "n"]
    style.headline(figure, _message(claims), f"largest gap to the baseline in tolerances; {style.repeats(counts)}")
    style.legend(figure, _key(), columns=3)
    return figure


def colour_of(gap: float) -> str:
    """The colour of a gap in tolerances; grey where it is unknown."""
    if np.isnan(gap):
        return "0.9"
    return next((colour for end, colour in CLASSES.items() if gap <= end), LARGEST)


def _field(panel, column, top, found):
    if found is None:
        return
    colour = colour_of(found.gap)
    look = {"facecolor": colour, "edgecolor": "white", "linewidth": 1.0}
    panel.add_patch(Rectangle((column - 0.5, top), 1, 1, **look))
    if found.forecast == "breaks":
        hatched = {"facecolor": "none", "edgecolor": "0.45", "hatch": "////", "linewidth": 0}
        panel.add_patch(Rectangle((column - 0.5, top), 1, 1, **hatched))
    ink = "white" if colour == LARGEST else "0.1"
    box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "none"}
    panel.text(column, top + 0.5, found.text, ha="center", va="center", fontsize=7.5, color=ink, bbox=box)


def _key():
    """What colours, marks and hatches mean."""
    ends = [0.0, *CLASSES]
    key = {
        f"{low:g} to {high:g} tolerances": Patch(facecolor=CLASSES[high])
        for low, high in zip(ends[:-1], ends[1:], strict=True)
    }
    key[f"more than {ends[-1]:g}"] = Patch(facecolor=LARGEST)
    key["forecast: the rule breaks"] = Patch(facecolor="white", edgecolor="0.45", hatch="////")
    for verdict, mark in MARKS.items():
        key[WORDS[verdict]] = plt.Line2D([], [], linestyle="", marker=f"${mark}$", color="0.1", markersize=7)
    return key


def _message(claims):
    rule = claims[claims["claim"] == "rule"]
    cells = rule.groupby(["experiment", "level"]).agg(
        forecast=("forecast", "first"), held=("verdict", lambda verdicts: set(verdicts) == {WITHIN})
    )
    inside = cells[cells["forecast"] == "holds"] if (cells["forecast"] != "").any() else cells
    where = " forecast to hold" if len(inside) < len(cells) else ""
    rivals = claims[claims["claim"] == "rival"]
    saved = f"; rivals outside in {int((rivals['verdict'] == WITHIN).sum())} of {len(rivals)}"
    text = f"Square root within tolerance in {int(inside['held'].astype(bool).sum())} of {len(inside)} cells"
    return f"{text}{where}{saved if len(rivals) else ''}"
