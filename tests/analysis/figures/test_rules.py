"""figures/rules.py: a point per experiment, rule and kappa, in tolerances."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from adasde.analysis.figures import style
from adasde.analysis.figures.registry import plot_figure
from adasde.analysis.figures.rules import LARGEST
from analysis.runs import table

EFFECTS = {
    ("sqrt", 1): 0.0, ("sqrt", 4): 0.1, ("sqrt", 64): 5.0, ("invariant", 4): 0.1, ("linear", 4): 3.0,
    ("none", 16): -5.0, ("sqrt", 4, "keep"): 4.0,
}  # fmt: skip


def test_points_are_the_cells_of_the_kappas_at_which_rules_ran():
    made = pd.concat([table(EFFECTS), table(EFFECTS, "branch", experiment="b")])
    plotted = plot_figure("rules", made)
    scratch, branch = plotted.axes
    assert [panel.get_title(loc="left") for panel in (scratch, branch)] == ["from scratch", "in branches"]
    names = [tick.get_text() for tick in scratch.get_yticklabels()]
    assert names == [style.RULES[rule] for rule in ("linear", "none", "invariant", "sqrt")]
    found = sorted(
        (round(line.get_ydata()[0]), line.get_xdata()[0]) for line in scratch.lines if len(line.get_xdata()) == 1
    )
    assert [place for place, _ in found] == [0, 1, 2, 3]  # kappa 64 of the rule, and what was kept, are elsewhere
    assert np.allclose([gap for _, gap in found[:2]], [3.0, 5.0], rtol=0.1)
    assert all(gap < 0.5 for _, gap in found[2:])
    assert "rivals are outside in 4 of 4" in plotted.get_suptitle().replace("\n", " ")
    markers = [{line.get_marker() for line in panel.lines if len(line.get_xdata()) == 1} for panel in plotted.axes]
    assert [len(found) for found in markers] == [1, 1]  # one for each experiment
    assert markers[0] != markers[1]
    plt.close(plotted)


@pytest.mark.parametrize("options", [{"seeds": 1}, {"diverged": [("linear", 4, 0)]}, {"diverged": [("sqrt", 1, 0)]}])
def test_rules_are_drawn_without_repeats_and_after_divergence(options):
    plotted = plot_figure("rules", table(EFFECTS, **options))
    plotted.canvas.draw()
    ends = [line.get_xdata()[0] for line in plotted.axes[0].lines if len(line.get_xdata()) == 1]
    assert (LARGEST in ends) == (options.get("diverged") == [("linear", 4, 0)])
    plt.close(plotted)
