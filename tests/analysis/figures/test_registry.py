"""figures/registry.py: which runs a figure shows, what it refuses, and a reference behind it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from adasde.analysis.figures.registry import PLOTS, figure_runs, plot_figure
from adasde.common import InputError
from adasde.experiments.plan import plan
from adasde.experiments.specs import Simulation
from analysis.runs import METRICS


@pytest.mark.parametrize("figure", ["scaling-fashion-cnn-adam", "rules-fashion-cnn", "noise", "ablation"])
def test_a_reference_is_plotted_behind(scale, figure):
    trajectories = scale()
    theirs = trajectories.assign(value=1.5 * trajectories["value"])
    plain, there, both = (
        plot_figure(figure, trajectories),
        plot_figure(figure, theirs),
        plot_figure(figure, trajectories, reference=(theirs, None)),
    )
    for own, other, joined in zip(plain.axes, there.axes, both.axes, strict=True):
        added = joined.lines[len(own.lines) :]
        assert all(line.get_zorder() < 1 and line.get_color() == "0.5" for line in added)
        curves = [line for line in other.lines if line.get_transform() == other.transData and len(line.get_xdata())]
        for line, found in zip(curves, added, strict=True):
            assert line.get_xydata().tolist() == found.get_xydata().tolist() or np.isnan(line.get_ydata()).any()
    assert any(len(joined.lines) > len(own.lines) for own, joined in zip(plain.axes, both.axes, strict=True))
    alone = theirs[theirs["experiment"] == "ablation"]
    if figure == "noise":
        with pytest.raises(InputError, match="reference: its figure has other panels"):
            plot_figure(
                "noise", trajectories, reference=(pd.concat([theirs, alone.assign(experiment="c", rule="sqrt")]), None)
            )
    plt.close("all")


def test_figures_without_their_runs_are_refused(scale, trajectories):
    table = scale(metrics=METRICS)
    with pytest.raises(InputError, match="noise': the runs hold no noise_trace"):
        plot_figure("noise", table)
    with pytest.raises(InputError, match="nothing to show, since no run follows sqrt-no-betas or sqrt-no-eps"):
        plot_figure("ablation", table[table["experiment"] != "ablation"])
    with pytest.raises(
        InputError, match="figure = 'noise-x': must be one of scaling-EXPERIMENT, rules-WORKLOAD, svag-"
    ):
        plot_figure("noise-x", table)
    others = "half-life or invariant or linear or lr-only or none"
    with pytest.raises(InputError, match=f"possible: none, since no run follows {others}"):
        plot_figure("rules-fashion-cnn", trajectories({("sqrt", 1): 0.0, ("sqrt", 2): 0.0}))


def test_a_figure_needs_the_runs_that_it_shows_and_no_others(config):
    planned = plan(config)
    shown = figure_runs(planned)
    assert list(shown) == list(planned.figures)
    for figure, runs in shown.items():
        specs = [planned.runs[run] for run in runs]
        assert specs, figure
        plot = next(plot for name, plot in PLOTS.items() if figure.startswith(name))
        assert all(spec.study == plot.study for spec in specs if isinstance(spec, Simulation))
        if plot.subject == "experiment":
            assert {spec.experiment.removeprefix("svag-") for spec in specs} == {figure.partition("-")[2]}
