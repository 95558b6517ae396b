"""Statements of the paper, and ours, as executable predicates on the tables of a scale.

A claim yields a statistic, its 95% bootstrap interval over seeds, and a threshold. The verdict is *reproduced* where
the whole interval is on the claim's side of the threshold, *not reproduced* where all of it is on the other side, and
*inconclusive* where the threshold lies within, or where a single seed leaves the noise unknown. A diverged run is
infinitely far from the baseline.
"""

import numpy as np
import pandas as pd

from . import lag, scaling, stats, tables, theory
from .verdicts import COLUMNS, row

# The paper's figure 18 holds final test accuracies to three percentage points of each other.
ACCURACY_TOLERANCE = 0.03

# A mean within three standard deviations of a single run's noise is not told from the baseline by one more run.
MARGIN = 3.0

# A lag predicted before any larger batch was run: in the right order, and right to a tenth of the samples.
RANK_AGREEMENT = 0.9
LAG_TOLERANCE = 0.1

TRAJECTORY_METRICS = ("train_loss", "test_loss", "test_accuracy", "squared_norm", "gradient_norm")
CLOSENESS_METRICS = ("train_loss", "test_loss", "test_accuracy", "squared_norm")


def evaluate(trajectories: pd.DataFrame, simulations: pd.DataFrame = tables.NO_SIMULATIONS) -> pd.DataFrame:
    """Return one row per claim that the tables of a scale can speak to, with the columns COLUMNS."""
    rows = []
    for experiment, table in trajectories.groupby("experiment", sort=False):
        # Where all runs diverged at once nothing was measured, and every claim fails.
        metrics = set(table["metric"]) - {"diverged"} or set(TRAJECTORY_METRICS)
        kappas = set(table.loc[table["rule"] == "sqrt", "kappa"])
        if len(kappas) > 1 and "test_accuracy" in metrics:
            rows += final_accuracy(trajectories, experiment)
        if len(kappas) > 1:
            rows += [trajectory(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
        if (table["rule"] == "svag").any():
            rows += [svag(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
        if len(kappas) > 2 and lag.known(trajectories, experiment):
            rows += prediction(lag.lags(trajectories, experiment), experiment)
        for rule in [rule for rule in table["rule"].unique() if rule not in ("sqrt", "svag")]:
            for kappa in sorted(set(table.loc[table["rule"] == rule, "kappa"]) & kappas - {1}):
                rows.append(closeness(trajectories, experiment, rule, kappa))
    for run in simulations.loc[simulations["study"] == "breakdown", "run"].unique():
        # Where a prediction is the same at all times its ranks are tied, and say nothing.
        rows.append(prediction(lag.simulated(simulations, run), run)[-1])
    return pd.DataFrame(rows + theory.evaluate(simulations), columns=COLUMNS)


def final_accuracy(trajectories, experiment) -> list[dict]:
    """The paper's figure 18: under the square-root rule, final test accuracies are within 3% of each other.

    The paper's baseline beta of 0.999 would fall below 0.5 at kappa 500, far beyond any batch size. Where runs of ours
    fall below, the statement is judged twice: without those kappas, as the paper makes it, and beyond, over all.
    """
    runs = trajectories[(trajectories["experiment"] == experiment) & (trajectories["rule"] == "sqrt")]
    below = runs["smallest_beta"] < 0.5 - scaling.ROUNDING if "smallest_beta" in runs else runs["kappa"].isna()
    extreme = set(runs.loc[below, "kappa"]) - {1}
    rows, within = [], trajectories[~trajectories["kappa"].isin(extreme)]
    if set(runs["kappa"]) - extreme != {1}:
        rows.append(_final_accuracy(within, experiment, "final-accuracy", ""))
    if extreme:
        also = f", at kappa {', '.join(f'{kappa:g}' for kappa in sorted(extreme))} (betas below 0.5) as well"
        rows.append(_final_accuracy(trajectories, experiment, "final-accuracy-beyond", also))
    return rows


def _final_accuracy(trajectories, experiment, name, also):
    groups = tables.groups(trajectories, experiment, "sqrt", "test_accuracy")
    final = {kappa: values[:, -1:] for kappa, values in groups.healthy.items()}
    means = {kappa: values.mean() for kappa, values in final.items()}
    replicates = stats.bootstrap_means(final)
    return row(
        id=f"{name}.{experiment}",
        place="figure 18",
        statement=f"final test accuracies lie within {100 * ACCURACY_TOLERANCE:g}% of each other over kappa{also}",
        statistic="largest difference of mean final test accuracy",
        value=stats.spread(list(means.values())) if means else np.nan,
        replicates=stats.spread(list(replicates.values()))[:, 0] if means else np.full(2, np.nan),
        n=groups.seeds,
        threshold=ACCURACY_TOLERANCE,
        below=True,
        note=", ".join(f"k{kappa:g} {mean:.4f}" for kappa, mean in means.items()),
        diverged=groups.diverged_runs,
    )


def trajectory(trajectories, experiment, metric) -> dict:
    """The SDE's promise: the whole trajectory of a test function is preserved over kappa, up to the noise of seeds."""
    return row(
        id=f"trajectory.{experiment}.{metric}",
        place="square-root rule",
        statement=f"{metric} stays within {MARGIN:g} seed deviations of the baseline at all times and kappas",
        statistic="largest distance from the baseline, in standard deviations of a run's seed noise",
        **_largest_distance(tables.groups(trajectories, experiment, "sqrt", metric), "k"),
    )


def svag(trajectories, experiment, metric) -> dict:
    """SVAG's promise: runs at larger ell, which are nearer the SDE, have the trajectory of the plain run, ell = 1."""
    return row(
        id=f"svag.{experiment.removeprefix('svag-')}.{metric}",
        place="SVAG",
        statement=f"{metric} stays within {MARGIN:g} seed deviations of the plain run at all times and ells",
        statistic="largest distance from the plain run, in standard deviations of a run's seed noise",
        **_largest_distance(tables.groups(trajectories, experiment, "svag", metric), "l"),
    )


def _largest_distance(groups, prefix):
    """What `trajectory` and `svag` share of their rows: the largest distance of any level's mean from level 1."""
    value, replicates, notes = np.nan, np.full(2, np.nan), []
    if not groups.diverged:
        noise = stats.seed_noise(groups.values)
        means = {level: values.mean(axis=0) for level, values in groups.values.items()}
        drawn = stats.bootstrap_means(groups.values)
        others = [level for level in means if level != 1]
        distances = {level: stats.largest_gap(means[level], means[1], noise) for level in others}
        value = max(distances.values())
        replicates = np.max([stats.largest_gap(drawn[level], drawn[1], noise) for level in others], axis=0)
        notes = [
            f"{prefix}{level:g} {distance:.1f}{_settled(means[level], means[1], noise, groups.epoch)}"
            for level, distance in distances.items()
        ]
    return {
        "value": value,
        "replicates": replicates,
        "n": groups.seeds,
        "threshold": MARGIN,
        "below": True,
        "note": ", ".join(notes),
        "diverged": groups.diverged_runs,
    }


def closeness(trajectories, experiment, rule, kappa) -> dict:
    """The square-root rule keeps a run closer to the baseline than another rule does, at one kappa.

    For each test function the typical distance from the baseline over time, other rule / square root; their
    geometric mean, so that no test function outvotes the others because its noise is small.
    """
    ratios, replicates, diverged = [], [], []
    for metric in CLOSENESS_METRICS:
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
        statistic="typical distance from the baseline, other rule / sqrt, geometric mean of four test functions",
        value=geometric_mean(ratios),
        replicates=geometric_mean(replicates),
        n=min(len(root.values[kappa]), len(other.values[kappa])),
        threshold=1.0,
        below=False,
        note=", ".join(f"{m} {r:.2f}" for m, r in zip(CLOSENESS_METRICS, ratios, strict=True)),
        diverged=diverged,
    )


def prediction(lags, name) -> list[dict]:
    """Section 4.1, noise must dominate: the baseline's gradient noise says how far a larger batch falls behind."""
    shared = {
        "place": "section 4.1",
        "n": lags.seeds,
        "note": "at the end, predicted and observed: "
        + ", ".join(f"k{k:g} {lags.predicted[k][-1]:.2f} {_lag(lags.observed[k][-1])}" for k in lags.predicted),
        "diverged": [],  # a larger batch that diverged has no lag; the others still have theirs
    }
    (rank, ranks), (error, errors) = (lags.agreement(of) for of in (stats.rank_correlation, stats.mean_distance))
    return [
        row(
            id=f"prediction-rank.{name}",
            statement="the lags of larger batches are in the order that the baseline's noise predicts",
            statistic="rank correlation of predicted and observed lag, over all kappas and times",
            value=rank,
            replicates=np.minimum(ranks, 1.0),
            threshold=RANK_AGREEMENT,
            below=False,
            **shared,
        ),
        row(
            id=f"prediction-error.{name}",
            statement=f"the lags of larger batches are what the baseline's noise predicts, to {LAG_TOLERANCE:g}",
            statistic="mean absolute difference of predicted and observed lag, over all kappas and times",
            value=error,
            replicates=np.maximum(errors, 0.0),
            threshold=LAG_TOLERANCE,
            below=True,
            **shared,
        ),
    ]


def _lag(value):
    return f"{value:.2f}" if np.isfinite(value) else "none"


def _closeness(root, other, kappa):
    """Ratio of typical distances, and its bootstrap replicates; 0 or infinite where a run diverged."""
    if root.diverged.get(kappa) or root.diverged.get(1):
        return 0.0, np.zeros(stats.REPLICATES)
    if other.diverged.get(kappa):
        return np.inf, np.full(stats.REPLICATES, np.inf)
    (far, drawn_far), (near, drawn_near) = (typical_distance(root, runs, kappa) for runs in (other, root))
    return far / near, drawn_far / drawn_near


def typical_distance(root, runs, kappa):
    """Typical distance of ``runs`` at kappa from the baseline, in seed noise, and its replicates.

    ``root`` holds the runs of the square root, and ``runs`` may be ``root`` itself; neither may hold diverged runs at
    kappa, nor ``root`` at 1.
    """
    noise, drawn = stats.seed_noise(root.healthy), stats.bootstrap_means(root.healthy)
    others = {k: values for k, values in runs.healthy.items() if k != 1}
    replicates = drawn if runs is root else stats.bootstrap_means(others, seed=1)
    value = stats.typical_gap(others[kappa].mean(axis=0), root.values[1].mean(axis=0), noise)
    return value, stats.typical_gap(replicates[kappa], drawn[1], noise)


def geometric_mean(ratios):
    """Geometric mean over the first axis, with 0 where a ratio is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(ratios).mean(axis=0))


def _settled(mean, baseline, noise, epoch):
    """Say from which epoch on a trajectory stays within the margin, where it leaves it at all."""
    outside = np.flatnonzero(~(np.abs(stats.in_noise(mean, baseline, noise)) <= MARGIN))
    if len(outside) == 0:
        return ""
    last = outside[-1] + 1
    return f" (within {MARGIN:g} from epoch {epoch[last]:.2g})" if last < len(epoch) else " (outside at the end)"
