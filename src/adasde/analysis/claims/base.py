"""What every claim has: a statistic with its interval, a tolerance with its reason, and so a verdict.

The interval of a gap to a baseline joins the bounds of two tests at 5%. The upper one is that of the test of
equivalence, and takes each time by itself. The lower one allows for errors at all times at once, so it is further off
than that of a 90% interval. The others are 95% intervals.

The verdict is *reproduced* if the whole interval lies on the claim's side of the tolerance, *not reproduced* if it lies
on the other side, and *undecided* if the tolerance is within it or if a single seed leaves the seed spread unknown.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

VERDICTS = ("reproduced", "not reproduced", "undecided")

# Every experiment is judged by what its workload measures of these.
TEST_FUNCTIONS = ("train_loss", "test_loss", "test_accuracy", "log_perplexity", "squared_norm")
LOSSES = ("train_loss", "test_loss", "log_perplexity")
WORDS = {
    "train_loss": "train loss",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "log_perplexity": "log-perplexity",
    "squared_norm": "squared norm",
    "lag": "lag",
}


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """A row of the table of claims. Its fields are the columns, in their order."""

    id: str
    place: str  #: where the paper says it
    statement: str  #: the claim, as a sentence without a full stop
    statistic: str  #: what the value is
    value: float
    low: float  #: lower bound of the value
    high: float  #: its upper bound
    n: int  #: number of seeds, or of batches of paths
    tolerance: float
    reason: str  #: why the tolerance is that
    power: float = math.nan  #: probability that a true gap of 0 with the measured spread is shown to be within it; not
    #: of rivals, which claim the opposite
    seeds_needed: float = math.nan  #: that would decide it; NaN if it is decided
    from_tenth: float = math.nan  #: the value if the window began at a tenth of the run
    deviations: float = math.nan  #: the largest gap in standard deviations of a run
    forecast: str = ""  #: "holds" or "breaks"
    verdict: str
    note: str = ""  #: details behind the value
    figure: str = ""  #: that shows it
    claim: str  #: kind of claim
    experiment: str = ""
    kind: str = ""  #: of the experiment: scratch, branch or finetune
    rule: str = ""
    level: float = math.nan  #: kappa, or ell of SVAG
    metric: str = ""


COLUMNS = tuple(field.name for field in fields(ClaimRow))
NUMBERS = [field.name for field in fields(ClaimRow) if field.type in (float, int)]

Claim = Callable[[pd.DataFrame, str], list[ClaimRow]]
SimulationClaim = Callable[[pd.DataFrame], list[ClaimRow]]
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
    claim: str,
    about: str,
    value: float,
    bounds: tuple[float, float],
    tolerance: float,
    below: bool = True,
    seeds_needed: float = math.nan,
    note: str = "",
    diverged: Iterable[str] = (),
    **columns: Any,
) -> ClaimRow:
    """Judge one claim: return its row of the table.

    If a run diverged, the statistic of a claim about smallness is infinite, and the note names the run.

    Args:
        claim: Kind of claim.
        about: What tells it apart from others of its kind, joined by dots.
        value: The statistic.
        bounds: Its interval.
        tolerance: With what it is compared.
        below: Whether the statement holds below the tolerance (default), or else above it.
        seeds_needed: Number of seeds that would decide; a row that is decided has none.
        note: Details behind the value.
        diverged: Names of the runs that diverged.
        columns: The other columns of `ClaimRow`, by name.
    """
    if diverged:
        note = f"{', '.join(diverged)} diverged"
        if below:
            value, bounds = math.inf, (math.inf, math.inf)
    low, high = bounds
    judged = verdict(low, high, tolerance, below)
    return ClaimRow(
        id=f"{claim}.{about}",
        claim=claim,
        value=value,
        low=low,
        high=high,
        tolerance=tolerance,
        seeds_needed=seeds_needed if judged == "undecided" else math.nan,
        verdict=judged,
        note=note,
        **columns,
    )


def table_of(rows: Iterable[ClaimRow]) -> pd.DataFrame:
    """Return the rows as a table; one without rows has columns of numbers too."""
    return pd.DataFrame(rows, columns=COLUMNS).astype({name: float for name in NUMBERS if name != "n"} | {"n": int})


def verdict(low: float, high: float, tolerance: float, below: bool = True) -> str:
    """Verdict of an interval on a claim that the statistic is ``below`` the tolerance, or above it."""
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if not below:
        low, high, tolerance = -high, -low, -tolerance
    return "reproduced" if high < tolerance else "not reproduced" if low > tolerance else "undecided"


def together(verdicts: Iterable[str]) -> str:
    """Verdict of a cell on all its test functions: *not reproduced* if one is not, *reproduced* if every one is."""
    found = set(verdicts)
    return next((one for one in ("not reproduced", "undecided") if one in found), "reproduced")


def natural(metric: str, value: float) -> str:
    """A gap of a test function in its own unit: points, nats, percent of the time, or none for the squared norm."""
    if metric == "lag":
        return f"{short(100 * value)}%"
    if metric in LOSSES:
        return f"{short(value)} nats"
    return short(value) if metric == "squared_norm" else f"{short(100 * value)} points"


def short(value: float) -> str:
    """A number with two digits, or whole if it has more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
