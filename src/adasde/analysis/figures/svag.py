"""``svag-<experiment>``: the trajectories of the plain run and of SVAG at every ell, on one clock."""

import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis.cells import limit
from adasde.analysis.claims.experiment import Experiment
from adasde.analysis.figures import style
from adasde.analysis.figures.scaling import compare


def plot(trajectories: pd.DataFrame, claims: pd.DataFrame, experiment: str) -> Figure:
    """One curve per ell; where they agree, the SDE describes the plain run. Panels as in scaling.compare."""

    def label(ell):
        return rf"$\ell = {ell:g}$" + (" (plain run, baseline)" if ell == 1 else "")

    message = f"SVAG: {limit(claims, 'svag', name='ell')}"
    figure = compare(Experiment(trajectories, experiment), "svag", style.ell_colour, label, message)
    style.legend(figure, figure.axes, columns=6)
    return figure
