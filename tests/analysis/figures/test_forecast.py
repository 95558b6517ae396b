"""figures/forecast.py: forecast and observed lags of runs and oracles whose lag is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adasde.analysis.figures import style
from adasde.analysis.figures.registry import plot_figure
from adasde.common import InputError
from analysis.runs import SPEEDS


def marks(plotted):
    """Colour and place of every point."""
    return {
        line.get_color(): line.get_xydata()[0]
        for line in plotted.axes[0].lines
        if line.get_marker() not in ("", "None")
    }


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"kappas": (1, 4)}])
def test_runs_that_lag_as_forecast_lie_on_the_diagonal(lagging, options):
    plotted = plot_figure("forecast", lagging(**options))
    found = marks(plotted)
    for kappa in options.get("kappas", (1, 2, 4, 16))[1:]:
        across, up = found[style.kappa_colour(kappa)]
        assert across == pytest.approx(1 - SPEEDS[kappa], abs=0.02)
        assert up == pytest.approx(1 - SPEEDS[kappa], abs=0.02)
    count = len(found)
    assert f"same side of 10% in {count} of {count}" in plotted.get_suptitle() or 2 in options.get("kappas", (2,))
    plt.close(plotted)


def test_a_wrong_forecast_is_on_the_other_side(lagging):
    plotted = plot_figure("forecast", lagging(true={4: 0.99}, kappas=(1, 4)))
    assert "same side of 10% in 0 of 1" in plotted.get_suptitle()
    across, up = marks(plotted)[style.kappa_colour(4)]
    assert across > 0.1 > up
    low, high = plotted.axes[0].get_ylim()
    assert low < up < high
    plt.close(plotted)


def test_there_is_no_forecast_without_speeds_or_at_a_changing_rate(lagging):
    table = lagging()
    with pytest.raises(InputError, match="forecast': no baseline at a constant learning rate recorded its speeds"):
        plot_figure("forecast", table.assign(time=table["time"] ** 2))
    plotted = plot_figure("forecast", lagging(seeds=2, noise=0.3))
    assert all(np.isfinite(place).all() for place in marks(plotted).values())
    plt.close(plotted)
