"""Noise must dominate (section 4.1): lags of oracles, whose gradient and noise are known exactly."""

import numpy as np
import pandas as pd

from adasde.analysis import statistics
from adasde.analysis.claims.base import ClaimRow, row, simulation_claim
from adasde.analysis.lags import simulated_lags
from adasde.scaling.lag import TOLERATED


@simulation_claim
def simulated_prediction(simulations: pd.DataFrame) -> list[ClaimRow]:
    """Lags predicted before any larger batch is simulated have the observed size."""
    runs = simulations.loc[simulations["study"] == "breakdown", "run"].unique()
    return [_row(simulated_lags(simulations, run), run) for run in runs]


def _row(lags, run):
    error, errors = lags.agreement(statistics.mean_distance)
    return row(
        claim="prediction-error",
        about=run,
        place="section 4.1",
        statement=f"the lags of larger batches are what the baseline's noise predicts, to {TOLERATED:g}",
        statistic="mean absolute difference of predicted and observed lag, over all kappas and times",
        value=error,
        bounds=statistics.interval(np.maximum(errors, 0.0)),
        n=lags.seeds,
        tolerance=TOLERATED,
        reason="right to a tenth of the time, the lag that the forecast tolerates (ours)",
        note=_ends(lags),
        figure="forecast",
    )


def _ends(lags):
    """Both lags at the end of training; a larger batch that diverged has none, and the others still have theirs."""
    pairs = {kappa: (lags.predicted[kappa][-1], lags.observed[kappa][-1]) for kappa in lags.predicted}
    return "at the end, predicted and observed: " + ", ".join(
        f"k{kappa:g} {there:.2f} {f'{here:.2f}' if np.isfinite(here) else 'none'}"
        for kappa, (there, here) in pairs.items()
    )
