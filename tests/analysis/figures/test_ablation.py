"""figures/ablation.py, beside the main experiment of its workload."""

import matplotlib.pyplot as plt
import pytest

from adasde.analysis.figures.registry import plot_figure
from analysis.runs import OPTIONS


@pytest.mark.parametrize("options", OPTIONS)
def test_the_ablation_shows_small_and_large_eps_side_by_side(scale, options):
    drawn = plot_figure("ablation", scale(**options))
    titles = [axes.get_title(loc="left") for axes in drawn.axes[::2]]
    assert ["1e-8" in titles[0], "1e-2" in titles[1]] == [True, True]
    ticks = [text.get_text() for text in drawn.axes[2].get_xticklabels()]
    assert len(ticks) == 3
    assert "epsilon" in ticks[2]
    plt.close(drawn)
