"""Statements of the paper, and ours, as executable predicates on the tables of a scale.

A claim yields a statistic, its 95% bootstrap interval over seeds, and a threshold. The verdict is *reproduced* where
the whole interval is on the claim's side of the threshold, *not reproduced* where all of it is on the other side, and
*inconclusive* where the threshold lies within, or where a single seed leaves the noise unknown. A diverged run is
infinitely far from the baseline.
"""

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.closeness import closeness
from adasde.analysis.claims.finals import SCORES, final_accuracy, final_perplexity, finetuning, pretraining
from adasde.analysis.claims.report import COLUMNS, row
from adasde.analysis.claims.weak_error import simulation_claims
from adasde.analysis.lags import has_lags, measured_lags, simulated_lags
from adasde.scaling.rules import ABLATIONS
from adasde.workloads.registry import workload_named

# A mean within three standard deviations of a single run's noise is not told from the baseline by one more run.
MARGIN = 3.0

# A lag predicted before any larger batch was run: in the right order, and right to a tenth of the samples.
RANK_AGREEMENT = 0.9
LAG_TOLERANCE = 0.1

# Why each kind of claim has the threshold that it has.
REASONS = {
    "final-accuracy": "within 3% is what the paper's figure 18 calls preserved",
    "final-accuracy-beyond": "as final-accuracy, where the paper never goes",
    "final-perplexity": "the authors' own GPT-2 curves stop that far apart",
    "finetuning": "as final-accuracy",
    "pretraining": "pre-training must be worth something for fine-tuning to say anything of it",
    "trajectory": "within three standard deviations of a run, one run more would not tell the two apart (ours)",
    "trajectory-settled": "as trajectory",
    "svag": "as trajectory",
    "prediction-rank": "the order of larger batches and of moments all but right (ours)",
    "prediction-error": "right to a tenth of the samples, the lag that `adasde predict` tolerates (ours)",
    "closeness": "at 1 both rules are as far from the baseline",
    "order": "nearer to order 1 than half-way to its neighbours, 1/2 and 3/2 (ours)",
    "svag-to-sde": "half of the algorithm's own distance is a clear approach (ours)",
}

# Of those that a task measures.
TRAJECTORY_METRICS = ("train_loss", "test_loss", "test_accuracy", "log_perplexity", "squared_norm", "gradient_norm")

CLAIMS = []  # what `evaluate` asks about every experiment


def claim(function):
    """Have `evaluate` ask ``function(trajectories, experiment)`` for rows, none where it has nothing to say.

    The trajectories are the experiment's own. A decorator: a new claim is one function under it, whose rows are made by
    verdicts.row; the kind of claim, which is the first part of its id, has its reason in REASONS, or in the row itself.
    """
    CLAIMS.append(function)
    return function


