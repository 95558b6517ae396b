"""figures/map.py: fields, colours and hatches of claims whose answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from adasde.analysis.figures import map as pictured
from adasde.analysis.figures.registry import plot_figure
from analysis.runs import table
from analysis.test_cells import EFFECTS, claims


def fields(panel):
    return [patch for patch in panel.patches if isinstance(patch, Rectangle)]


def test_the_map_has_a_field_per_cell_and_a_hatch_where_the_forecast_says_breaks():
    plotted = pictured.plot(table(EFFECTS), claims(), "")
    kappa, ell = plotted.axes
    hatched = [patch.get_x() + 0.5 for patch in fields(kappa) if patch.get_hatch()]
    assert hatched == [1, 2]  # kappa 16 and 64
    assert len([patch for patch in fields(kappa) if not patch.get_hatch()]) == 3 + 1  # the rule and a rival
    assert len(fields(ell)) == 1
    assert [tick.get_text() for tick in kappa.get_xticklabels()] == ["4", "16", "64"]
    assert [tick.get_text() for tick in kappa.get_yticklabels()] == ["a", "none"]
    title = " ".join(plotted.get_suptitle().split())
    assert title.startswith("Square root within tolerance in 1 of 1 cells forecast to hold; rivals outside in 1 of 1")
    assert title.endswith("8 seeds")
    plt.close(plotted)


def test_the_colours_break_at_one():
    inside, outside = pictured.colour_of(0.999), pictured.colour_of(1.001)
    channels = [[int(colour[place : place + 2], 16) for place in (1, 5)] for colour in (inside, outside)]
    assert channels[0][1] > channels[0][0]  # more blue than red
    assert channels[1][0] > channels[1][1]
    assert pictured.colour_of(np.inf) == pictured.LARGEST
    assert pictured.colour_of(np.nan) not in {*pictured.CLASSES.values(), pictured.LARGEST}


@pytest.mark.parametrize("options", [{"seeds": 1}, {"diverged": [("sqrt", 1, 0)]}, {"diverged": [("sqrt", 4, 0)]}])
def test_the_map_is_drawn_without_repeats_and_after_divergence(options):
    plotted = plot_figure("map", table(EFFECTS, **options))
    plotted.canvas.draw()
    assert len(fields(plotted.axes[0])) == 4
    plt.close(plotted)
