"""The figures of a whole scale: which runs they show, and what they refuse."""

import matplotlib.pyplot as plt
import pytest

from adasde import InputError, plots, tables
from test_claims import FAITHFUL, METRICS, write_runs

NOISE = {"noise_trace": 100.0, "squared_gradient": 0.2, **{f"speed_k{k}": 0.9 for k in (2, 4, 16, 64)}}
PARTS = {
    ("sqrt", 1): 0.0,
    ("sqrt", 4): 0.0,
    ("sqrt-no-betas", 4): 0.2,
    ("sqrt-no-eps", 4): 0.1,
}


@pytest.fixture
def scale(tmp_path, spec):
    """Runs of a main experiment and of an ablation at a large eps."""

    def make(**options):
        options = {"metrics": METRICS | NOISE} | options
        large = {**spec, "experiment": "ablation", "optimizer": {**spec["optimizer"], "eps": 1e-2}}
        paths = write_runs(tmp_path / "main", spec, FAITHFUL, **options)
        paths += write_runs(tmp_path / "ablation", large, PARTS, **options)
        return tables.collect(paths)[0]

    return make


OPTIONS = [{}, {"seeds": 1}, {"diverged": [("sqrt", 1, 0), ("sqrt-no-eps", 4, 1)]}]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_ablation_shows_small_and_large_eps_side_by_side(scale, options):
    drawn = plots.draw("ablation", scale(**options))
    titles = [axes.get_title(loc="left") for axes in drawn.axes[::2]]
    assert ["1e-8" in titles[0], "1e-2" in titles[1]] == [True, True]
    ticks = [text.get_text() for text in drawn.axes[2].get_xticklabels()]
    assert len(ticks) == 3
    assert "epsilon" in ticks[2]
    plt.close(drawn)


@pytest.mark.parametrize("options", [*OPTIONS, {"metrics": METRICS | NOISE | {"squared_gradient": -1.0}}])
def test_noise_shows_signal_over_noise_and_speeds(scale, options):
    drawn = plots.draw("noise", scale(**options))
    top, bottom = drawn.axes[:2]
    assert top.get_yscale() == "log"
    assert bottom.get_ylim() == (0, 1.05)
    if not options:
        values = {round(float(line.get_ydata()[0]), 3) for line in top.lines[:3]}
        wanted = {32 * kappa * 0.2 / 100 for kappa in (1, 2, 4)}
        assert all(any(abs(value - want) < 0.1 * want for value in values) for want in wanted)
    plt.close(drawn)


def test_figures_without_their_runs_are_refused(scale, tmp_path, spec):
    table = scale(metrics=METRICS)
    with pytest.raises(InputError, match="noise': the runs hold no noise_trace"):
        plots.draw("noise", table)
    with pytest.raises(InputError, match="nothing to show, since no run follows sqrt-no-betas or sqrt-no-eps"):
        plots.draw("ablation", table[table["experiment"] != "ablation"])
    with pytest.raises(InputError, match="figure = 'noise-x': must be one of scaling-EXPERIMENT, rules-TASK, svag-"):
        plots.draw("noise-x", table)


def test_rules_leave_ablations_out(scale):
    drawn = plots.draw("rules-fashion-cnn", scale())
    assert len(drawn.axes) == 3
    plt.close(drawn)
