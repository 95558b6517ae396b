"""Rows of the table of claims with their verdicts, and the table as CSV, for a terminal and in the README."""

import math
from pathlib import Path

import pandas as pd

from adasde.common import InputError, atomic, text_table

COLUMNS = (
    "id", "place", "statement", "statistic", "value", "low", "high", "n", "threshold", "reason", "verdict", "note",
    "figure",
)  # fmt: skip


VERDICTS = ("reproduced", "not reproduced", "inconclusive")


def verdict(low, high, threshold, below) -> str:
    """Verdict of an interval on a claim that the statistic is ``below`` the threshold, or above it."""
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if not below:
        low, high, threshold = -high, -low, -threshold
    return "reproduced" if high < threshold else "not reproduced" if low > threshold else "inconclusive"


def write_claims(table: pd.DataFrame, path):
    """Write the claims as CSV, whole or not at all."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def row(value, bounds, below, diverged, **columns):
    """A row of the table, ``bounds`` being the statistic's interval.

    ``diverged`` names runs that make a claim about smallness fail outright.
    """
    if diverged:
        if below:
            value, bounds = math.inf, (math.inf, math.inf)
        columns["note"] = f"{', '.join(diverged)} diverged"
    low, high = bounds
    return {
        **columns,
        "value": value,
        "low": low,
        "high": high,
        "verdict": verdict(low, high, columns["threshold"], below),
    }


def claims_summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, and the count of each verdict."""
    rows = [("claim", "value", "95% interval", "n", "threshold", "verdict")]
    for claim in table.itertuples():
        bounds = f"{claim.low:.3g} to {claim.high:.3g}"
        threshold = f"{claim.threshold:.3g}"
        rows.append((claim.id, f"{claim.value:.3g}", bounds, str(claim.n), threshold, claim.verdict))
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
    return f"{text_table(rows)}\n{len(table)} claims: {total}"


def markdown(table: pd.DataFrame) -> str:
    """Return the claims as Markdown, for the README: the verdicts per kind of claim, and every claim, folded."""
    kinds = table["id"].str.partition(".")[0]
    lines = [f"| claim | threshold, and why | {' | '.join(VERDICTS)} |", f"|---|---|{'---|' * len(VERDICTS)}"]
    for kind, rows in table.groupby(kinds, sort=False):
        counts = rows["verdict"].value_counts()
        why = f"{rows['threshold'].iloc[0]:g}: {rows['reason'].iloc[0]}"
        lines.append(f"| `{kind}` | {why} | {' | '.join(str(counts.get(verdict, 0)) for verdict in VERDICTS)} |")
    lines += ["", "<details><summary>every claim</summary>", ""]
    lines += ["| claim | value | 95% interval | n | threshold | verdict |", "|---|---|---|---|---|---|"]
    for claim in table.itertuples():
        lines.append(
            f"| `{claim.id}` | {claim.value:.3g} | {claim.low:.3g} to {claim.high:.3g} | {claim.n} "
            f"| {claim.threshold:.3g} | {claim.verdict} |"
        )
    return "\n".join([*lines, "", "</details>"])


def renew_claims(table: pd.DataFrame, path):
    """Put the claims between the two marks of the Markdown file at ``path``; InputError if it has none."""
    document = Path(path).read_text()
    before, start, rest = document.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{start}{markdown(table)}\n{end}{after}")
