"""figures/finetune.py: what its legend names, and what has an interval."""

import matplotlib.pyplot as plt
import pandas as pd

from adasde.analysis.figures.registry import plot_figure


def legend_of(plotted):
    """Texts of the figure's legend, which must lie within the figure."""
    plotted.canvas.draw()
    left, right = plotted.legends[0].get_window_extent().intervalx
    assert 0 <= left < right <= plotted.bbox.width
    return [text.get_text() for text in plotted.legends[0].get_texts()]


def test_the_figure_of_fine_tuning_names_all_that_it_shows(tuned):
    plotted = plot_figure("finetune", tuned)
    assert plotted.get_suptitle().endswith("means and 95% intervals, 2 models per kappa")
    assert legend_of(plotted) == ["one model or run", "3 points about kappa 1's mean"]
    (panel,) = plotted.axes
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "4", "new\nweights"]
    assert len(panel.containers) == 3  # points with their intervals
    assert [len(line.get_xdata()) for line in panel.lines if line.get_marker() == "_"].count(2) >= 3
    plt.close(plotted)
    many = pd.concat([tuned, *(tuned[tuned["kappa"] == 4].assign(kappa=kappa) for kappa in (2, 8, 16, 32))])
    lost = many.drop_duplicates(["run", "kappa"]).assign(metric="diverged", value=1.0)
    plotted = plot_figure("finetune", pd.concat([many, lost]))
    assert sum("diverged" in text.get_text() for text in plotted.axes[0].get_xticklabels()) == 7
    plt.close("all")


def test_one_model_per_batch_size_has_no_interval(tuned):
    single = tuned[tuned["seed"].isin([0, 1]) | (tuned["rule"] == "scratch")]
    plotted = plot_figure("finetune", single[single["rule"] != "scratch"])
    assert plotted.get_suptitle().endswith("1 model per kappa")
    assert [text.get_text() for text in plotted.axes[0].get_xticklabels()] == ["1", "4"]
    plt.close(plotted)
