"""``svag-<experiment>``: the trajectories of the plain run and of SVAG at every ell, on one clock."""

import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis.figures import scaling


def plot(trajectories: pd.DataFrame, experiment: str) -> Figure:
    """One curve per ell; where they agree, the SDE describes the plain run. Panels as in scaling.compare."""

    def label(ell, groups):
        return rf"$\ell = {ell:g}$" + (" (plain run)" if ell == 1 else "")

    figure = scaling.compare(trajectories, experiment, "svag", "SVAG", "plain run", label)
    for panel in figure.axes:
        if panel.get_xlabel() == "epochs":
            panel.set_xlabel("epochs of the plain run")
    return figure
