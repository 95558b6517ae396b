"""The null test of our claims: two baselines with different seeds in place of two batch sizes."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from adasde.analysis.claims.base import VERDICTS, verdict
from adasde.analysis.claims.experiment import BASELINE, Experiment, measured
from adasde.analysis.statistics import Sample


def null_verdicts(
    values: np.ndarray,
    tolerance: float,
    n: int,
    trials: int = 20,
    seed: int = 0,
    compared: Callable[[np.ndarray, np.ndarray], Sample] = Sample.paired,
) -> Counter:
    """Count the verdicts on equal runs: ``n`` of them stand for the baseline, ``n`` others for a larger batch.

    Args:
        values: A test function of baseline runs, (seeds, points), of at least 2 n seeds.
        tolerance: What the claim allows.
        n: Number of seeds on each side.
        trials: How often seeds are drawn.
        seed: Of the draws.
        compared: Makes gaps of the values of a larger batch and of the baseline; default their differences.
    """
    random, found = np.random.default_rng(seed), Counter(dict.fromkeys(VERDICTS, 0))
    for _ in range(trials):
        drawn = values[random.permutation(len(values))[: 2 * n]]
        gap = compared(drawn[:n], drawn[n:]).gap
        found[verdict(gap.low, gap.high, tolerance)] += 1
    return found


def null_test(trajectories: pd.DataFrame, experiment: str, n: int, trials: int = 20) -> pd.DataFrame:
    """Return the counts of verdicts, one row per test function of an experiment, with columns metric and VERDICTS.

    The tolerances are those of its claims at a kappa with no rivals. No examples are shared, so the pairs have the
    spread of independent runs: what pairing gains is not in it.
    """
    found, rows = Experiment(trajectories[trajectories["experiment"] == experiment], experiment), []
    for metric in found.metrics + ["lag"] * found.has_lags:
        values = found.groups(BASELINE[0], measured(metric)).values[1]
        compared = partial(found.compared, metric)
        counts = null_verdicts(values, found.tolerance(metric, 1).value, n, trials, compared=compared)
        rows.append({"metric": metric, **counts})
    return pd.DataFrame(rows, columns=["metric", *VERDICTS])
