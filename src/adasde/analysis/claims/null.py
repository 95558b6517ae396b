"""The null test of our claims: two baselines with different seeds in place of two batch sizes."""

from collections import Counter

import numpy as np
import pandas as pd

from adasde.analysis.claims.base import VERDICTS, verdict
from adasde.analysis.claims.experiment import BASELINE, Experiment
from adasde.analysis.claims.tolerances import window
from adasde.analysis.statistics import Sample


def null_verdicts(values: np.ndarray, tolerance: float, n: int, trials: int = 20, seed: int = 0) -> Counter:
    """Count the verdicts on equal runs: ``n`` of them stand for the baseline, ``n`` others for a larger batch.

    Args:
        values: A test function of baseline runs within the window, (seeds, points), of at least 2 n seeds.
        tolerance: What the claim allows.
        n: Number of seeds on each side.
        trials: How often seeds are drawn.
        seed: Of the draws.
    """
    random, found = np.random.default_rng(seed), Counter(dict.fromkeys(VERDICTS, 0))
    for _ in range(trials):
        drawn = values[random.permutation(len(values))[: 2 * n]]
        gap = Sample.paired(drawn[:n], drawn[n:]).gap
        found[verdict(gap.low, gap.high, tolerance)] += 1
    return found


def null_test(trajectories: pd.DataFrame, experiment: str, n: int, trials: int = 20) -> pd.DataFrame:
    """Return the counts of verdicts, one row per test function of an experiment, with columns metric and VERDICTS.

    The tolerances are those of its claims at a kappa with no rivals. No examples are shared, so the pairs have the
    spread of independent runs: what pairing gains is not in it.
    """
    found, rows = Experiment(trajectories[trajectories["experiment"] == experiment], experiment), []
    for metric in found.metrics:
        groups = found.groups(BASELINE[0], metric)
        values = groups.values[1][:, window(groups.time, found.kind)]
        counts = null_verdicts(values, found.tolerance(metric, 1).value, n, trials)
        rows.append({"metric": metric, **counts})
    return pd.DataFrame(rows, columns=["metric", *VERDICTS])
