"""figures/breakdown.py: panels, legends and seeds of experiments whose lag is known."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from adasde.analysis.figures.registry import plot_figure
from analysis.runs import TIME


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"kappas": (1, 4)}, {"seeds": 2, "noise": 0.3}])
def test_the_figure_of_the_breakdown(lagging, options):
    drawn = plot_figure("breakdown", lagging(**options))
    top, bottom = drawn.axes
    assert top.get_ylabel() == bottom.get_ylabel() == "lag behind the baseline"
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels[-2:] == ["predicted", "observed"]
    assert len(labels) == len(options.get("kappas", (1, 2, 4, 16))) - 1 + 2
    plt.close(drawn)


def test_the_breakdown_says_how_many_seeds_each_experiment_has(lagging):
    few, more = lagging(seeds=2), lagging(seeds=3)
    more = more.assign(experiment="b", run=more["run"].str.replace("a.", "b.", regex=False))
    drawn = plot_figure("breakdown", pd.concat([few, more]))
    assert "(2 or 3 seeds)" in drawn.get_suptitle()
    plt.close(drawn)


def test_the_legends_of_the_breakdown_are_true_of_all_panels(lagging):
    """Of experiments that were measured at other times, and of batch sizes that the first has not."""
    first, second = lagging(), lagging(kappas=(1, 2, 8, 16))
    second = second[second["time"] != TIME[4]]
    second = second.assign(experiment="b", run=second["run"].str.replace("a.", "b.", regex=False))
    drawn = plot_figure("breakdown", pd.concat([first, second]))
    times, kappas = ([text.get_text() for text in panel.get_legend().get_texts()] for panel in drawn.axes[1::2])
    assert times == ["about ¼ of the run", "about ½ of it", "its end", "predicted", "observed"]
    assert kappas == [rf"$\kappa = {kappa}$" for kappa in (2, 4, 8, 16)] + ["predicted", "observed"]
    plt.close(drawn)
