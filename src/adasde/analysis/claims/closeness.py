"""How close a rule keeps a run to the baseline, against another rule: distances over all test functions."""

import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.claims.report import row

CLOSENESS_METRICS = ("train_loss", "test_loss", "test_accuracy", "log_perplexity", "squared_norm")


def closeness(trajectories, experiment, rule, kappa) -> dict:
    """The square-root rule keeps a run closer to the baseline than another rule does, at one kappa.

    For each test function the typical distance from the baseline over time, other rule / square root; their
    geometric mean, so that no test function outvotes the others because its noise is small.
    """
    ratios, replicates, diverged = [], [], []
    metrics = closeness_metrics(trajectories, experiment)
    for metric in metrics:
        root = tables.groups(trajectories, experiment, "sqrt", metric)
        other = tables.groups(trajectories, experiment, rule, metric)
        ratio, replicate = _closeness(root, other, kappa)
        ratios.append(ratio)
        replicates.append(replicate)
        diverged = root.diverged.get(1, []) + root.diverged.get(kappa, []) + other.diverged.get(kappa, [])
    return row(
        id=f"closeness.{experiment}.{rule}.k{kappa:g}",
        place="square-root rule",
        statement=f"sqrt stays closer to the baseline than {rule} at kappa {kappa:g}",
        statistic="typical distance from the baseline, other rule / sqrt, geometric mean of test functions",
        value=geometric_mean(ratios),
        bounds=statistics.interval(geometric_mean(replicates)),
        n=min(len(root.values[kappa]), len(other.values[kappa])),
        threshold=1.0,
        below=False,
        note=", ".join(f"{m} {r:.2f}" for m, r in zip(metrics, ratios, strict=True)),
        diverged=diverged,
    )


def closeness_metrics(trajectories, experiment) -> list[str]:
    """Return the test functions whose distances count, of those that the experiment's task measures."""
    measured = set(trajectories.loc[trajectories["experiment"] == experiment, "metric"])
    return [metric for metric in CLOSENESS_METRICS if metric in measured] or ["train_loss"]


def _closeness(root, other, kappa):
    """Ratio of typical distances, and its bootstrap replicates; 0 or infinite where a run diverged."""
    if root.diverged.get(kappa) or root.diverged.get(1):
        return 0.0, np.zeros(statistics.REPLICATES)
    if other.diverged.get(kappa):
        return np.inf, np.full(statistics.REPLICATES, np.inf)
    (far, drawn_far), (near, drawn_near) = (typical_distance(root, runs, kappa) for runs in (other, root))
    return far / near, drawn_far / drawn_near


def typical_distance(root, runs, kappa):
    """Typical distance of ``runs`` at kappa from the baseline, in seed noise, and its replicates.

    ``root`` holds the runs of the square root, and ``runs`` may be ``root`` itself; neither may hold diverged runs at
    kappa, nor ``root`` at 1.
    """
    noise, drawn = statistics.seed_noise(root.healthy), statistics.bootstrap_means(root.healthy)
    others = {k: values for k, values in runs.healthy.items() if k != 1}
    replicates = drawn if runs is root else statistics.bootstrap_means(others, seed=1)
    value = statistics.typical_gap(others[kappa].mean(axis=0), root.values[1].mean(axis=0), noise)
    return value, statistics.typical_gap(replicates[kappa], drawn[1], noise)


def geometric_mean(ratios):
    """Geometric mean over the first axis, with 0 where a ratio is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(ratios).mean(axis=0))
