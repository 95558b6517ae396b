"""What the square-root rule saves you from: rules that leave the baseline, and second moments not carried over."""

import numpy as np

from adasde.analysis.claims.base import WORDS, ClaimRow, natural, row
from adasde.analysis.claims.experiment import Experiment, Followed
from adasde.analysis.statistics import Sample
from adasde.scaling.rules import ABLATIONS

RIVALS = (
    *(Followed(rule) for rule in ("none", "linear", "lr-only", *ABLATIONS)),
    *(Followed("sqrt", second_moment) for second_moment in ("keep", "fresh")),
)
SUBJECTS = {"keep": "the second moment kept as it is", "fresh": "a new optimizer"}


def rivals(found: Experiment) -> list[ClaimRow]:
    """A row per rival and kappa: it leaves the baseline by more than the tolerance of some test function.

    All test functions by which the rule itself is judged are judged together, each in units of its tolerance.
    """
    return [_row(found, rival, kappa) for rival in RIVALS for kappa in found.levels(rival)]


def _row(found, rival, kappa):
    metrics = found.metrics + ["lag"] * found.has_lags
    tolerances = np.array([found.tolerance(metric, kappa).value for metric in metrics])
    diverged, missing = found.diverged(rival, kappa), found.missing(rival, kappa)
    facts = {"value": np.nan, "bounds": (np.nan, np.nan), "n": found.seeds(rival, kappa)}
    if missing:
        facts["note"] = missing
    elif diverged:
        facts |= {"value": np.inf, "bounds": (np.inf, np.inf), "diverged": diverged}
    else:
        own = [found.sample(rival, kappa, metric) for metric in metrics]
        parts = [
            f"{WORDS[metric]} {natural(metric, sample.gap.largest)}"
            for metric, sample in zip(metrics, own, strict=True)
        ]
        # No test function is within a tolerance of 0, where the baseline's loss did not fall.
        joined = Sample.joined(own, np.maximum(tolerances, np.finfo(float).tiny))
        gap = joined.gap
        facts |= {
            "value": gap.largest,
            "bounds": (gap.low, gap.high),
            "n": joined.n,
            "seeds_needed": joined.seeds_needed(1.0),
            "note": f"{', '.join(parts)}; told from the baseline: {_told(gap)}; "
            f"from sqrt: {_told_from_sqrt(found, rival, kappa, tolerances[: len(found.metrics)])}",
        }
    subject = SUBJECTS.get(rival.name, rival.name)
    return row(
        claim="rival",
        about=f"{found.name}.{rival.name}.k{kappa:g}",
        place="square-root rule",
        statement=f"{subject} at kappa {kappa:g} leaves the baseline by more than the tolerance",
        statistic="largest |mean gap to the baseline| in units of its tolerance, over test functions and times",
        tolerance=1.0,
        reason="the tolerances of the square-root rule at that kappa",
        below=False,
        figure="rules" if rival.rule == rival.name else "rescale",
        experiment=found.name,
        kind=found.kind,
        rule=rival.name,
        level=kappa,
        **facts,
    )


def _told(gap):
    """Whether some gap is not 0."""
    return "unknown" if np.isnan(gap.low) else "yes" if gap.low > 0 else "no"


def _told_from_sqrt(found, rival, kappa, tolerances):
    sqrt = Followed("sqrt")
    if kappa not in found.levels(sqrt):
        return "not run"
    if found.diverged(sqrt, kappa):
        return "it diverged"
    if found.missing(rival, kappa, (sqrt, kappa)):
        return "no seed in common"
    against = [found.sample(rival, kappa, metric, baseline=(sqrt, kappa)) for metric in found.metrics]
    return _told(Sample.joined(against, np.maximum(tolerances, np.finfo(float).tiny)).gap)
