"""The forecast against what was found: up to which kappa the rule holds, and in which cells."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from adasde.analysis.claims.base import ClaimRow, row, together
from adasde.analysis.forecast import Forecast
from adasde.scaling.rules import ROUNDING

FACTOR = 2.0


def cell_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per experiment and kappa of the square-root rule: what all its test functions say together.

    ``table`` is that of the claims. The columns are experiment, level, forecast, n and verdict: *reproduced* if every
    test function is, *not reproduced* if some is not, or else *undecided*.
    """
    cells = table[table["claim"] == "rule"].groupby(["experiment", "level"], sort=False)
    found = cells.agg(forecast=("forecast", "first"), n=("n", "min"), verdict=("verdict", together))
    return found.reset_index()


def reach(cells: pd.DataFrame) -> tuple[float, float]:
    """Kappas between which the rule ends in one experiment's cells: up to the first all is well, at the second not.

    The first is 1 if nothing is reproduced, the second infinite if nothing is not reproduced.
    """
    larger = cells[cells["level"] > 1].sort_values("level")
    well = larger.loc[(larger["verdict"] == "reproduced").cumprod() == 1, "level"]
    fails = larger.loc[larger["verdict"] == "not reproduced", "level"]
    return max(well, default=1.0), min(fails, default=np.inf)


def right_by_one_end(decided: pd.DataFrame) -> int:
    """In how many decided cells one kappa up to which the rule holds would be right, the best one for all of them."""
    well = decided["verdict"] == "reproduced"
    return max(int(((decided["level"] <= end) == well).sum()) for end in (1, *decided["level"]))


def forecast_claims(table: pd.DataFrame, forecasts: Mapping[str, Forecast]) -> list[ClaimRow]:
    """A row per experiment that was forecast and that runs at larger kappa follow, and one over all their cells."""
    cells = cell_verdicts(table)
    cells = cells[(cells["forecast"] != "") & (cells["level"] > 1)]
    if cells.empty:
        return []
    rows = [_limit(forecasts[name], part) for name, part in cells.groupby("experiment", sort=False)]
    return [*rows, _cells(cells, forecasts)]


def _limit(forecast, cells):
    """The kappa up to which the rule holds, forecast and found; undecided cells leave several places for the latter."""
    safe, (low, high) = forecast.safe_kappa, reach(cells)
    grid = [low, *(kappa for kappa in sorted(cells["level"]) if low < kappa < high), high]
    # The limit is in one of these intervals; inside it, any kappa may be the one.
    factors = [max(1.0, below / safe, safe / above) for below, above in pairwise(grid)]
    least = "at least " if safe == max(forecast.speeds) else ""
    end = f"from {low:g} to {high:g}" if np.isfinite(high) else f"at least {low:g}"
    shown = ", ".join(f"k{kappa:g} {forecast.lag(kappa):.2f}" for kappa in cells["level"])
    return row(
        claim="forecast",
        about=forecast.experiment,
        place="section 4.1",
        statement=f"the rule holds up to the kappa that the baseline's noise forecasts, within a factor of {FACTOR:g}",
        statistic="forecast kappa and the interval in which the rule was found to end: factor between them",
        value=max(factors),
        bounds=(min(factors), max(factors)),
        n=int(cells["n"].min()),
        tolerance=FACTOR * (1.0 + ROUNDING),  # a factor of exactly 2 is within 2
        reason="half the step between the batch sizes that were run (ours)",
        note=f"forecast {least}{safe:.3g}, found {end}; forecast lags at the end: {shown}",
        figure="forecast",
        experiment=forecast.experiment,
        kind=forecast.kind,
        rule="sqrt",
        level=safe,
    )


def _cells(cells, forecasts):
    """In how many cells the forecast was right; undecided ones do not count."""
    decided = cells[cells["verdict"] != "undecided"]
    found = decided["verdict"] == "reproduced"
    right = (decided["forecast"] == "holds") == found
    by_gaps = np.array([forecasts[cell.experiment].gaps_hold(cell.level) for cell in decided.itertuples()], bool)
    n, correct = len(decided), int(right.sum())
    bounds = tuple(binomtest(correct, n).proportion_ci()) if n else (np.nan, np.nan)
    wrong = [
        f"{cell.experiment} k{cell.level:g} ({cell.forecast}, found {cell.verdict})"
        for cell in decided[~right].itertuples()
    ]
    return row(
        claim="forecast",
        about="cells",
        place="section 4.1",
        statement="the baseline's noise says at which kappas the rule holds",
        statistic="share of decided cells in which forecast and verdicts agree",
        value=correct / n if n else np.nan,
        bounds=bounds,
        n=n,
        tolerance=0.5,
        reason="more often right than a coin (ours); cells of one experiment depend on each other",
        below=False,
        note=f"{correct} of {n} agree, {len(cells) - n} undecided; one end of the rule for all experiments, chosen "
        f"afterwards, would be right in {right_by_one_end(decided)}, the forecast gap in natural units in "
        f"{int((by_gaps == found).sum())}; wrong: {', '.join(wrong) or 'none'}",
        figure="forecast",
    )
