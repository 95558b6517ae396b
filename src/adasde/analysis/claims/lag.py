"""Noise must dominate (section 4.1): the baseline's gradient noise says how far a larger batch falls behind."""

import numpy as np
import pandas as pd

from adasde.analysis import statistics
from adasde.analysis.claims.base import claim, is_ablation, row, simulation_claim
from adasde.analysis.lags import has_lags, measured_lags, simulated_lags

RANK_AGREEMENT = 0.9
TOLERANCE = 0.1  # of the samples


@claim
def prediction(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Lags predicted before any larger batch is run have the observed order, and the observed size."""
    kappas = trajectories.loc[trajectories["rule"] == "sqrt", "kappa"].nunique()
    if kappas < 3 or not has_lags(trajectories, experiment):
        return []
    return _rows(measured_lags(trajectories, experiment), experiment, "" if is_ablation(trajectories) else "breakdown")


@simulation_claim
def simulated_prediction(simulations: pd.DataFrame) -> list[dict]:
    """The same of oracles; their predictions can be constant in time, and so their ranks tied: only the size counts."""
    runs = simulations.loc[simulations["study"] == "breakdown", "run"].unique()
    return [_rows(simulated_lags(simulations, run), run, "breakdown")[-1] for run in runs]


def _rows(lags, name, figure):
    shared = {"place": "section 4.1", "n": lags.seeds, "note": _ends(lags), "figure": figure}
    (rank, ranks), (error, errors) = (
        lags.agreement(of) for of in (statistics.rank_correlation, statistics.mean_distance)
    )
    return [
        row(
            id=f"prediction-rank.{name}",
            statement="the lags of larger batches are in the order that the baseline's noise predicts",
            statistic="rank correlation of predicted and observed lag, over all kappas and times",
            value=rank,
            bounds=statistics.interval(np.minimum(ranks, 1.0)),
            threshold=RANK_AGREEMENT,
            reason="the order of larger batches and of moments all but right (ours)",
            below=False,
            **shared,
        ),
        row(
            id=f"prediction-error.{name}",
            statement=f"the lags of larger batches are what the baseline's noise predicts, to {TOLERANCE:g}",
            statistic="mean absolute difference of predicted and observed lag, over all kappas and times",
            value=error,
            bounds=statistics.interval(np.maximum(errors, 0.0)),
            threshold=TOLERANCE,
            reason="right to a tenth of the samples, the lag that `adasde predict` tolerates (ours)",
            below=True,
            **shared,
        ),
    ]


def _ends(lags):
    """Both lags at the end of training; a larger batch that diverged has none, and the others still have theirs."""
    pairs = {kappa: (lags.predicted[kappa][-1], lags.observed[kappa][-1]) for kappa in lags.predicted}
    return "at the end, predicted and observed: " + ", ".join(
        f"k{kappa:g} {there:.2f} {f'{here:.2f}' if np.isfinite(here) else 'none'}"
        for kappa, (there, here) in pairs.items()
    )
