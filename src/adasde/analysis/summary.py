"""Five lines that answer "does the paper replicate?", made from the table of claims."""

import numpy as np
import pandas as pd

from adasde.analysis.cells import NAMES
from adasde.analysis.claims.base import LOSSES, WORDS, natural, short
from adasde.analysis.claims.forecasts import cell_verdicts, reach


def five_lines(table: pd.DataFrame) -> list[str]:
    """Return five lines of Markdown: theorems, the rule where it was forecast to hold and beyond, SVAG, and rivals.

    Args:
        table: The table of claims, as `evaluate_claims` or `read_claims` returns it.
    """
    return [_theorems(table), _inside(table), _beyond(table), _svag(table), _rivals(table)]


def _theorems(table):
    rows = table[table["claim"].isin(["order", "svag-to-sde"])]
    order = rows[rows["claim"] == "order"]
    seen = f"; the order of weak approximation is 1 to within {order['high'].max():.2g}" if len(order) else ""
    return f"**Theorems, simulated:** {_counts(rows)}{seen}."


def _inside(table):
    """The rule where it was forecast to hold; without any forecast, wherever it was run."""
    rows = table[table["claim"] == "rule"]
    if not (rows["forecast"] != "").any():
        return f"**The square-root rule, without a forecast:** {_counts(rows)}{_gaps(rows)}."
    rows = rows[rows["forecast"] == "holds"]
    start = f"**The square-root rule where the baseline forecasts that it holds**{_cells(rows)}"
    return f"{start}: {_counts(rows)}{_gaps(rows)}."


def _beyond(table):
    rows = table[table["forecast"] == "breaks"]
    return f"**The rule beyond that**{_cells(rows)}: {_counts(rows)}{_gaps(rows)}.{_ends(table)}{_foreseen(table)}"


def _svag(table):
    rows = table[table["claim"] == "svag"]
    levels = sorted(rows["level"].unique())
    reached = f" (ell {levels[0]:g} to {levels[-1]:g})" if levels else ""
    return f"**SVAG, which approaches the SDE**{reached}: {_counts(rows)}{_gaps(rows)}."


def _rivals(table):
    rows = table[table["claim"] == "rival"]
    if rows.empty:
        return f"**Other rules:** {_counts(rows)}."
    left, told = int((rows["verdict"] == "reproduced").sum()), int((rows["low"] > 0).sum())
    medians = rows.groupby("rule", sort=False)["value"].median().sort_values()
    sizes = {NAMES.get(rule, rule): "infinite" if np.isinf(value) else short(value) for rule, value in medians.items()}
    return (
        f"**Other rules:** of {_number(len(rows), 'cell')}, {left} leave{'s' * (left == 1)} the baseline by more than "
        f"the tolerance and {told} differ{'s' * (told == 1)} from it beyond the noise; median gap in tolerances: "
        f"{', '.join(f'{rule} {size}' for rule, size in sizes.items())}."
    )


def _number(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _counts(rows):
    """The verdicts in words."""
    if rows.empty:
        return "nothing was tried"
    counts = {verdict: int((rows["verdict"] == verdict).sum()) for verdict in ("reproduced", "not reproduced")}
    rest = len(rows) - sum(counts.values())
    return (
        f"{counts['reproduced']} of {_number(len(rows), 'claim')} reproduced, {counts['not reproduced']} not, "
        f"{rest} undecided"
    )


def _cells(rows):
    """How many cells, and their levels."""
    if rows.empty:
        return ""
    levels = sorted(rows["level"].unique())
    span = f"kappa {levels[0]:g}" + (f" to {levels[-1]:g}" if len(levels) > 1 else "")
    return f" ({_number(len(rows.groupby(['experiment', 'level'])), 'cell')}, {span})"


def _gaps(rows):
    """The largest gaps of losses and of accuracy, and whether runs diverged."""
    losses, accuracy = rows[rows["metric"].isin(LOSSES)], rows[rows["metric"] == "test_accuracy"]
    parts = [
        natural(part["metric"].iloc[0], part["value"].max())
        for part in (found[np.isfinite(found["value"])] for found in (losses, accuracy))
        if len(part)
    ]
    lost = int(np.isinf(rows["value"]).sum())
    diverged = f"; runs diverged in {_number(lost, 'claim')}" if lost else ""
    return (f"; gaps up to {' and '.join(parts)}" if parts else "") + diverged


def _ends(table):
    """At which kappa the rule is first shown to fail, counted over experiments, and by which test function alone."""
    ends = _ends_of(table)
    if not ends:
        return ""
    counts = pd.Series(ends).value_counts().sort_index()
    by = [f"at kappa {kappa:g} in {count}" for kappa, count in counts.items() if np.isfinite(kappa)]
    total = _number(len(ends), "experiment")
    if not by:
        return f" It is shown to fail in none of {total}."
    failed = table[(table["claim"] == "rule") & (table["verdict"] == "not reproduced")]
    first = failed[failed["level"] == failed["experiment"].map(ends)].groupby("experiment")["metric"].agg(set)
    alone = [f"by the {word} only in {count}" for metric, word in WORDS.items() if (count := sum(first == {metric}))]
    return (
        f" It is shown to fail in {len(first)} of {total}, first {', '.join(by)}"
        f"{', there ' if alone else ''}{', '.join(alone)}."
    )


def _ends_of(table):
    """The kappa at which the rule is first shown to fail, by experiment; infinite where it is nowhere."""
    return {name: reach(part)[1] for name, part in cell_verdicts(table).groupby("experiment", sort=False)}


def _foreseen(table):
    """Whether that was forecast."""
    rows = table[table["claim"] == "forecast"]
    limits, cells = rows[rows["experiment"] != ""], rows[rows["experiment"] == ""]
    if cells.empty:
        return ""
    cell = cells.iloc[0]
    if not cell["n"] or np.isnan(cell["value"]):
        return " No cell is decided, so the forecast cannot be judged."
    ends = {name for name, found in _ends_of(table).items() if np.isfinite(found)}
    oracles, ended = table[table["claim"] == "prediction-error"], limits["experiment"].isin(ends)
    words = [
        f"The forecast from the baseline is right in {round(cell['value'] * cell['n'])} of "
        f"{_number(cell['n'], 'decided cell')}."
    ]
    near = [
        f"of {subject} in {_shares(limits[chosen])} experiments {which}"
        for chosen, subject, which in (
            (ended, "the end of the rule", "in which one was found"),
            (~ended, "how far the rule is shown to hold", "in which none was"),
        )
        if chosen.any()
    ]
    words.append(f"It lies within a factor of 2 {', and '.join(near)}.")
    if len(oracles):
        words.append(f"On oracles, whose noise is known exactly, its lags are right in {_shares(oracles)}.")
    return f" {' '.join(words)}"


def _shares(rows):
    """How many rows are reproduced, of how many."""
    return f"{int((rows['verdict'] == 'reproduced').sum())} of {len(rows)}"
