"""figures/registry.py: which runs a figure shows, what it refuses, and a reference behind it."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from adasde.analysis.figures.registry import PLOTS, Row, check_figure, figure_runs, plot_figure, possible_figures
from adasde.common import InputError
from adasde.experiments.plan import plan
from adasde.experiments.specs import Simulation
from analysis.runs import table

ROWS = [
    *(Row("cnn", "scratch", followed) for followed in ("baseline", "sqrt", "linear")),
    *(Row("branch-cnn", "branch", followed) for followed in ("baseline", "sqrt", "keep")),
    *(Row("svag-branch-cnn", "branch", followed) for followed in ("baseline", "svag", "none")),
    Row("parent", "scratch", "baseline"),
    *(Row("tuned", "finetune", followed) for followed in ("finetune", "scratch")),
]
FIGURES = {
    "map": "", "scaling-cnn": "cnn", "branch-cnn": "branch-cnn", "svag-branch-cnn": "svag-branch-cnn", "rules": "",
    "rescale": "", "forecast": "", "noise": "", "finetune": "", "weak-order": "",
}  # fmt: skip


def test_figures_that_runs_can_show():
    assert possible_figures(ROWS, {"weak-order"}) == FIGURES
    shown = {name: PLOTS[name].experiments("", ROWS) for name in ("map", "rules", "noise", "forecast")}
    assert shown == {
        "map": {"cnn", "branch-cnn", "svag-branch-cnn"},
        "rules": {"cnn", "svag-branch-cnn"},
        "noise": {"cnn", "branch-cnn"},
        "forecast": {"cnn"},
    }


def test_figures_without_their_runs_are_refused():
    with pytest.raises(InputError, match="figure = 'noise-x': must be one of map, scaling-EXPERIMENT, branch-EXP"):
        check_figure("noise-x", ROWS, set())
    with pytest.raises(InputError, match="'parent' is not an experiment that it can show; possible: scaling-cnn$"):
        check_figure("scaling-parent", ROWS, set())
    with pytest.raises(InputError, match="possible: none, since no ell is above 1"):
        check_figure("svag-cnn", ROWS[:3], set())
    with pytest.raises(InputError, match="nothing to show, since no run follows fresh or keep in an experiment of the"):
        check_figure("rescale", ROWS[:3], set())
    with pytest.raises(InputError, match="nothing to show, since no simulation studies convergence"):
        check_figure("sde-real-data", ROWS, {"weak-order"})


def test_a_figure_needs_the_runs_that_it_shows_and_no_others(config):
    config["figures"] = ["map", "scaling-fashion-cnn-adam", "branch-cnn-adam", "svag-branch-cnn-adam", "forecast"]
    planned = plan(config)
    shown = figure_runs(planned)
    assert list(shown) == config["figures"]
    experiments = {
        figure: {getattr(planned.runs[run], "experiment", "simulated") for run in runs}
        for figure, runs in shown.items()
    }
    assert experiments["scaling-fashion-cnn-adam"] == {"fashion-cnn-adam"}
    assert experiments["branch-cnn-adam"] == experiments["svag-branch-cnn-adam"] == {"branch-cnn-adam"}
    assert experiments["forecast"] == {"simulated", "fashion-cnn-adam", "fashion-resnet-rmsprop", "roberta-adam"}
    assert "finetune-roberta" not in experiments["map"]
    studies = {run.study for run in map(planned.runs.get, shown["forecast"]) if isinstance(run, Simulation)}
    assert studies == {"breakdown"}


@pytest.mark.parametrize(("figure", "kind"), [("scaling-a", "scratch"), ("branch-a", "branch"), ("svag-a", "branch")])
def test_a_reference_is_plotted_behind(figure, kind):
    mine = table({("sqrt", 1): 0.0, ("sqrt", 4): 0.5, ("svag", 2): 0.3}, kind=kind, seeds=3)
    theirs = mine.assign(value=1.1 * mine["value"])
    plain, both = plot_figure(figure, mine), plot_figure(figure, mine, reference=(theirs, None))
    for own, joined in zip(plain.axes, both.axes, strict=True):
        added = joined.lines[len(own.lines) :]
        assert added
        assert all(line.get_zorder() < 1 and line.get_color() == "0.5" for line in added)
    other = pd.concat([theirs, table({("sqrt", 1): 0.0, ("none", 4): 1.0}, kind=kind, seeds=3).iloc[1:]])
    if figure == "branch-a":
        with pytest.raises(InputError, match="reference: its figure has other panels"):
            plot_figure(figure, mine, reference=(other, None))
    plt.close("all")


@pytest.mark.parametrize("figure", ["scaling-a", "svag-a", "branch-b", "map", "rules", "rescale", "noise"])
def test_a_figure_without_its_baseline_is_one_line_or_shows_what_is_there(figure):
    effects = {("sqrt", 4): 0.0, ("sqrt", 4, "keep"): 1.0, ("svag", 2): 0.0, ("none", 4): 1.0}
    runs = pd.concat([table(effects), table(effects, "branch", experiment="b")])
    if figure in ("map", "rules"):
        plt.close(plot_figure(figure, runs))
    else:
        with pytest.raises(InputError, match="baseline|noise_trace") as caught:
            plot_figure(figure, runs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("figure", ["scaling-a", "branch-b"])
def test_a_line_without_a_common_seed_is_named_and_not_drawn(figure):
    effects = {("sqrt", 1): 0.0, ("sqrt", 4): 0.0, ("sqrt", 16): 0.0}
    runs = pd.concat([table(effects), table(effects, "branch", experiment="b")])
    plotted = plot_figure(
        figure, runs[~((runs["kappa"] == 4) & (runs["seed"] < 4)) & ((runs["kappa"] == 4) | (runs["seed"] < 4))]
    )
    legends = [*plotted.legends, *(panel.get_legend() for panel in plotted.axes if panel.get_legend())]
    names = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert [name.endswith(", no common seed") for name in names if "= 4$" in name] == [True]
    plt.close(plotted)


def test_the_map_of_svag_alone(tmp_path):
    plotted = plot_figure("map", table({("sqrt", 1): 0.0, ("svag", 2): 0.0}, experiment="svag-a"))
    assert "Square root within tolerance in 0 of 0 cells" in plotted.get_suptitle()
    plt.close(plotted)
