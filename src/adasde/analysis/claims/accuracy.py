"""Final test accuracies do not depend on the batch size (the paper's figure 18)."""

from itertools import combinations

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import claim, measured, row, scales_batch
from adasde.scaling.rules import ROUNDING

TOLERANCE = 0.03


@claim
def final_accuracy(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Under the square-root rule, final test accuracies are within 3% of each other.

    The paper's baseline beta of 0.999 would fall below 0.5 only at kappa 500, far beyond any batch size. If runs of
    ours fall below, the statement is judged twice: without those kappas, as the paper makes it, and beyond, over all.
    """
    if not (scales_batch(trajectories) and "test_accuracy" in measured(trajectories)):
        return []
    runs = trajectories[trajectories["rule"] == "sqrt"]
    below = runs["smallest_beta"] < 0.5 - ROUNDING if "smallest_beta" in runs else runs["kappa"].isna()
    extreme = set(runs.loc[below, "kappa"]) - {1}
    rows = []
    if set(runs["kappa"]) - extreme != {1}:
        within = trajectories[~trajectories["kappa"].isin(extreme)]
        reason = "within 3% is what the paper's figure 18 calls preserved"
        rows.append(_row("final-accuracy", within, experiment, "", reason))
    if extreme:
        also = f", at kappa {', '.join(f'{kappa:g}' for kappa in sorted(extreme))} (betas below 0.5) as well"
        reason = "as final-accuracy, where the paper never goes"
        rows.append(_row("final-accuracy-beyond", trajectories, experiment, also, reason))
    return rows


def _row(kind, trajectories, experiment, also, reason):
    return row(
        id=f"{kind}.{experiment}",
        place="figure 18",
        statement=f"final test accuracies lie within {100 * TOLERANCE:g}% of each other over kappa{also}",
        statistic="largest difference of mean final test accuracy",
        threshold=TOLERANCE,
        reason=reason,
        **spread(tables.groups(trajectories, experiment, "sqrt", "test_accuracy")),
    )


def spread(groups: tables.Groups) -> dict:
    """What claims on final values share of their rows: the largest difference of means over the levels."""
    final = {level: values[:, -1:] for level, values in groups.healthy.items()}
    means = {level: values.mean() for level, values in final.items()}
    value, bounds = np.nan, (np.nan, np.nan)
    if means:
        scale, drawn = statistics.bootstrap_errors(final)
        pairs = list(combinations(means, 2))
        gaps = np.array([means[b] - means[a] for a, b in pairs] or [0.0])
        errors = scale * np.concatenate([drawn[b] - drawn[a] for a, b in pairs] or [0.0 * scale], axis=1)
        value, bounds = np.abs(gaps).max(), statistics.largest(gaps, errors)
    note = ", ".join(f"k{level:g} {mean:.4f}" for level, mean in means.items())
    diverged = groups.diverged_runs
    return {"value": value, "bounds": bounds, "n": groups.seeds, "below": True, "note": note, "diverged": diverged}
