"""The square-root rule keeps a run closer to the baseline than another rule does."""

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import claim, is_ablation, measured, row


@claim
def closeness(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Compare every other rule with the square root, at every kappa of both.

    For each test function take the typical distance from the baseline over time, other rule / square root; then their
    geometric mean, so that no test function outvotes the others because its seed spread is small.
    """
    kappas = trajectories.groupby("rule", sort=False)["kappa"].agg(set).to_dict()
    return [
        _row(trajectories, experiment, rule, kappa)
        for rule, own in kappas.items()
        if rule not in ("sqrt", "svag")
        for kappa in sorted(own & kappas.get("sqrt", set()) - {1})
    ]


def _row(trajectories, experiment, rule, kappa):
    metrics, ratios, replicates = closeness_metrics(trajectories), [], []
    for metric in metrics:
        root, other = (tables.groups(trajectories, experiment, name, metric) for name in ("sqrt", rule))
        ratio, replicate = _closeness(root, other, kappa)
        ratios.append(ratio)
        replicates.append(replicate)
    return row(
        id=f"closeness.{experiment}.{rule}.k{kappa:g}",
        place="square-root rule",
        statement=f"sqrt stays closer to the baseline than {rule} at kappa {kappa:g}",
        statistic="typical distance from the baseline, other rule / sqrt, geometric mean of test functions",
        value=geometric_mean(ratios),
        bounds=statistics.interval(geometric_mean(replicates)),
        n=min(len(root.values[kappa]), len(other.values[kappa])),
        threshold=1.0,
        reason="at 1 both rules are as far from the baseline",
        below=False,
        note=", ".join(f"{metric} {ratio:.2f}" for metric, ratio in zip(metrics, ratios, strict=True)),
        diverged=root.diverged.get(1, []) + root.diverged.get(kappa, []) + other.diverged.get(kappa, []),
        figure=None if is_ablation(trajectories) else f"rules-{trajectories['task'].iloc[0]}",
    )


def closeness_metrics(trajectories: pd.DataFrame) -> list[str]:
    """Test functions whose distances count."""
    return [metric for metric in measured(trajectories) if metric != "gradient_norm"]


def _closeness(root, other, kappa):
    """Ratio of typical distances, and its bootstrap replicates; 0 or infinite if a run diverged."""
    if root.diverged.get(kappa) or root.diverged.get(1):
        return 0.0, np.zeros(statistics.REPLICATES)
    if other.diverged.get(kappa):
        return np.inf, np.full(statistics.REPLICATES, np.inf)
    (far, drawn_far), (near, drawn_near) = (typical_distance(root, runs, kappa) for runs in (other, root))
    return far / near, drawn_far / drawn_near


def typical_distance(root: tables.Groups, runs: tables.Groups, kappa: float) -> tuple[float, np.ndarray]:
    """Typical distance of ``runs`` at kappa from the baseline, in seed deviations, and its replicates.

    ``root`` holds the runs of the square root, and ``runs`` may be ``root`` itself; neither may hold diverged runs at
    kappa, nor ``root`` at 1.
    """
    spread, drawn = statistics.seed_spread(root.healthy), statistics.bootstrap_means(root.healthy)
    others = {k: values for k, values in runs.healthy.items() if k != 1}
    replicates = drawn if runs is root else statistics.bootstrap_means(others, seed=1)
    value = statistics.typical_gap(others[kappa].mean(axis=0), root.values[1].mean(axis=0), spread)
    return value, statistics.typical_gap(replicates[kappa], drawn[1], spread)


def geometric_mean(ratios: list) -> np.ndarray:
    """Geometric mean over the first axis, with 0 where a ratio is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(ratios).mean(axis=0))
