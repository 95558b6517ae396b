"""claims/lag.py: lags of a simulated problem, as predicted or not."""

import numpy as np
import pandas as pd
import pytest

from adasde.analysis.claims.lag import simulated_prediction
from adasde.experiments.artifacts import SIMULATED


def breakdown(true):
    """Rows of a breakdown study whose loss falls at speed 1, and at ``true`` at kappa 4, for which it predicts 0.7."""
    random, rows = np.random.default_rng(0), []
    for batch in range(4):
        for time in np.linspace(0.0, 2.0, 9):
            for level, speed in ((1.0, 1.0), (4.0, true)):
                loss = 2.0 * np.exp(-speed * time + 1e-3 * random.normal() * (time > 0))
                rows += [
                    ("x", "sde", level, batch, time, "loss", loss),
                    ("x", "sde", level, batch, time, "speed_k4", 0.7),
                ]
    return pd.DataFrame(rows, columns=SIMULATED).assign(study="breakdown")


@pytest.mark.parametrize(("true", "verdict"), [(0.7, "reproduced"), (0.95, "not reproduced")])
def test_lags_are_as_predicted_or_not(true, verdict):
    (row,) = simulated_prediction(breakdown(true))
    assert (row.id, row.verdict, row.n) == ("prediction-error.x", verdict, 4)
    assert row.note.startswith(f"at the end, predicted and observed: k4 0.30 {1 - true:.2f}")
    assert simulated_prediction(breakdown(0.7).assign(study="weak-order")) == []
