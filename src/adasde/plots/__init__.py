"""Figures by name: a plot, a dash, and what it shows. The registry imports no plotting library.

A plot is a function in a module of this package, from (trajectories, subject) to a matplotlib Figure; the
subject is an experiment or a task. A new plot is one entry here and one function.
"""

from importlib import import_module

from ..errors import InputError

PLOTS = {"scaling": "adasde.plots.scaling", "rules": "adasde.plots.rules"}


def plot_named(figure: str) -> tuple[str, str]:
    """Split a figure's name into plot and subject; an unknown plot is an InputError that lists the known ones."""
    for plot in PLOTS:
        if figure.startswith(f"{plot}-"):
            return plot, figure[len(plot) + 1 :]
    raise InputError(f"figure = {figure!r}: must start with one of {', '.join(f'{plot}-' for plot in PLOTS)}")


def draw(figure: str, trajectories):
    """Return the matplotlib Figure called ``figure``, drawn from the trajectories of a scale."""
    plot, subject = plot_named(figure)
    return import_module(PLOTS[plot]).draw(trajectories, subject)
