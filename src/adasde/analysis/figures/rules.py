"""``rules``: how far every rule leaves the baseline, in tolerances, over all experiments."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis.cells import ORDER, OUTSIDE, WITHIN, cells_of, row_name
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import MOMENTS

KINDS = {"scratch": "from scratch", "branch": "in branches"}
SMALLEST, LARGEST = 0.03, 300.0  # gaps in tolerances, at which points beyond are plotted


def plot(trajectories: pd.DataFrame, claims: pd.DataFrame, subject: str) -> Figure:
    """A line per rule and a point per experiment and kappa, of the kappas at which other rules ran."""
    cells = cells_of(claims[claims["claim"].isin(["rule", "relative", "rival"])])
    cells = cells[~cells["rule"].isin(MOMENTS)]
    cells = cells[cells["level"].isin(cells.loc[cells["claim"] != "rule", "level"])]
    rules = [rule for rule in ORDER if rule in set(cells["rule"])][::-1]
    kinds = [kind for kind in KINDS if kind in set(cells["kind"])]
    levels = sorted(cells["level"].unique())
    subjects = trajectories.drop_duplicates("experiment").set_index("experiment")
    names = {name: row_name(name) for name in subjects.index if name in set(cells["experiment"])}
    looks = style.looks_by_name(names.values())
    figure, axes = style.panels(1, len(kinds), (2.2 + 3.4 * len(kinds), 1.9 + 0.5 * len(rules)), sharey=True)
    for panel, kind in zip(axes[0], kinds, strict=True):
        for place, rule in enumerate(rules):
            own = cells[(cells["kind"] == kind) & (cells["rule"] == rule)].sort_values("level", kind="stable")
            for aside, cell in zip(0.8 * (np.arange(len(own)) + 0.5) / max(len(own), 1), own.itertuples(), strict=True):
                _point(panel, place + 0.4 - aside, cell, looks[names[cell.experiment]])
        panel.axvspan(SMALLEST, 1.0, **style.TOLERATED)
        panel.set_xscale("log")
        panel.set_xlim(SMALLEST, 1.3 * LARGEST)
        panel.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        panel.set_xlabel("largest gap to the baseline (tolerances)")
        panel.set_title(KINDS[kind], fontweight="bold", loc="left")
        for line in np.arange(len(rules) - 1) + 0.5:
            panel.axhline(line, color="0.9", linewidth=0.8)
        panel.grid(False, axis="y")
    axes[0, 0].set_yticks(range(len(rules)), [style.RULES[rule] for rule in rules])
    axes[0, 0].set_ylim(-0.5, len(rules) - 0.5)
    key = {style.kappa_label(k): plt.Line2D([], [], color=style.kappa_colour(k), linewidth=3) for k in levels}
    for name, look in looks.items():
        key[name] = plt.Line2D([], [], linestyle="", markersize=5, **(look | {"color": "0.3"}))
    key["within the tolerance"] = plt.Rectangle((0, 0), 1, 1, facecolor=style.TOLERATED["color"])
    style.legend(figure, key, columns=4)
    detail = (
        f"bars: from the bound for ✗ to that for ✓, {style.repeats(set(cells['n']))}; at the frame: beyond, or diverged"
    )
    style.headline(figure, _message(cells), detail)
    return figure


def _point(panel, y, cell, look):
    if np.isnan(cell.gap):
        return
    x, low, high = np.clip([cell.gap, cell.low, cell.high], SMALLEST, LARGEST)
    colour = style.kappa_colour(cell.level)
    panel.plot([low, high], [y, y], color=colour, linewidth=1.0, alpha=0.6)
    panel.plot([x], [y], markersize=5, zorder=3, **(look | {"color": colour}))


def _message(cells):
    def count(part, verdict):
        return f"{int((part['verdict'] == verdict).sum())} of {len(part)}"

    rivals = cells[cells["claim"] == "rival"]
    kept = count(cells[cells["claim"] == "rule"], WITHIN)
    words = f"Where other rules ran, the square root is within tolerance in {kept} cells"
    return f"{words}; rivals are outside in {count(rivals, OUTSIDE)}" if len(rivals) else words
