"""What every claim has: a statistic with its 95% interval, a threshold with its reason, and so a verdict.

The verdict is *reproduced* if the whole interval lies on the claim's side of the threshold, *not reproduced* if it lies
on the other side, and *inconclusive* if the threshold is within it or if a single seed leaves the seed spread unknown.
"""

import math
from collections.abc import Callable, Iterable

import pandas as pd

from adasde.scaling.rules import ABLATIONS
from adasde.workloads.registry import workload_named

COLUMNS = (
    *("id", "place", "statement", "statistic", "value", "low", "high", "n"),
    *("threshold", "reason", "verdict", "note", "figure"),
)
VERDICTS = ("reproduced", "not reproduced", "inconclusive")

# Every claim compares what its workload measures of these.
TEST_FUNCTIONS = ("train_loss", "test_loss", "test_accuracy", "log_perplexity", "squared_norm", "gradient_norm")

Claim = Callable[[pd.DataFrame, str], list[dict]]
SimulationClaim = Callable[[pd.DataFrame], list[dict]]
CLAIMS: list[Claim] = []
SIMULATION_CLAIMS: list[SimulationClaim] = []


def claim(function: Claim) -> Claim:
    """Register ``function(trajectories, experiment)``, which judges every experiment of a scale; return it.

    It takes the trajectories of one experiment and its name. It returns rows made by `row`, or an empty list if it does
    not apply. A new claim is one such function under this decorator.
    """
    CLAIMS.append(function)
    return function


def simulation_claim(function: SimulationClaim) -> SimulationClaim:
    """Register ``function(simulations)``, which judges the table of simulations, as `claim` does for trajectories."""
    SIMULATION_CLAIMS.append(function)
    return function


def row(
    *,
    id: str,  # kind of claim, experiment and what else tells it apart, joined by dots
    place: str,  # where the paper says it
    statement: str,  # the claim, as a sentence without a full stop
    statistic: str,  # what the value is
    value: float,
    bounds: tuple[float, float],  # the value's 95% interval
    n: int,  # number of seeds, or of batches of paths
    threshold: float,
    reason: str,  # why the threshold is that
    below: bool,  # whether the statement holds below the threshold, or else above it
    note: str = "",  # details behind the value
    diverged: Iterable[str] = (),  # names of runs that diverged
    figure: str | None = None,  # that shows it, "" if none does; None leaves it to `evaluate_claims`
) -> dict:
    """Judge one claim: return its row of the table, values by the names of COLUMNS.

    If a run diverged, the statistic of a claim about smallness is infinite, and the note names the run.
    """
    if diverged:
        note = f"{', '.join(diverged)} diverged"
        if below:
            value, bounds = math.inf, (math.inf, math.inf)
    low, high = bounds
    judged = verdict(low, high, threshold, below)
    values = (id, place, statement, statistic, value, low, high, n, threshold, reason, judged, note, figure)
    return dict(zip(COLUMNS, values, strict=True))


def verdict(low: float, high: float, threshold: float, below: bool) -> str:
    """Verdict of an interval on a claim that the statistic is ``below`` the threshold, or above it."""
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if not below:
        low, high, threshold = -high, -low, -threshold
    return "reproduced" if high < threshold else "not reproduced" if low > threshold else "inconclusive"


def measured(trajectories: pd.DataFrame) -> list[str]:
    """Test functions of an experiment; if every run diverged before it was measured, what they would have measured."""
    found = set(trajectories["metric"]) - {"diverged"}
    if not found:
        workload = workload_named(trajectories["task"].iloc[0])
        language = workload.kind == "language" and workload.pretrained is None
        found = set(TEST_FUNCTIONS) - ({"test_loss", "test_accuracy"} if language else {"log_perplexity"})
    return [metric for metric in TEST_FUNCTIONS if metric in found]


def scales_batch(trajectories: pd.DataFrame) -> bool:
    """Whether an experiment follows the square-root rule to other batch sizes."""
    return trajectories.loc[trajectories["rule"] == "sqrt", "kappa"].nunique() > 1


def is_ablation(trajectories: pd.DataFrame) -> bool:
    """Whether an experiment leaves parts of the square-root rule out."""
    return not set(trajectories["rule"]).isdisjoint(ABLATIONS)
