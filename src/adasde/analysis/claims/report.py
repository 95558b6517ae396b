"""The table of claims as CSV, on a terminal, and by kind of claim in Markdown."""

from pathlib import Path

import pandas as pd

from adasde.analysis.claims.base import VERDICTS
from adasde.common import InputError, atomic, text_table


def write_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Write the claims as CSV, whole or not at all."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def claims_summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, and the count of each verdict."""
    rows = [("claim", "value", "95% interval", "n", "threshold", "verdict")]
    for claim in table.itertuples():
        numbers = f"{claim.value:.3g}", f"{claim.low:.3g} to {claim.high:.3g}", str(claim.n), f"{claim.threshold:.3g}"
        rows.append((claim.id, *numbers, claim.verdict))
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    return f"{text_table(rows)}\n{len(table)} claims: {total}"


def markdown(table: pd.DataFrame) -> str:
    """Return the verdicts per kind of claim as a table in Markdown."""
    lines = [f"| claim | threshold, and why | {' | '.join(VERDICTS)} |", f"|---|---|{'---|' * len(VERDICTS)}"]
    for kind, rows in table.groupby(table["id"].str.partition(".")[0], sort=False):
        counts = rows["verdict"].value_counts()
        why = f"{rows['threshold'].iloc[0]:g}: {rows['reason'].iloc[0]}"
        lines.append(f"| `{kind}` | {why} | {' | '.join(str(counts.get(verdict, 0)) for verdict in VERDICTS)} |")
    return "\n".join(lines)


def renew_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Put the verdicts per kind between the two marks of the Markdown file at ``path``. InputError if it has none."""
    before, start, rest = Path(path).read_text().partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{start}{markdown(table)}\n{end}{after}")
