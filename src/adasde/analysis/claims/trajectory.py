"""The SDE's promise: test functions keep their trajectory, over batch sizes, SVAG's levels and in branches.

One claim per experiment, level and test function: ``rule`` of the square-root rule, ``relative`` of those that are
meant to do the same, ``svag`` of SVAG's ell. A run from scratch counts from a quarter of it on, a branch at all times.
"""

import numpy as np
import pandas as pd

from adasde.analysis.claims.base import WORDS, ClaimRow, claim, natural, row
from adasde.analysis.claims.experiment import Experiment, Followed
from adasde.analysis.claims.rivals import rivals

SQRT, SVAG = Followed("sqrt"), Followed("svag")
RELATIVES = (Followed("half-life"), Followed("invariant"))
WINDOWS = {"scratch": "from a quarter of the run on", "branch": "throughout the branch"}


@claim
def trajectory(trajectories: pd.DataFrame, experiment: str) -> list[ClaimRow]:
    """Every test function stays as near to the baseline's as is allowed, in natural units; rivals do not."""
    found = Experiment(trajectories, experiment)
    if found.kind == "finetune":
        return []
    plot = "branch" if found.kind == "branch" else "scaling"
    rows = _rows(found, SQRT, "rule", f"{plot}-{experiment.removeprefix(f'{plot}-')}")
    for relative in RELATIVES:
        rows += _rows(found, relative, "relative", "rules")
    subject = experiment.removeprefix("svag-")
    return rows + _rows(found, SVAG, "svag", f"svag-{subject}") + rivals(found)


def _rows(found, followed, kind, figure):
    """A row for every level at which runs followed a rule, and every test function."""
    metrics = found.metrics + ["lag"] * (found.has_lags and kind != "svag")
    return [
        _row(found, followed, level, metric, kind, figure) for level in found.levels(followed) for metric in metrics
    ]


def _row(found, followed, level, metric, kind, figure):
    svag, where = kind == "svag", WINDOWS[found.kind]
    tolerance = found.tolerance(metric, level, svag)
    name, about, subject = {
        "rule": (f"k{level:g}", found.name, f"the square-root rule at kappa {level:g}"),
        "relative": (f"k{level:g}", f"{found.name}.{followed.rule}", f"{followed.rule} at kappa {level:g}"),
        "svag": (f"l{level:g}", found.name.removeprefix("svag-"), f"SVAG at ell {level:g}"),
    }[kind]
    diverged, missing = found.diverged(followed, level), found.missing(followed, level)
    gap_of = "mean lag behind" if metric == "lag" else f"gap of {WORDS[metric]} to"
    what = f"the {gap_of} the baseline is at most"
    facts = {"value": np.nan, "bounds": (np.nan, np.nan), "n": found.seeds(followed, level)}
    if missing:
        facts["note"] = missing
    elif diverged:
        facts["diverged"] = diverged
    else:
        sample = found.sample(followed, level, metric)
        gap = sample.gap
        facts |= {
            "value": gap.largest,
            "bounds": (gap.low, gap.high),
            "n": sample.n,
            "power": sample.power(tolerance.value),
            "seeds_needed": sample.seeds_needed(tolerance.value),
            "from_tenth": found.wider(followed, level, metric),
            "deviations": np.nan if metric == "lag" else found.deviations(followed, level, metric),
        }
    return row(
        claim=kind,
        about=f"{about}.{name}.{metric}",
        place="SVAG" if svag else "square-root rule" if kind == "rule" else "related work",
        statement=f"under {subject}, {what} {natural(metric, tolerance.value)} {where}",
        statistic=f"|mean lag {where}|" if metric == "lag" else f"largest |mean gap to the baseline| {where}",
        tolerance=tolerance.value,
        reason=tolerance.reason,
        figure=figure,
        experiment=found.name,
        kind=found.kind,
        rule=followed.rule,
        level=level,
        metric=metric,
        **facts,
    )
