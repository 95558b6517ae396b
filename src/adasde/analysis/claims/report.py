"""The table of claims as CSV, on a terminal and in Markdown."""

from pathlib import Path

import pandas as pd

from adasde.analysis.claims.base import VERDICTS
from adasde.common import InputError, atomic, text_table

HEADER = ("claim", "value", "95% interval", "n", "threshold", "verdict")
MARKS = ("<!-- claims -->\n", "<!-- end of claims -->")


def write_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Write the claims as CSV, whole or not at all."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)


def claims_summary(table: pd.DataFrame) -> str:
    """Return the claims as a table for a terminal, and the count of each verdict."""
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    return f"{text_table([HEADER, *_cells(table)])}\n{len(table)} claims: {total}"


def markdown(table: pd.DataFrame) -> str:
    """Return the claims as Markdown: the verdicts per kind of claim, and every claim, folded."""
    lines = [f"| claim | threshold, and why | {' | '.join(VERDICTS)} |", f"|---|---|{'---|' * len(VERDICTS)}"]
    for kind, rows in table.groupby(table["id"].str.partition(".")[0], sort=False):
        counts = rows["verdict"].value_counts()
        why = f"{rows['threshold'].iloc[0]:g}: {rows['reason'].iloc[0]}"
        lines.append(f"| `{kind}` | {why} | {' | '.join(str(counts.get(verdict, 0)) for verdict in VERDICTS)} |")
    lines += [
        "",
        "<details><summary>every claim</summary>",
        "",
        f"| {' | '.join(HEADER)} |",
        "|---" * len(HEADER) + "|",
    ]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in _cells(table)]
    return "\n".join([*lines, "", "</details>"])


def _cells(table):
    for claim in table.itertuples():
        bounds = f"{claim.low:.3g} to {claim.high:.3g}"
        yield claim.id, f"{claim.value:.3g}", bounds, str(claim.n), f"{claim.threshold:.3g}", claim.verdict


def renew_claims(table: pd.DataFrame, path: str | Path) -> None:
    """Put the claims between the two marks of the Markdown file at ``path``; InputError if it has none."""
    before, start, rest = Path(path).read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise InputError(f"{path}: no place for the claims, between <!-- claims --> and <!-- end of claims -->")
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{start}{markdown(table)}\n{end}{after}")
