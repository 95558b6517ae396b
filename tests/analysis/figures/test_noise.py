"""figures/noise.py, on runs whose noise is known."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from adasde.analysis.figures.registry import plot_figure
from analysis.runs import METRICS, NOISE, OPTIONS


@pytest.mark.parametrize("options", [*OPTIONS, {"metrics": METRICS | NOISE | {"squared_gradient": -1.0}}])
def test_noise_shows_signal_over_noise_and_speeds(scale, options):
    drawn = plot_figure("noise", scale(**options))
    top, bottom = drawn.axes[:2]
    assert top.get_yscale() == "log"
    assert bottom.get_ylim() == (0, 1.05)
    if not options:
        values = {round(float(line.get_ydata()[0]), 3) for line in top.lines[:3]}
        wanted = {32 * kappa * 0.2 / 100 for kappa in (1, 2, 4)}
        assert all(any(abs(value - want) < 0.1 * want for value in values) for want in wanted)
    plt.close(drawn)


def test_noise_leaves_fine_tunings_out(scale):
    table = scale()
    tuned = table[table["experiment"] != "ablation"].assign(experiment="tuned", rule="finetune")
    both = pd.concat([table, tuned], ignore_index=True)
    drawn = plot_figure("noise", both)
    assert len([panel for panel in drawn.axes if panel.get_title()]) == 1
    plt.close(drawn)
