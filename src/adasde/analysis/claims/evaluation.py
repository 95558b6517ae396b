"""Judge every claim that the tables of a scale can speak to."""

import pandas as pd

# isort: off
# A module registers its claims when it is imported. This order is that of the table.
from adasde.analysis.claims import accuracy, perplexity, trajectory, finetuning, lag, closeness, weak_error  # noqa: F401

# isort: on
from adasde.analysis import tables
from adasde.analysis.claims.base import CLAIMS, COLUMNS, SIMULATION_CLAIMS, is_ablation


def evaluate_claims(trajectories: pd.DataFrame, simulations: pd.DataFrame = tables.NO_SIMULATIONS) -> pd.DataFrame:
    """Return one row per claim, with the columns COLUMNS: the experiments in their order, then the simulations.

    A claim that names no figure is shown by the ablation's, or else by its experiment's figure of trajectories.
    """
    rows = []
    for experiment, part in trajectories.groupby("experiment", sort=False):
        figure = "ablation" if is_ablation(part) else f"scaling-{experiment}"
        for found in [found for ask in CLAIMS for found in ask(part, experiment)]:
            rows.append(found | {"figure": figure if found["figure"] is None else found["figure"]})
    rows += [found for ask in SIMULATION_CLAIMS for found in ask(simulations)]
    return pd.DataFrame(rows, columns=COLUMNS)