def evaluate_claims(trajectories: pd.DataFrame, simulations: pd.DataFrame = tables.NO_SIMULATIONS) -> pd.DataFrame:
    """Return one row per claim that the tables of a scale can speak to, with the columns COLUMNS.

    ``figure`` is where it can be seen, empty if nowhere.
    """
    parts = dict(iter(trajectories.groupby("experiment", sort=False)))  # so that no claim searches all runs for its own
    followed = {experiment: set(part["rule"]) for experiment, part in parts.items()}
    tasks = {experiment: part["task"].iloc[0] for experiment, part in parts.items()}
    rows = [found for experiment, part in parts.items() for ask in CLAIMS for found in ask(part, experiment)]
    for run in simulations.loc[simulations["study"] == "breakdown", "run"].unique():
        # Where a prediction is the same at all times its ranks are tied, and say nothing.
        rows.append(prediction(simulated_lags(simulations, run), run)[-1])
    rows += simulation_claims(simulations)
    for found in rows:
        kind, subject = found["id"].split(".")[:2]
        found.setdefault("reason", REASONS.get(kind))
        found.setdefault("figure", _figure(kind, subject, followed.get(subject, set()), tasks.get(subject)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _figure(kind, subject, rules, task):
    """Name of the figure that shows a claim; ``rules`` are those that its experiment follows."""
    ablated = not rules.isdisjoint(ABLATIONS)
    if kind.startswith("prediction"):
        return "" if ablated else "breakdown"
    if kind in ("finetuning", "pretraining"):
        return "finetune"
    if kind in ("order", "svag-to-sde"):
        return {"order": "weak-order", "svag-to-sde": "sde-real-data"}[kind]
    if kind == "svag":
        return f"svag-{subject}"
    if ablated:
        return "ablation"
    return f"rules-{task}" if kind == "closeness" else f"scaling-{subject}"


@claim
def of_training(trajectories, experiment) -> list[dict]:
    """What the paper says, and we beyond it, of the runs of an experiment."""
    table, rows = trajectories[trajectories["experiment"] == experiment], []
    metrics = set(table["metric"]) - {"diverged"} or _unmeasured(table["task"].iloc[0])
    kappas = set(table.loc[table["rule"] == "sqrt", "kappa"])
    if len(kappas) > 1 and "test_accuracy" in metrics:
        rows += final_accuracy(trajectories, experiment)
    if len(kappas) > 1 and "log_perplexity" in metrics:
        rows.append(final_perplexity(trajectories, experiment))
    if len(kappas) > 1:
        rows += [trajectory(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
    if len(kappas) > 1 and {"log_perplexity", "noise_trace"} <= metrics:
        rows.append(settled(trajectories, experiment, "log_perplexity"))
    score = next((metric for metric in SCORES if metric in metrics), None)
    if (table["rule"] == "finetune").any() and score:
        rows.append(finetuning(trajectories, experiment, score))
        if (table["rule"] == "scratch").any():
            rows.append(pretraining(trajectories, experiment, score))
    if (table["rule"] == "svag").any():
        rows += [svag(trajectories, experiment, m) for m in TRAJECTORY_METRICS if m in metrics]
    if len(kappas) > 2 and has_lags(trajectories, experiment):
        rows += prediction(measured_lags(trajectories, experiment), experiment)
    for rule in [rule for rule in table["rule"].unique() if rule not in ("sqrt", "svag")]:
        for kappa in sorted(set(table.loc[table["rule"] == rule, "kappa"]) & kappas - {1}):
            rows.append(closeness(trajectories, experiment, rule, kappa))
    return rows


def _unmeasured(task):
    """What a task would have measured: where all runs diverged at once, every claim fails."""
    model = workload_named(task).kind == "language" and workload_named(task).pretrained is None
    return set(TRAJECTORY_METRICS) - ({"test_loss", "test_accuracy"} if model else {"log_perplexity"})


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


def settled(trajectories, experiment, metric) -> dict:
    """Section 4.1: once noise dominates, the trajectory is preserved, whatever it did before.

    Noise dominates at kappa from where kappa B |grad f|^2 / tr Sigma, means over seeds of unbiased estimates, stays
    below 1. A kappa at which it never does has no part in the claim.
    """
    squares, traces = (
        tables.groups(trajectories, experiment, "sqrt", name) for name in ("squared_gradient", "noise_trace")
    )
    starts, notes = {}, []
    for kappa in [kappa for kappa in squares.healthy if kappa != 1]:
        ratio = squares.batch_size[kappa] * squares.values[kappa].mean(axis=0) / traces.values[kappa].mean(axis=0)
        last = np.flatnonzero(ratio >= 1.0)
        starts[kappa] = last[-1] + 1 if len(last) else 0
        ended = starts[kappa] < len(ratio)
        notes.append(f"k{kappa:g} " + (f"from epoch {squares.epoch[starts[kappa]]:.2g}" if ended else "never"))
    found = _largest_distance(tables.groups(trajectories, experiment, "sqrt", metric), "k", starts)
    found["note"] = f"noise dominates {', '.join(notes)}; then {found['note'] or 'nothing to compare'}"
    return row(
        id=f"trajectory-settled.{experiment}.{metric}",
        place="section 4.1",
        statement=f"{metric} stays within {MARGIN:g} seed deviations of the baseline once noise dominates",
        statistic="largest distance from the baseline, in standard deviations of a run's seed noise",
        **found,
    )


def _largest_distance(groups, prefix, starts=None):
    """What `trajectory` and `svag` share of their rows: the largest distance of any level's mean from level 1.

    With ``starts`` (level -> point) a level counts from that point on, and not at all where it has none.
    """
    value, bounds, notes = np.nan, (np.nan, np.nan), []
    starts = dict.fromkeys(groups.values, 0) if starts is None else starts
    others = [level for level in groups.values if level != 1 and starts.get(level, np.inf) < len(groups.time)]
    if others and not groups.diverged:
        noise = statistics.seed_noise(groups.values)
        means = {level: values.mean(axis=0) for level, values in groups.values.items()}
        scale, drawn = statistics.bootstrap_noise(groups.values)
        gaps = {level: statistics.in_noise(means[level], means[1], noise)[starts[level] :] for level in others}
        unit = np.where(
            noise <= statistics.ROUNDING * np.abs(means[1]), np.inf, noise
        )  # as at the common start: no error
        errors = [((drawn[level] - drawn[1]) / unit)[:, starts[level] :] for level in others]
        distances = {level: np.abs(gap).max() for level, gap in gaps.items()}
        value = max(distances.values())
        bounds = statistics.largest(np.concatenate(list(gaps.values())), np.concatenate(errors, axis=1), scale)
        notes = [
            f"{prefix}{level:g} {gap:.1f}{_settled(means[level], means[1], noise, groups.epoch)}"
            for level, gap in distances.items()
        ]
    return {
        "value": value,
        "bounds": bounds,
        "n": groups.seeds,
        "threshold": MARGIN,
        "below": True,
        "note": ", ".join(notes),
        "diverged": groups.diverged_runs,
    }


def prediction(lags, name) -> list[dict]:
    """Section 4.1, noise must dominate: the baseline's gradient noise says how far a larger batch falls behind."""
    shared = {
        "place": "section 4.1",
        "n": lags.seeds,
        "note": "at the end, predicted and observed: "
        + ", ".join(f"k{k:g} {lags.predicted[k][-1]:.2f} {_lag(lags.observed[k][-1])}" for k in lags.predicted),
        "diverged": [],  # a larger batch that diverged has no lag; the others still have theirs
    }
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
            below=False,
            **shared,
        ),
        row(
            id=f"prediction-error.{name}",
            statement=f"the lags of larger batches are what the baseline's noise predicts, to {LAG_TOLERANCE:g}",
            statistic="mean absolute difference of predicted and observed lag, over all kappas and times",
            value=error,
            bounds=statistics.interval(np.maximum(errors, 0.0)),
            threshold=LAG_TOLERANCE,
            below=True,
            **shared,
        ),
    ]


def _lag(value):
    return f"{value:.2f}" if np.isfinite(value) else "none"


def _settled(mean, baseline, noise, epoch):
    """Say from which epoch on a trajectory stays within the margin, where it leaves it at all."""
    if not np.isfinite(noise).any():
        return ""
    outside = np.flatnonzero(~(np.abs(statistics.in_noise(mean, baseline, noise)) <= MARGIN))
    if len(outside) == 0:
        return ""
    last = outside[-1] + 1
    return f" (within {MARGIN:g} from epoch {epoch[last]:.2g})" if last < len(epoch) else " (outside at the end)"
