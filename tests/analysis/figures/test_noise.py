"""figures/noise.py, on runs whose noise is known."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from adasde.analysis.figures.registry import plot_figure
from adasde.common import InputError
from analysis.runs import PARTS, table

NOISE = {name: np.full(len(PARTS), value) for name, value in
         (("noise_trace", 100.0), ("squared_gradient", 0.2), ("gradient_norm", 0.5))}  # fmt: skip
EFFECTS = {("sqrt", 1): 0.0, ("sqrt", 4): 0.1}


def measured(kind="scratch", experiment="a", seeds=3, square=0.2, **options):
    """A table whose baselines measured their noise at three of the times, with two per cent of spread."""
    made = table(EFFECTS, kind=kind, experiment=experiment, seeds=seeds, **options)
    base = made[(made["kappa"] == 1) & (made["metric"] == "train_loss") & made["time"].isin([0.0, 1.0, 2.0])]
    random = np.random.default_rng(0)
    parts = [made]
    for metric, value in (("noise_trace", 100.0), ("squared_gradient", square), ("gradient_norm", 0.5)):
        parts.append(base.assign(metric=metric, value=value * (1 + 0.02 * random.normal(size=len(base)))))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"square": -0.1}, {"diverged": [("sqrt", 4, 0)]}])
def test_noise_shows_signal_over_noise_where_it_was_measured(options):
    plotted = plot_figure("noise", pd.concat([measured(**options), measured("branch", "b", **options)]))
    assert [panel.get_title(loc="left") for panel in plotted.axes] == ["from scratch", "branches"]
    for panel in plotted.axes:
        curve = next(line for line in panel.lines if len(line.get_xdata()) == 3)
        assert np.allclose(curve.get_xdata(), [0, 0.5, 1])
        wanted = 8 * (0.2 if "square" not in options else (0.25 + 0.1) / 10) / 100
        assert np.allclose(curve.get_ydata(), wanted, rtol=0.06)
        lines = [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() == "--"]
        assert lines == [1, 1 / 4]
        low, high = panel.get_ylim()
        assert low < min(curve.get_ydata())
        assert high > 1
    plt.close(plotted)


def test_runs_without_noise_are_refused():
    with pytest.raises(InputError, match="noise': the runs hold no noise_trace"):
        plot_figure("noise", table(EFFECTS))
