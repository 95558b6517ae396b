"""Judge every claim that the tables of a scale can speak to."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

# isort: off
# A module registers its claims when it is imported. This order is that of the table.
from adasde.analysis.claims import trajectory, finetuning, lag, weak_error  # noqa: F401

# isort: on
from adasde.analysis import tables
from adasde.analysis.claims.base import CLAIMS, SIMULATION_CLAIMS, table_of
from adasde.analysis.claims.forecasts import forecast_claims
from adasde.analysis.forecast import Forecast, read_forecasts


def evaluate_scale(folder: Path) -> pd.DataFrame:
    """Return the claims on the tables and forecasts in ``folder``, such as results/mini, as `evaluate_claims` does."""
    return evaluate_claims(*tables.both(folder), read_forecasts(folder))


def evaluate_claims(
    trajectories: pd.DataFrame,
    simulations: pd.DataFrame = tables.NO_SIMULATIONS,
    forecasts: Mapping[str, Forecast] | None = None,
) -> pd.DataFrame:
    """Return one row per claim, with the columns COLUMNS.

    Args:
        trajectories: The table of training runs.
        simulations: The table of simulations.
        forecasts: The forecasts by experiment; an experiment without one has no word on its forecast.

    Raises:
        InputError: If the rule was run at a kappa for which its experiment's forecast says nothing.
    """
    forecasts = forecasts or {}
    rows = []
    for experiment, part in trajectories.groupby("experiment", sort=False):
        for found in [found for ask in CLAIMS for found in ask(part, experiment)]:
            if found.claim == "rule" and experiment in forecasts:
                found = replace(found, forecast="holds" if forecasts[experiment].holds(found.level) else "breaks")
            rows.append(found)
    rows += forecast_claims(table_of(rows), forecasts)
    with tables.whole_simulations():
        rows += [found for ask in SIMULATION_CLAIMS for found in ask(simulations)]
    return table_of(rows)
