"""figures/weak_order.py and real_data.py, on simulations whose order is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from adasde.analysis import tables
from adasde.analysis.figures.registry import plot_figure
from analysis.claims.test_weak_error import NOTHING, svag, weak


@pytest.mark.parametrize("batches", [8, 2, 1])
def test_weak_order_keeps_its_lines_in_the_frame(batches):
    plotted = plot_figure("weak-order", NOTHING, weak(1.0, batches=batches))
    for panel in plotted.axes:
        low, high = panel.get_ylim()
        for line in panel.lines:
            values = np.array(line.get_ydata(), float)
            values = values[np.isfinite(values)]
            assert ((low <= values) & (values <= high)).all()
    if batches == 8:
        assert "slope 1.0" in plotted.axes[0].texts[0].get_text()
    names = [text.get_text() for text in plotted.legends[0].get_texts()]
    assert any("$u$" in name and "average" in name for name in names)
    plt.close(plotted)


@pytest.mark.parametrize("batches", [8, 2, 1])
def test_real_data_shows_paths_and_distances(batches):
    plotted = plot_figure("sde-real-data", NOTHING, svag(2.0, batches=batches))
    path, distance = plotted.axes
    assert path.get_ylabel() == "train loss (nats)"
    assert distance.get_xlabel() == r"SVAG's $\ell$"
    assert not any("order" in text.get_text() for text in [distance.title, *distance.texts])
    plotted.canvas.draw()
    plt.close(plotted)
    assert tables.NO_SIMULATIONS.empty
