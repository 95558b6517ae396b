"""The table of claims as CSV, on a terminal, and by kind of claim in Markdown."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adasde.analysis.cells import map_table
from adasde.analysis.claims.base import COLUMNS, NUMBERS, VERDICTS
from adasde.analysis.statistics import MOST_SEEDS
from adasde.analysis.summary import five_lines
from adasde.analysis.tables import read_csv
from adasde.common import InputError, atomic, read_text, text_table

FIELDS = ("value", "interval", "n", "tolerance", "power", "seeds needed", "forecast", "verdict")
TEXTS = ("forecast", "note", "figure", "experiment", "kind", "rule", "metric")  # columns that can be empty


def write_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Write the claims as CSV, whole or not at all."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def read_claims(path: str | Path) -> pd.DataFrame:
    """Return the table that `write_claims` wrote. InputError if there is none, or another."""
    table = read_csv(Path(path), COLUMNS, "claims", NUMBERS, dtype=dict.fromkeys(TEXTS, str))
    if not (table["verdict"].isin(VERDICTS).all() and np.isfinite(table["n"]).all() and table["id"].notna().all()):
        raise InputError(f"{path}: not a table of claims (id, n or verdict has other values); make it again")
    return table.fillna(dict.fromkeys(TEXTS, ""))


def claims_summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, the count of each verdict, and the five lines that sum them up."""
    rows = [("claim", *FIELDS), *((claim.id, *fields(claim)) for claim in table.itertuples())]
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    lines = (line.replace("**", "") for line in five_lines(table))
    return "\n".join([text_table(rows), f"{len(table)} claims: {total}", "", *lines])


def fields(claim: Any) -> tuple[str, ...]:
    """Return what FIELDS names, of one row of the table, as people read it."""
    value, low, high, tolerance = map(_number, (claim.value, claim.low, claim.high, claim.tolerance))
    power = f"{claim.power:.2f}" if np.isfinite(claim.power) else ""
    most = f">{MOST_SEEDS}" if claim.verdict == "undecided" and power else ""
    needed = f"{claim.seeds_needed:.0f}" if np.isfinite(claim.seeds_needed) else most
    return value, f"{low} to {high}", str(claim.n), tolerance, power, needed, claim.forecast, claim.verdict


def _number(value):
    """A number as people read it; NaN is unknown."""
    return "unknown" if np.isnan(value) else "∞" if np.isinf(value) else f"{value:.3g}"


def readme(table: pd.DataFrame) -> str:
    """Return what the README says of the claims: the five lines, and the map as a table."""
    lines = "".join(f"- {line}\n" for line in five_lines(table))
    return f"{lines}\n{map_table(table)}"


def renew_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Put what `readme` returns between the two marks of the Markdown file at ``path``. InputError if it has none."""
    before, after = parts_around(path)
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{readme(table)}{after}", encoding="utf-8")


def parts_around(path: str | Path) -> tuple[str, str]:
    """Return the text up to the first of the two marks of the Markdown file at ``path``, and from the second on.

    InputError if it has none.
    """
    before, start, rest = read_text(path).partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    return before + start, end + after
