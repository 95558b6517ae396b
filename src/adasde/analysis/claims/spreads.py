"""How much a gap to the baseline differs between seeds, in tolerances: measured by finished runs, to plan others.

`adasde claims --spreads` makes ``spreads.csv`` from the tables of a scale. A row is what the experiments of one
workload say of one test function, in runs from scratch or in branches, under the square-root rule or SVAG.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from importlib.resources import files
from pathlib import Path

import numpy as np

from adasde.analysis import tables
from adasde.analysis.claims.experiment import Experiment, Followed
from adasde.analysis.forecast import read_forecasts
from adasde.analysis.statistics import POWER, Sample
from adasde.common import atomic
from adasde.workloads.registry import workload_named


@dataclass(frozen=True)
class Spread:
    """A row of the table: how much the gap of one seed deviates, in tolerances.

    It is the standard deviation that a gap at one time would have with the same chance of being decided: the gaps of a
    trajectory must be within the tolerance at all its times.
    """

    scale: str
    workload: str
    about: str  # vision or language
    kind: str  # scratch or branch
    claim: str  # rule: a pair of runs on the same examples; svag: two independent runs
    metric: str
    spread: float
    freedom: int  # degrees of freedom: runs less groups


COLUMNS = tuple(field.name for field in fields(Spread))
CLAIMS = {"rule": Followed("sqrt"), "svag": Followed("svag")}


def pooled(rows: Iterable[Spread]) -> float:
    """Root mean square of the spreads, weighted by their degrees of freedom."""
    rows = list(rows)
    return math.sqrt(sum(row.freedom * row.spread**2 for row in rows) / sum(row.freedom for row in rows))


def read_spreads() -> list[Spread]:
    """Return the package's table."""
    with files("adasde.analysis.claims").joinpath("spreads.csv").open(encoding="utf-8") as file:
        return [_spread(row) for row in csv.DictReader(file)]


def _spread(row):
    return Spread(**{**row, "spread": float(row["spread"]), "freedom": int(row["freedom"])})


def write_spreads(folder: Path, out: Path) -> None:
    """Write the spreads of the scale whose tables are in ``folder``; rows of ``out`` for other scales are kept.

    A cell counts in which the rule is forecast to hold, or SVAG, if no run diverged and it has two seeds at least:
    where the rule breaks, gaps spread for another reason. An experiment of which no cell is forecast to hold counts at
    its smallest kappa. Cells of one workload are pooled. A scale of single seeds has
    no rows.

    Raises:
        InputError: If a table is missing or damaged.
    """
    rows = kept(out, folder) + measured_spreads(folder)
    with atomic(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: astuple(row)[:6]))


def kept(path: Path, folder: Path) -> list[Spread]:
    """Return the rows of the table at ``path``, if it is there, of other scales than that of ``folder``.

    InputError if it is another table.
    """
    if not path.exists():
        return []
    found = tables.read_csv(path, COLUMNS, "claims --spreads", ("spread", "freedom"))
    rows = found[list(COLUMNS)].dropna().astype({"freedom": int}).itertuples(index=False)
    return [Spread(*row) for row in rows if row[0] != folder.resolve().name]


def _spread_of(sample):
    """The standard deviation at one time that needs the same tolerance, to be decided with `POWER`."""
    single = Sample.single(1.0, sample.n, len(sample.groups) == 1)
    return float(np.quantile(sample.null_highs(), POWER) / np.quantile(single.null_highs(), POWER))


def measured_spreads(folder: Path) -> list[Spread]:
    """Return the spreads that the tables in ``folder`` hold, as `write_spreads` counts them."""
    trajectories, forecasts = tables.read(folder), read_forecasts(folder)
    cells: dict[tuple[str, ...], list[Spread]] = {}
    for name, part in trajectories[trajectories["kind"] != "finetune"].groupby("experiment", sort=False):
        found, forecast = Experiment(part, str(name)), forecasts.get(str(name))
        workload = part["workload"].iloc[0]
        about = workload_named(workload).kind
        kappas = found.levels(CLAIMS["rule"])
        counted = [kappa for kappa in kappas if not forecast or forecast.holds(kappa)] or kappas[:1]
        for claim, followed, level in ((c, f, level) for c, f in CLAIMS.items() for level in found.levels(f)):
            svag = claim == "svag"
            if found.diverged(followed, level) or found.missing(followed, level) or found.seeds(followed, level) < 2:
                continue
            if not svag and level not in counted:
                continue
            for metric in found.metrics + ["lag"] * (found.has_lags and not svag):
                sample, tolerance = found.sample(followed, level, metric), found.tolerance(metric, level, svag).value
                if sample.n > 1 and tolerance > 0:
                    spread = _spread_of(sample) / tolerance
                    key = (folder.resolve().name, workload, about, found.kind, claim, metric)
                    freedom = sum(len(group) - 1 for group in sample.groups)
                    cells.setdefault(key, []).append(Spread(*key, spread, freedom))
    return [Spread(*key, float(f"{pooled(rows):.3g}"), sum(row.freedom for row in rows)) for key, rows in cells.items()]
