"""The SDE's promise: test functions keep their whole trajectory, over batch sizes and over SVAG's levels.

Three kinds of claim: `trajectory` over kappa, `trajectory-settled` once noise dominates, `svag` over ell.
"""

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import claim, measured, row, scales_batch

MARGIN = 3.0
REASON = "within three standard deviations of a run, one run more would not tell the two apart (ours)"


@claim
def trajectory(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Under the square-root rule, every test function stays within the seed spread of the baseline."""
    if not scales_batch(trajectories):
        return []
    rows, metrics = [], measured(trajectories)
    for metric in metrics:
        found = _largest_distance(tables.groups(trajectories, experiment, "sqrt", metric), "k")
        name = f"trajectory.{experiment}.{metric}"
        rows.append(_row(name, metric, "square-root rule", "the baseline", "at all times and kappas", REASON, found))
    if "log_perplexity" in metrics and "noise_trace" in set(trajectories["metric"]):
        rows.append(_settled(trajectories, experiment, "log_perplexity"))
    return rows


@claim
def svag(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Runs at larger ell, which are nearer the SDE, have the trajectory of the plain run, ell = 1."""
    if "svag" not in set(trajectories["rule"]):
        return []
    rows, subject = [], experiment.removeprefix("svag-")
    for metric in measured(trajectories):
        found = _largest_distance(tables.groups(trajectories, experiment, "svag", metric), "l")
        name, found["figure"] = f"svag.{subject}.{metric}", f"svag-{subject}"
        rows.append(_row(name, metric, "SVAG", "the plain run", "at all times and ells", "as trajectory", found))
    return rows


def _settled(trajectories, experiment, metric):
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
    name = f"trajectory-settled.{experiment}.{metric}"
    return _row(name, metric, "section 4.1", "the baseline", "once noise dominates", "as trajectory", found)


def _row(name, metric, place, baseline, when, reason, found):
    return row(
        id=name,
        place=place,
        statement=f"{metric} stays within {MARGIN:g} seed deviations of {baseline} {when}",
        statistic=f"largest distance from {baseline}, in standard deviations of a run's seed noise",
        threshold=MARGIN,
        reason=reason,
        below=True,
        **found,
    )


def _largest_distance(groups, prefix, starts=None):
    """The largest distance of any level's mean from that of level 1, with all that a row says of it.

    With ``starts`` (level -> point) a level counts from that point on, and not at all if it has none.
    """
    value, bounds, notes = np.nan, (np.nan, np.nan), []
    starts = dict.fromkeys(groups.values, 0) if starts is None else starts
    others = [level for level in groups.values if level != 1 and starts.get(level, np.inf) < len(groups.time)]
    if others and not groups.diverged:
        spread, (scale, drawn) = statistics.seed_spread(groups.values), statistics.bootstrap_errors(groups.values)
        means = {level: values.mean(axis=0) for level, values in groups.values.items()}
        gaps = {level: statistics.in_deviations(means[level], means[1], spread) for level in others}
        # There is no error where all runs are equal, as at the common start.
        unit = np.where(spread <= statistics.ROUNDING * np.abs(means[1]), np.inf, spread)
        errors = [((drawn[level] - drawn[1]) / unit)[:, starts[level] :] for level in others]
        late = {level: gap[starts[level] :] for level, gap in gaps.items()}
        value = max(np.abs(gap).max() for gap in late.values())
        bounds = statistics.largest(np.concatenate(list(late.values())), np.concatenate(errors, axis=1), scale)
        notes = [
            f"{prefix}{level:g} {np.abs(gap).max():.1f}{_return(gaps[level], groups.epoch)}"
            for level, gap in late.items()
        ]
    diverged = groups.diverged_runs
    return {"value": value, "bounds": bounds, "n": groups.seeds, "note": ", ".join(notes), "diverged": diverged}


def _return(gap, epoch):
    """Say from which epoch on a trajectory stays within the margin, if it leaves it at all."""
    outside = np.flatnonzero(~(np.abs(gap) <= MARGIN))
    if np.isnan(gap).all() or len(outside) == 0:
        return ""
    last = outside[-1] + 1
    return f" (within {MARGIN:g} from epoch {epoch[last]:.2g})" if last < len(epoch) else " (outside at the end)"
