"""figures/scaling.py, svag.py, branch.py, rescale.py and gaps.py, on runs whose answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adasde.analysis import reference
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import plot_figure
from analysis.runs import LANGUAGE, PARTS, table
from conftest import slow

EFFECTS = {
    ("sqrt", 1): 0.0, ("sqrt", 4): 0.2, ("sqrt", 16): 3.0, ("svag", 2): 0.1, ("svag", 4): 0.2,
    ("linear", 16): 9.0, ("none", 16): -5.0,
}  # fmt: skip
MOMENTS = {("sqrt", 4, "keep"): 4.0, ("sqrt", 4, "fresh"): -4.0}


def labels(plotted):
    legends = [*plotted.legends, *(panel.get_legend() for panel in plotted.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


@pytest.mark.parametrize(("figure", "kind"), [
    ("scaling-a", "scratch"), ("svag-a", "scratch"), ("svag-a", "branch"), ("branch-a", "branch"),
])  # fmt: skip
@pytest.mark.parametrize(
    "options", [{}, slow({"seeds": 1}), {"diverged": [("linear", 16, 0), ("sqrt", 4, 1), ("svag", 2, 1)]}]
)
def test_figures_show_every_level_in_order_with_units(figure, kind, options):
    made = table(EFFECTS, kind=kind, **options)
    plotted = plot_figure(figure, made)
    named = labels(plotted)
    if figure == "scaling-a":
        assert [label.split("$")[1] for label in named[:3]] == ["B = 8", "B = 32", "B = 128"]
    elif figure == "svag-a":
        assert [label.split("$")[1] for label in named[:3]] == [rf"\ell = {ell}" for ell in (1, 2, 4)]
    else:
        assert [label.split(",")[0] for label in named[:2]] == [r"$\kappa = 4$", r"$\kappa = 16$"]
        assert [label.split(",")[0] for label in named[3:5]] == [style.RULES["none"], style.RULES["linear"]]
    assert "tolerance" in named
    assert ("before the window" in named) == (kind == "scratch")
    assert any("diverged" in label for label in named) == ("diverged" in options)
    assert len(plotted.axes) == 6
    assert all(panel.get_xlabel().startswith("epochs") for panel in plotted.axes[-3:])
    assert "gap in test accuracy (points)" in [panel.get_ylabel() for panel in plotted.axes]
    plt.close(plotted)


def test_equal_tables_make_equal_files(tmp_path):
    plt.close("all")
    made = table({("sqrt", 1): 0.0, ("svag", 2): 0.1})
    for name in "ab":
        style.save(plot_figure("svag-a", made), [tmp_path / f"{name}.png", tmp_path / f"{name}.pdf"])
    for form in ("png", "pdf"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    assert not plt.get_fignums()


def test_titles_say_where_the_rule_ends():
    made = table(EFFECTS)
    assert plot_figure("scaling-a", made).get_suptitle().startswith(
        "Square root: within the tolerance up to batch 32, outside the tolerance at 128\n"
    )  # fmt: skip
    assert plot_figure("svag-a", made).get_suptitle().startswith("SVAG: within the tolerance up to ell 4\n")
    plt.close("all")


def test_gaps_are_paired_means_with_the_interval_of_the_test():
    made = table(EFFECTS, kind="branch", seeds=5)
    plotted = plot_figure("branch-a", made)
    panel = plotted.axes[0]
    line = next(line for line in panel.lines if line.get_label() == r"$\kappa = 16$")
    loss = made[(made["metric"] == "train_loss") & (made["rule"] == "sqrt")]
    wide = loss.pivot(index=["rule", "kappa", "seed"], columns="time", values="value")
    gaps = wide.loc[("sqrt", 16)].to_numpy() - wide.loc[("sqrt", 1)].to_numpy()
    assert np.allclose(line.get_ydata(), gaps.mean(axis=0))
    half = 2.131847 * gaps.std(axis=0, ddof=1) / np.sqrt(5)  # Student's, 4 degrees of freedom, 95%
    bands = [band.get_paths()[0].vertices[:, 1].max() for band in panel.collections]
    assert any(np.isclose(top, (gaps.mean(axis=0) + half).max(), rtol=1e-5) for top in bands)
    plt.close(plotted)


def test_the_band_is_the_tolerance_of_the_claims():
    plotted = plot_figure("scaling-a", table({("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, noise=0.0))
    loss, accuracy, norm = plotted.axes[3:]
    bands = [
        [band for band in panel.collections if band.get_label() == "tolerance"] for panel in (loss, accuracy, norm)
    ]
    assert bands[0][0].get_paths()[0].vertices[:, 1].max() == pytest.approx(0.05 * 2.0)
    assert bands[1][0].get_paths()[0].vertices[:, 1].max() == pytest.approx(3.0)
    assert bands[0][0].get_paths()[0].vertices[:, 0].min() == pytest.approx(1.0)  # a quarter of 4 epochs
    assert norm.get_ylabel() == "lag (% of the time)"  # from scratch the norm is not judged, and the lag is
    assert bands[2][0].get_paths()[0].vertices[:, 1].max() == pytest.approx(10.0)
    plt.close(plotted)


def test_the_bands_about_the_curves_and_about_the_gaps_are_equal():
    """In branches a rival may widen the tolerance of a level. That of the baseline itself has no part in it."""
    made = table({("sqrt", 1): 0.0, ("svag", 2): 0.0, ("none", 4): 6.0}, kind="branch", noise=0.0)
    plotted = plot_figure("svag-a", made)
    heights = []
    for panel in (plotted.axes[0], plotted.axes[3]):
        (band,) = [band for band in panel.collections if band.get_label() == "tolerance"]
        (path,) = band.get_paths()
        start = path.vertices[np.isclose(path.vertices[:, 0], path.vertices[:, 0].max()), 1]
        heights.append(start.max() - start.min())
    assert heights[0] == pytest.approx(heights[1], rel=1e-6)
    plt.close(plotted)


def test_curves_are_as_far_apart_as_their_gaps_also_where_the_baseline_has_more_seeds():
    """Seeds differ by two tolerances here, and kappa 4 has two of the eight. The plain means would differ by them."""
    made = table({("sqrt", 1): 0.0, ("sqrt", 4): 0.5}, noise=0.01, common=2.0)
    plotted = plot_figure("scaling-a", made[(made["kappa"] == 1) | (made["seed"] < 2)])
    for top, bottom in zip(plotted.axes[:2], plotted.axes[3:5], strict=True):
        curves = [line.get_ydata() for line in top.lines]
        (gap,) = (line.get_ydata() for line in bottom.lines if line.get_label().startswith("$B = 32$"))
        assert np.allclose(curves[1] - curves[0], gap)
    plt.close(plotted)


@pytest.mark.parametrize("figure", ["scaling-a", "branch-a", "svag-a"])
def test_a_test_loss_that_decides_has_a_panel(figure):
    """A title that says so, over panels without it, could not be checked by eye."""
    rule = ("svag", 2) if figure == "svag-a" else ("sqrt", 4)
    made = table({("sqrt", 1): 0.0, rule: 0.2}, kind="branch" if figure == "branch-a" else "scratch", noise=0.01)
    worse = (made["metric"] == "test_loss") & ((made["kappa"] > 1) | (made["ell"] > 1))
    made.loc[worse, "value"] += 1.0
    plotted = plot_figure(figure, made)
    assert "(by its test loss)" in plotted.get_suptitle()
    named = [panel.get_ylabel() for panel in plotted.axes]
    assert "gap in test loss (nats)" in named
    assert "gap in train loss (nats)" not in named
    plt.close(plotted)


def test_where_the_rate_changes_there_is_no_lag_and_the_norm_is_not_judged():
    made = table({("sqrt", 1): 0.0, ("sqrt", 4): 0.0})
    plotted = plot_figure("scaling-a", made.assign(time=made["time"] ** 2))
    assert plotted.axes[5].get_ylabel() == r"gap in squared norm $\|\theta\|^2$"
    assert [text.get_text() for text in plotted.axes[5].texts] == ["not judged"]
    plt.close(plotted)


def test_the_authors_curves_are_plotted_behind_ours():
    """Where they published an experiment: one broad line per batch size, in the colour of ours."""
    made = table({("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, curves=LANGUAGE)
    made = made.assign(workload="wikitext103-gpt2", batch_size=64 * made["batch_size"])  # 512 and 2048
    plotted = plot_figure("scaling-a", made)
    broad = [line for line in plotted.axes[1].lines if line.get_linewidth() == 3.0 and len(line.get_xdata())]
    assert len(broad) == 5
    assert sum(line.get_color() == style.kappa_colour(4) for line in broad) == 1
    assert all(line.get_xdata()[-1] <= made["epoch"].max() * 1.01 for line in broad)
    assert all(4.9 < line.get_ydata()[-1] < 5.3 for line in broad)
    assert "the authors'" in labels(plotted)
    plt.close(plotted)
    assert reference.author_curves("wiki-gpt2-adam") == {}
    assert set(reference.author_curves("wikibooks-roberta-adam")) == {256, 1024, 2048, 4096, 8192}


@pytest.mark.parametrize("kind", ["scratch", "branch"])
def test_figures_are_drawn_where_the_baseline_diverged(kind):
    made = table(EFFECTS | MOMENTS, kind=kind, diverged=[("sqrt", 1, 0)])
    for figure in ("scaling-a", "svag-a") if kind == "scratch" else ("branch-a", "svag-a", "rescale"):
        plotted = plot_figure(figure, made)
        plotted.canvas.draw()
        assert "nan" not in plotted.get_suptitle()
        assert all(np.isfinite(panel.get_ylim()).all() for panel in plotted.axes)
        plt.close(plotted)


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"diverged": [("sqrt", 4, 1)]}])
def test_rescale_compares_what_becomes_of_the_second_moment(options):
    effects = {("sqrt", 1): 0.0, ("sqrt", 4): 0.2, ("sqrt", 16): 0.0} | MOMENTS
    plotted = plot_figure("rescale", table(effects, kind="branch", **options))
    loss, norm = plotted.axes
    assert "batch 8 to 32" in loss.get_title()
    found = [label.split(",")[0] for label in labels(plotted)]
    assert found == ["carried over (the rule)", "kept as it is", "started afresh (new optimizer)", "tolerance"]
    if not options:
        assert ": carried over 0 of 1, kept 1 of 1, new optimizer 1 of 1" in plotted.get_suptitle().replace("\n", " ")
        kept = next(line for line in norm.lines if line.get_label() == "kept as it is")
        assert kept.get_ydata()[-1] == pytest.approx(4.0 * 5.0, rel=0.1)  # tolerances of a tenth of 50
        assert len(PARTS) == len(kept.get_xdata())
    plt.close(plotted)
