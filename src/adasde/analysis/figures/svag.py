"""``svag-<experiment>``: the trajectories of the plain run and of SVAG at every ell, on one clock."""

from adasde.analysis.figures import scaling, style


def draw(trajectories, experiment):
    """One curve per ell; where they agree, the SDE describes the plain run. Panels as in scaling.compare."""

    def label(ell, groups):
        return style.ell_label(ell, ell in groups.diverged)

    figure = scaling.compare(trajectories, experiment, "svag", "SVAG", "plain run", label)
    for panel in figure.axes:
        if panel.get_xlabel() == "epochs":
            panel.set_xlabel("epochs of the plain run")
    return figure
