"""Five lines that answer "does the paper replicate?", made from the table of claims."""

import numpy as np
import pandas as pd

from adasde.analysis.claims.base import WORDS, natural
from adasde.analysis.claims.forecasts import cell_verdicts, reach


def five_lines(table: pd.DataFrame) -> list[str]:
    """Return five paragraphs: theorems, the rule where it was forecast to hold and beyond, SVAG, and rivals.

    Args:
        table: The table of claims, as `evaluate_claims` or `read_claims` returns it.
    """
    return [_theorems(table), _inside(table), _beyond(table), _svag(table), _rivals(table)]


def _theorems(table):
    rows = table[table["claim"].isin(["order", "svag-to-sde", "prediction-error"])]
    order = rows[rows["claim"] == "order"]
    seen = f" The measured order of weak approximation is within {order['value'].max():.2g} of 1." if len(order) else ""
    return f"**Theorems, simulated.** {_counts(rows)}{seen}"


def _inside(table):
    """The rule where it was forecast to hold; without any forecast, wherever it was run."""
    rows = table[table["claim"] == "rule"]
    if not (rows["forecast"] != "").any():
        return f"**The square-root rule, with no forecast.** {_counts(rows)}{_gaps(rows)}"
    rows = rows[rows["forecast"] == "holds"]
    return f"**The square-root rule where the forecast says that it holds{_cells(rows)}.** {_counts(rows)}{_gaps(rows)}"


def _beyond(table):
    rows = table[table["forecast"] == "breaks"]
    text = f"**The square-root rule beyond that{_cells(rows)}.** {_counts(rows)}{_gaps(rows)}"
    return text + _ends(table) + _foreseen(table)


def _svag(table):
    rows = table[table["claim"] == "svag"]
    levels = sorted(rows["level"].unique())
    reached = f" up to ell {levels[-1]:g}" if levels else ""
    return f"**SVAG, which approaches the SDE{reached}.** {_counts(rows)}{_gaps(rows)}"


def _rivals(table):
    rows = table[table["claim"] == "rival"]
    if rows.empty:
        return f"**Rivals of the rule.** {_counts(rows)}"
    left, told = int((rows["verdict"] == "reproduced").sum()), int((rows["low"] > 0).sum())
    text = (
        f"**Rivals of the rule.** Of {_number(len(rows), 'run')} of another rule at a kappa, {left} "
        f"{'leaves' if left == 1 else 'leave'} the baseline by more than the tolerance, and {told} "
        f"{'differs' if told == 1 else 'differ'} from it beyond the noise."
    )
    largest = rows.groupby("rule", sort=False)["value"].max().sort_values()
    parts = [f"{rule} {'diverges' if np.isinf(value) else f'{value:.2g}'}" for rule, value in largest.items()]
    return f"{text} Largest gap in tolerances: {', '.join(parts)}."


def _number(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _counts(rows):
    """The verdicts in words."""
    if rows.empty:
        return "Nothing was tried."
    counts = {verdict: int((rows["verdict"] == verdict).sum()) for verdict in ("reproduced", "not reproduced")}
    rest = len(rows) - sum(counts.values())
    verb = "is" if counts["reproduced"] == 1 else "are"
    return (
        f"{counts['reproduced']} of {_number(len(rows), 'claim')} {verb} reproduced, {counts['not reproduced']} "
        f"not reproduced and {rest} undecided."
    )


def _cells(rows):
    """How many cells, and their levels."""
    if rows.empty:
        return ""
    levels = sorted(rows["level"].unique())
    span = f"kappa {levels[0]:g}" + (f" to {levels[-1]:g}" if len(levels) > 1 else "")
    return f" ({_number(len(rows.groupby(['experiment', 'level'])), 'cell')}, {span})"


def _gaps(rows):
    """The largest gap of every test function, with the place of the one that is largest in tolerances."""
    finite = rows[np.isfinite(rows["value"])]
    if finite.empty:
        return ""
    largest = finite.groupby("metric", sort=False)["value"].max()
    parts = [f"{WORDS[metric]} {natural(metric, value)}" for metric, value in largest.items() if metric in WORDS]
    share = finite["value"] / finite["tolerance"]
    worst = finite.loc[share.idxmax()] if share.notna().any() else None
    where = ""
    if worst is not None:
        level = "ell" if worst["claim"] == "svag" else "kappa"
        where = (
            f" The largest against its tolerance is {WORDS[worst['metric']]} of {worst['experiment']} at {level} "
            f"{worst['level']:g}, {share.max():.2g} times it."
        )
    lost = len(rows) - len(rows[np.isfinite(rows["value"]) | rows["value"].isna()])
    diverged = f" Runs diverged in {_number(lost, 'claim')}." if lost else ""
    return f" Largest gaps: {', '.join(parts)}.{where}{diverged}"


def _ends(table):
    """Up to which kappa the rule is shown to hold, and from which to fail, counted over experiments."""
    ends = [reach(part) for _, part in cell_verdicts(table).groupby("experiment", sort=False)]
    if not ends:
        return ""
    holds, fails = (pd.Series(kappas).value_counts().sort_index() for kappas in zip(*ends, strict=True))
    up_to = [f"{f'up to kappa {kappa:g}' if kappa > 1 else 'at no kappa'} in {count}" for kappa, count in holds.items()]
    by = [f"{f'at kappa {kappa:g}' if np.isfinite(kappa) else 'at none'} in {count}" for kappa, count in fails.items()]
    return (
        f" Of {_number(len(ends), 'experiment')}, the rule is shown to hold for every test function "
        f"{', '.join(up_to)}, and first shown to fail {', '.join(by)}."
    )


def _foreseen(table):
    """Whether that was forecast."""
    rows = table[table["claim"] == "forecast"]
    limits, cells = rows[rows["experiment"] != ""], rows[rows["experiment"] == ""]
    if cells.empty:
        return ""
    right, cell = int((limits["verdict"] == "reproduced").sum()), cells.iloc[0]
    if not cell["n"]:
        return " No cell is decided, so the forecast cannot be judged."
    return (
        f" The forecast of that kappa is right within a factor of 2 in {right} of "
        f"{_number(len(limits), 'experiment')}, and whether the rule holds in {round(cell['value'] * cell['n'])} of "
        f"{_number(cell['n'], 'decided cell')}."
    )
