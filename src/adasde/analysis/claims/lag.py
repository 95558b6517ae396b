"""Noise must dominate (section 4.1): the baseline's gradient noise says how far a larger batch falls behind."""

import numpy as np
import pandas as pd

from adasde.analysis import statistics
from adasde.analysis.claims.base import claim, is_ablation, row, simulation_claim
from adasde.analysis.lags import Lags, has_lags, measured_lags, simulated_lags

RANK_AGREEMENT = 0.9
TOLERANCE = 0.1  # of the samples


@claim
def prediction(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Lags predicted before any larger batch is run have the observed order, and the observed size."""
    kappas = trajectories.loc[trajectories["rule"] == "sqrt", "kappa"].nunique()
    if kappas < 3 or not has_lags(trajectories, experiment):
        return []
    lags, figure = measured_lags(trajectories, experiment), "" if is_ablation(trajectories) else "breakdown"
    return [_rank(lags, experiment, figure), _error(lags, experiment, figure)]


@simulation_claim
def simulated_prediction(simulations: pd.DataFrame) -> list[dict]:
    """The same of oracles; their predictions can be constant in time, and so their ranks tied: only the size counts."""
    runs = simulations.loc[simulations["study"] == "breakdown", "run"].unique()
    return [_error(simulated_lags(simulations, run), run, "breakdown") for run in runs]


def _rank(lags, name, figure):
    rank, ranks = lags.agreement(statistics.rank_correlation)
    return row(
        id=f"prediction-rank.{name}",
        place="section 4.1",
        statement="the lags of larger batches are in the order that the baseline's noise predicts",
        statistic="rank correlation of predicted and observed lag, over all kappas and times",
        value=rank,
        bounds=statistics.interval(np.minimum(ranks, 1.0)),
        n=lags.seeds,
        threshold=RANK_AGREEMENT,
        reason="the order of larger batches and of moments all but right (ours)",
        below=False,
        note=_ends(lags),
        figure=figure,
    )


def _error(lags, name, figure):
    error, errors = lags.agreement(statistics.mean_distance)
    return row(
        id=f"prediction-error.{name}",
        place="section 4.1",
        statement=f"the lags of larger batches are what the baseline's noise predicts, to {TOLERANCE:g}",
        statistic="mean absolute difference of predicted and observed lag, over all kappas and times",
        value=error,
        bounds=statistics.interval(np.maximum(errors, 0.0)),
        n=lags.seeds,
        threshold=TOLERANCE,
        reason="right to a tenth of the samples, the lag that `adasde predict` tolerates (ours)",
        below=True,
        note=_ends(lags),
        figure=figure,
    )


def _ends(lags: Lags) -> str:
    """Both lags at the end of training; a larger batch that diverged has none, and the others still have theirs."""
    pairs = {kappa: (lags.predicted[kappa][-1], lags.observed[kappa][-1]) for kappa in lags.predicted}
    return "at the end, predicted and observed: " + ", ".join(
        f"k{kappa:g} {there:.2f} {f'{here:.2f}' if np.isfinite(here) else 'none'}"
        for kappa, (there, here) in pairs.items()
    )
