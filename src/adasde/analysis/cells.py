"""The claims cell by cell, all test functions together: what the map shows, as a picture and as a table.

A cell is an experiment under one rule at one kappa, or under SVAG at one ell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from adasde.analysis.claims.base import VERDICTS, WORDS, together
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.experiment import BASELINE, Experiment
from adasde.analysis.claims.forecasts import reach
from adasde.analysis.forecast import Forecast, forecast_from
from adasde.common import InputError
from adasde.scaling.lag import KAPPAS

WITHIN, OUTSIDE, UNDECIDED = VERDICTS
MARKS = {WITHIN: "✓", OUTSIDE: "✗", UNDECIDED: "?"}
ORDER = (
    *("sqrt", "half-life", "invariant", "none", "linear", "lr-only"),
    *("sqrt-no-betas", "sqrt-no-eps", "sqrt-no-decay", "keep", "fresh"),
)
NAMES = {"keep": "second moment kept", "fresh": "new optimizer"}
MOST_ROWS = 30


def judged(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return the claims on runs, with forecasts that are made anew from the baselines among them."""
    found = {name: _forecast(Experiment(part, name)) for name, part in trajectories.groupby("experiment", sort=False)}
    return evaluate_claims(trajectories, forecasts={name: made for name, made in found.items() if made})


def _forecast(found: Experiment) -> Forecast | None:
    """The forecast that the baseline's rows make; the same as that in the file of the scale."""
    if found.kind == "finetune" or found.missing(*BASELINE):
        return None
    runs = found.trajectories
    baseline = runs[(runs["rule"] == "sqrt") & (runs["kappa"] == 1) & (runs["ell"] == 1)]
    means = baseline.groupby(["metric", "time"])["value"].mean().reset_index("time")
    curves = {metric: means.loc[[metric], ["time", "value"]].to_numpy().T for metric in set(means.index)}
    try:
        return forecast_from(found.name, found.kind, found.seeds(*BASELINE), curves)
    except InputError:  # no speeds along the run
        return None


