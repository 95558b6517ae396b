"""The table of claims as text: for a terminal, and between two marks of the README."""

from pathlib import Path

import pandas as pd

from . import terminal
from .errors import InputError
from .store import atomic


def summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, and the count of each verdict."""
    rows = [("claim", "value", "95% interval", "n", "threshold", "verdict")]
    for claim in table.itertuples():
        bounds = f"{claim.low:.3g} to {claim.high:.3g}"
        threshold = f"{claim.threshold:.3g}"
        rows.append((claim.id, f"{claim.value:.3g}", bounds, str(claim.n), threshold, claim.verdict))
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[v]} {v}" for v in ("reproduced", "not reproduced", "inconclusive") if v in counts)
    return f"{terminal.table(rows)}\n{len(table)} claims: {total}"


def markdown(table: pd.DataFrame) -> str:
    """Return the claims as a Markdown table, for the README."""
    lines = ["| claim | value | 95% interval | n | threshold | verdict |", "|---|---|---|---|---|---|"]
    for claim in table.itertuples():
        lines.append(
            f"| `{claim.id}` | {claim.value:.3g} | {claim.low:.3g} to {claim.high:.3g} | {claim.n} "
            f"| {claim.threshold:.3g} | {claim.verdict} |"
        )
    return "\n".join(lines)


def renew(table: pd.DataFrame, path):
    """Put the claims between the two marks of the Markdown file at ``path``; InputError if it has none."""
    document = Path(path).read_text()
    before, start, rest = document.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{start}{markdown(table)}\n{end}{after}")
