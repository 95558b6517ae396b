"""figures/scaling.py, svag.py and rules.py, on runs whose answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adasde.analysis import reference
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import plot_figure
from analysis.runs import WITH_SVAG, collected, language_runs, write_runs
from conftest import changed


@pytest.mark.parametrize("figure", ["scaling-fashion-cnn-adam", "rules-fashion-cnn", "svag-fashion-cnn-adam"])
@pytest.mark.parametrize(
    "options", [{}, {"seeds": 1}, {"diverged": [("linear", 4, 0), ("sqrt", 4, 1), ("svag", 2, 1)]}]
)
def test_figures_show_every_level_in_order_with_units(figure, options, trajectories, tmp_path):
    drawn = plot_figure(figure, trajectories(WITH_SVAG, **options))
    labels = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
    if figure.startswith("scaling"):
        assert [label.split("$")[1] for label in labels[:3]] == ["B = 32", "B = 64", "B = 128"]
        assert not any("ell" in label for label in labels)
    elif figure.startswith("svag"):
        assert [label.split("$")[1] for label in labels[:3]] == [rf"\ell = {ell}" for ell in (1, 2, 4)]
        assert "plain run" in labels[0]
    else:
        assert [label.split(" (")[0] for label in labels[1:]] == [style.RULES[r] for r in ("sqrt", "linear", "none")]
    assert any("diverged" in label for label in labels) == ("diverged" in options)
    assert any("test accuracy (%)" in axes.get_ylabel() for axes in drawn.axes)
    assert all(axes.get_xlabel() for axes in drawn.axes[-3:])
    style.save(drawn, [tmp_path / "a.png", tmp_path / "a.pdf"])
    again = plot_figure(figure, trajectories(WITH_SVAG, **options))
    style.save(again, [tmp_path / "b.png", tmp_path / "b.pdf"])
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert not plt.get_fignums()


def test_rules_leave_ablations_out(scale):
    drawn = plot_figure("rules-fashion-cnn", scale())
    assert len(drawn.axes) == 3
    plt.close(drawn)


def test_the_authors_curves_are_plotted_behind_ours(tmp_path, spec):
    """Where they published an experiment: one broad line per batch size, in the colour of ours."""
    ours = changed(spec, task="wikitext103-gpt2", experiment="gpt2-adam")
    metrics = {"train_loss": 6.0, "log_perplexity": 6.0, "squared_norm": 700.0}
    table = collected(write_runs(tmp_path, ours, {("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, metrics=metrics))
    table.loc[:, "batch_size"] *= 16  # 512 and 2048
    drawn = plot_figure("scaling-gpt2-adam", table)
    panel = drawn.axes[1]
    broad = [line for line in panel.lines if line.get_linewidth() == 3.0 and len(line.get_xdata())]
    assert len(broad) == 5
    assert all(line.get_xdata()[-1] <= table["epoch"].max() * 1.01 for line in broad)
    assert all(4.9 < line.get_ydata()[-1] < 5.3 for line in broad)
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert ["= 512$" in legend[0], "= 2048$" in legend[1]] == [True, True]
    assert legend[2:] == ["the authors'", "within 3 seed deviations"]
    plt.close(drawn)
    assert reference.author_curves("wiki-gpt2-adam") == {}
    assert set(reference.author_curves("wikibooks-roberta-adam")) == {256, 1024, 2048, 4096, 8192}


def test_svag_names_its_axis_below_the_lower_panels_alone(tmp_path, spec):
    drawn = plot_figure("svag-lm", language_runs(tmp_path, spec, "svag-lm", {("sqrt", 1): 0.0, ("svag", 2): 0.0}))
    assert [panel.get_xlabel() for panel in drawn.axes] == [""] * 3 + ["epochs of the plain run"] * 3
    plt.close(drawn)


@pytest.mark.parametrize(("noise", "whole"), [(0.01, True), (0.8, False)])
def test_bands_on_a_logarithmic_axis_are_shown_whole_unless_they_are_absurdly_wide(tmp_path, spec, noise, whole):
    own = changed(spec, experiment="noisy")
    paths = write_runs(tmp_path, own, {("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, seeds=2, noise=noise)
    drawn = plot_figure("scaling-noisy", collected(paths))
    panel = drawn.axes[0]
    bands = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in panel.collections])
    means = np.concatenate([line.get_ydata() for line in panel.lines])
    low, high = panel.get_ylim()
    assert (low < bands.min() and bands.max() < high) == whole
    assert low > means.min() / 3
    assert high < means.max() * 3
    plt.close(drawn)
