"""Statements of the paper, and ours, as executable predicates on the tables of a scale.

A claim yields a statistic, its 95% bootstrap interval over seeds, and a threshold. The verdict is *reproduced* where
the whole interval is on the claim's side of the threshold, *not reproduced* where all of it is on the other side, and
*inconclusive* where the threshold lies within, or where a single seed leaves the noise unknown. A diverged run is
infinitely far from the baseline.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from . import stats, tables, terminal
from .errors import InputError
from .store import atomic

COLUMNS = (
    "id", "place", "statement", "statistic", "value", "low", "high", "n", "threshold", "verdict", "note",
)  # fmt: skip

# The paper's figure 18 holds final test accuracies to three percentage points of each other.
ACCURACY_TOLERANCE = 0.03

# A mean within three standard deviations of a single run's noise is not told from the baseline by one more run.
MARGIN = 3.0

TRAJECTORY_METRICS = ("train_loss", "test_loss", "test_accuracy", "squared_norm", "gradient_norm")
CLOSENESS_METRICS = ("train_loss", "test_loss", "test_accuracy", "squared_norm")


def evaluate(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return one row per claim that the trajectories can speak to, with the columns COLUMNS."""
    rows = []
    for experiment, table in trajectories.groupby("experiment", sort=False):
        # Where all runs diverged at once nothing was measured, and every claim fails.
        metrics = set(table["metric"]) - {"diverged"} or set(TRAJECTORY_METRICS)
        kappas = set(table.loc[table["rule"] == "sqrt", "kappa"])
        if len(kappas) > 1 and "test_accuracy" in metrics:
            rows.append(final_accuracy(trajectories, experiment))
        if len(kappas) > 1:
            rows += [trajectory(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
        if (table["rule"] == "svag").any():
            rows += [svag(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
        for rule in [rule for rule in table["rule"].unique() if rule not in ("sqrt", "svag")]:
            for kappa in sorted(set(table.loc[table["rule"] == rule, "kappa"]) & kappas - {1}):
                rows.append(closeness(trajectories, experiment, rule, kappa))
    return pd.DataFrame(rows, columns=COLUMNS)


def final_accuracy(trajectories, experiment) -> dict:
    """The paper's figure 18: under the square-root rule, final test accuracies are within 3% of each other."""
    groups = tables.groups(trajectories, experiment, "sqrt", "test_accuracy")
    final = {kappa: values[:, -1:] for kappa, values in groups.healthy.items()}
    means = {kappa: values.mean() for kappa, values in final.items()}
    replicates = stats.bootstrap_means(final)
    return _row(
        id=f"final-accuracy.{experiment}",
        place="figure 18",
        statement=f"final test accuracies lie within {100 * ACCURACY_TOLERANCE:g}% of each other over kappa",
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
    return _row(
        id=f"trajectory.{experiment}.{metric}",
        place="square-root rule",
        statement=f"{metric} stays within {MARGIN:g} seed deviations of the baseline at all times and kappas",
        statistic="largest distance from the baseline, in standard deviations of a run's seed noise",
        **_largest_distance(tables.groups(trajectories, experiment, "sqrt", metric), "k"),
    )


def svag(trajectories, experiment, metric) -> dict:
    """SVAG's promise: runs at larger ell, which are nearer the SDE, have the trajectory of the plain run, ell = 1."""
    return _row(
        id=f"svag.{experiment}.{metric}",
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
    return _row(
        id=f"closeness.{experiment}.{rule}.k{kappa:g}",
        place="square-root rule",
        statement=f"sqrt stays closer to the baseline than {rule} at kappa {kappa:g}",
        statistic="typical distance from the baseline, other rule / sqrt, geometric mean of four test functions",
        value=_geometric_mean(ratios),
        replicates=_geometric_mean(replicates),
        n=min(len(root.values[kappa]), len(other.values[kappa])),
        threshold=1.0,
        below=False,
        note=", ".join(f"{m} {r:.2f}" for m, r in zip(CLOSENESS_METRICS, ratios, strict=True)),
        diverged=diverged,
    )


def _closeness(root, other, kappa):
    """Ratio of typical distances, and its bootstrap replicates; 0 or infinite where a run diverged."""
    if root.diverged.get(kappa) or root.diverged.get(1):
        return 0.0, np.zeros(stats.REPLICATES)
    if other.diverged.get(kappa):
        return np.inf, np.full(stats.REPLICATES, np.inf)
    noise = stats.seed_noise(root.healthy)
    drawn = stats.bootstrap_means(root.healthy)
    others = {k: values for k, values in other.healthy.items() if k != 1}
    drawn_others = stats.bootstrap_means(others, seed=1)
    baseline = root.values[1].mean(axis=0)
    far = stats.typical_gap(others[kappa].mean(axis=0), baseline, noise)
    near = stats.typical_gap(root.values[kappa].mean(axis=0), baseline, noise)
    return far / near, (
        stats.typical_gap(drawn_others[kappa], drawn[1], noise) / stats.typical_gap(drawn[kappa], drawn[1], noise)
    )


def _geometric_mean(ratios):
    with np.errstate(divide="ignore"):
        return np.exp(np.log(ratios).mean(axis=0))


def verdict(low, high, threshold, below) -> str:
    """Verdict of an interval on a claim that the statistic is ``below`` the threshold, or above it."""
    if np.isnan(low) or np.isnan(high):
        return "inconclusive"
    if not below:
        low, high, threshold = -high, -low, -threshold
    return "reproduced" if high < threshold else "not reproduced" if low > threshold else "inconclusive"


def write(table: pd.DataFrame, path):
    """Write the claims as CSV, whole or not at all."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, and the count of each verdict."""
    rows = [("claim", "value", "95% interval", "n", "threshold", "verdict")]
    for claim in table.itertuples():
        bounds = f"{claim.low:.3g} to {claim.high:.3g}"
        threshold = f"{claim.threshold:.3g}"
        rows.append((claim.id, f"{claim.value:.3g}", bounds, str(claim.n), threshold, claim.verdict))
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[v]} {v}" for v in ("reproduced", "not reproduced", "inconclusive") if v in counts)
    return f"{terminal.table(rows)}\n{len(table)} claims: {total}"


def markdown(table: pd.DataFrame) -> str:
    """Return the claims as a Markdown table, for the README."""
    lines = ["| claim | value | 95% interval | n | threshold | verdict |", "|---|---|---|---|---|---|"]
    for claim in table.itertuples():
        lines.append(
            f"| `{claim.id}` | {claim.value:.3g} | {claim.low:.3g} to {claim.high:.3g} | {claim.n} "
            f"| {claim.threshold:.3g} | {claim.verdict} |"
        )
    return "\n".join(lines)


def renew(table: pd.DataFrame, path):
    """Put the claims between the two marks of the Markdown file at ``path``; InputError if it has none."""
    document = Path(path).read_text()
    before, start, rest = document.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{start}{markdown(table)}\n{end}{after}")


def _row(value, replicates, below, diverged, **columns):
    """A row of the table; ``diverged`` names runs that make a claim about smallness fail outright."""
    if diverged:
        if below:
            value, replicates = np.inf, np.full(2, np.inf)
        columns["note"] = f"{', '.join(diverged)} diverged"
    low, high = stats.interval(replicates)
    return {
        **columns,
        "value": value,
        "low": low,
        "high": high,
        "verdict": verdict(low, high, columns["threshold"], below),
    }


def _settled(mean, baseline, noise, epoch):
    """Say from which epoch on a trajectory stays within the margin, where it leaves it at all."""
    outside = np.flatnonzero(~(np.abs(mean - baseline) / noise <= MARGIN))
    if len(outside) == 0:
        return ""
    last = outside[-1] + 1
    return f" (within {MARGIN:g} from epoch {epoch[last]:.2g})" if last < len(epoch) else " (outside at the end)"