def cells_of(claims: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell: claim, experiment, kind, rule, level, gap, low, high, n, verdict, forecast.

    The gap and its interval are in tolerances, the largest over test functions. The verdict is on being within the
    tolerances, for rivals too, whose claim is the opposite.
    """
    rows = claims[claims["claim"].isin(["rule", "relative", "svag", "rival"])]
    unit = rows["tolerance"].clip(lower=np.finfo(float).tiny)
    opposite = {WITHIN: OUTSIDE, OUTSIDE: WITHIN}
    verdicts = rows["verdict"].where(rows["claim"] != "rival", rows["verdict"].replace(opposite))
    shares = {"gap": rows["value"] / unit, "low": rows["low"] / unit, "high": rows["high"] / unit}
    cells = rows.assign(**shares, verdict=verdicts).groupby(
        ["claim", "experiment", "kind", "rule", "level"], sort=False
    )
    found = cells.agg(
        gap=("gap", "max"),
        low=("low", "max"),
        high=("high", "max"),
        n=("n", "min"),
        verdict=("verdict", together),
        forecast=("forecast", "first"),
    )
    return found.reset_index()


def limit(claims: pd.DataFrame, claim: str, unit: float = 1.0, name: str = "batch") -> str:
    """Say up to which level of one experiment its cells are within the tolerances, and where not, and by what.

    Args:
        claims: The claims on one experiment.
        claim: ``rule`` or ``svag``.
        unit: What a level of 1 is: the baseline's batch, or 1 for ell.
        name: Of that.
    """
    rows = claims[claims["claim"] == claim]
    cells = cells_of(rows)
    low, high = reach(cells)
    between = cells.loc[(cells["level"] > low) & (cells["verdict"] == UNDECIDED), "level"]
    parts = [
        ("within the tolerance up to", WITHIN, [low] if low > 1 else []),
        ("undecided at", UNDECIDED, between),
        ("outside the tolerance at", OUTSIDE, [high] if np.isfinite(high) else []),
    ]
    said = []
    for words, verdict, levels in (part for part in parts if len(part[-1])):
        why = [_by_one(rows, level, verdict) for level in levels]
        alike = len(set(why)) == 1
        each = [f"{level * unit:g}{'' if alike else by}" for level, by in zip(levels, why, strict=True)]
        said.append((words, ", ".join(each) + why[0] if alike else f"{', '.join(each[:-1])}, and at {each[-1]}"))
    return ", ".join(f"{words} {'' if place else f'{name} '}{shown}" for place, (words, shown) in enumerate(said))


def _by_one(rows, level, verdict):
    """The one test function that makes a cell undecided or outside, if it is only one."""
    metrics = rows.loc[(rows["level"] == level) & (rows["verdict"] == verdict), "metric"]
    return f" (by its {WORDS[metrics.iloc[0]]})" if verdict != WITHIN and len(metrics) == 1 else ""


def forecast_limit(claims: pd.DataFrame, unit: float) -> str:
    """Say after which batch the noise forecasts that the rule ends; empty where there is no forecast."""
    safe = claims.loc[(claims["claim"] == "forecast") & (claims["experiment"] != ""), "level"]
    if safe.empty:
        return ""
    kappa = safe.iloc[0]
    end = "no end up to" if kappa >= KAPPAS[-1] else "its end at"
    return f"noise forecasts {end} batch {float(f'{kappa * unit:.2g}'):g}"


@dataclass
class MapField:
    """What one field of the map says: the gap in tolerances, a verdict, a forecast, and how many cells are in it."""

    gap: float
    verdict: str
    forecast: str = ""
    outside: int = 0
    cells: int = 1

    @property
    def text(self) -> str:
        """The gap in tolerances with the verdict's mark; of several cells the median, and how many are outside."""
        digits = 2 if self.gap < 0.995 else 1 if self.gap < 9.95 else 0
        size = "∞" if np.isinf(self.gap) else "unknown" if np.isnan(self.gap) else f"{self.gap:.{digits}f}"
        mark = MARKS[self.verdict] if self.cells == 1 else f"({self.outside}/{self.cells} {MARKS[OUTSIDE]})"
        return f"{size} {mark}"


@dataclass
class MapRow:
    """A row of the map: its fields by (``kappa`` or ``ell``, level)."""

    group: str
    name: str
    fields: dict[tuple[str, float], MapField] = field(default_factory=dict)


def row_name(experiment: str) -> str:
    """What figures call an experiment: beside SVAG and branches stand the runs of the same name from scratch."""
    return experiment.removeprefix("svag-").removeprefix("branch-")


GROUPS = {"scratch": "from scratch", "branch": "branches", "rules": "other rules: median over experiments"}


def map_rows(claims: pd.DataFrame) -> list[MapRow]:
    """Return the rows of the map: experiments with SVAG beside the rule, then every other rule over all experiments."""
    cells, rows = cells_of(claims), {}
    for cell in cells[cells["claim"].isin(["rule", "svag"])].itertuples():
        name = row_name(cell.experiment)
        row = rows.setdefault((cell.kind, name), MapRow(GROUPS[cell.kind], name))
        row.fields["ell" if cell.claim == "svag" else "kappa", cell.level] = MapField(
            cell.gap, cell.verdict, cell.forecast
        )
    found = [row for kind in GROUPS for (own, _), row in rows.items() if own == kind]
    others = cells[cells["claim"].isin(["rival", "relative"])]
    for rule in (rule for rule in ORDER if rule in set(others["rule"])):
        row = MapRow(GROUPS["rules"], NAMES.get(rule, rule))
        for level, part in others[others["rule"] == rule].groupby("level"):
            outside = int((part["verdict"] == OUTSIDE).sum())
            row.fields["kappa", level] = MapField(part["gap"].median(), _most(part), "", outside, len(part))
        found.append(row)
    return found


def _most(part):
    """The verdict of a field that holds several cells: that of all of them, or undecided."""
    verdicts = set(part["verdict"])
    return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


def columns_of(rows: list[MapRow]) -> dict[str, list[float]]:
    """The levels of all rows, by ``kappa`` and ``ell``."""
    found = {place for row in rows for place in row.fields}
    return {axis: sorted(level for own, level in found if own == axis) for axis in ("kappa", "ell")}


def map_table(claims: pd.DataFrame) -> str:
    """Return the map as a table in Markdown of at most 30 rows, with a sentence that explains it.

    Args:
        claims: The table of claims, as `evaluate_claims` or `read_claims` returns it.
    """
    rows = map_rows(claims)
    left_out, rows = rows[MOST_ROWS:], rows[:MOST_ROWS]
    places = [(axis, level) for axis, levels in columns_of(rows).items() for level in levels]
    header = ["", *(f"{axis} {level:g}" for axis, level in places)]
    lines = [header, ["---"] * len(header)]
    lines += [[f"{_SHORT[row.group]}{row.name}", *(_field(row.fields, place) for place in places)] for row in rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    more = f" The figure has {len(left_out)} more row{'s' if len(left_out) > 1 else ''}." if left_out else ""
    return (
        f"{text}\nA number is the largest gap to the baseline over all test functions and times, in tolerances. "
        "✓: shown to be within every tolerance; ✗: shown to be outside one; ?: undecided. *Italic*: the forecast says "
        "that the rule breaks there. Of another rule: the median over experiments, and in how many it is outside."
        f"{more}\n"
    )


_SHORT = {GROUPS["scratch"]: "from scratch: ", GROUPS["branch"]: "branch: ", GROUPS["rules"]: "other rule: "}


def _field(fields: Mapping[tuple[str, float], MapField], place: tuple[str, float]) -> str:
    found = fields.get(place)
    if found is None:
        return ""
    return f"*{found.text}*" if found.forecast == "breaks" else found.text
