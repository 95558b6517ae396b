"""Figures by name: a plot, a dash, and what it shows. The registry imports no plotting library.

A plot is a function ``draw(trajectories, subject)`` that returns a matplotlib Figure, in a module of this package; its
subject is an experiment or a task. A new plot is one entry here and one function.
"""

from dataclasses import dataclass
from importlib import import_module

from ..errors import InputError


@dataclass(frozen=True)
class Plot:
    """Where a plot is drawn, and what it can show: a ``subject`` whose runs follow at least ``rules`` rules."""

    module: str
    subject: str
    rules: int = 1


PLOTS = {
    "scaling": Plot("adasde.plots.scaling", subject="experiment"),
    "rules": Plot("adasde.plots.rules", subject="task", rules=2),
}


def plot_named(figure: str) -> tuple[str, str]:
    """Split a figure's name into plot and subject; an unknown plot is an InputError that lists the known ones."""
    for plot in PLOTS:
        if figure.startswith(f"{plot}-"):
            return plot, figure[len(plot) + 1 :]
    raise InputError(f"figure = {figure!r}: must start with one of {', '.join(f'{plot}-' for plot in PLOTS)}")


def check(figure: str, rows):
    """InputError unless the runs can make ``figure``; ``rows`` are their (experiment, task, rule)."""
    name, subject = plot_named(figure)
    plot = PLOTS[name]
    found = {}
    for experiment, task, rule in rows:
        found.setdefault(experiment if plot.subject == "experiment" else task, {}).setdefault(experiment, set()).add(
            rule
        )
    able = [who for who, followed in found.items() if max(map(len, followed.values())) >= plot.rules]
    if subject not in able:
        possible = (
            ", ".join(f"{name}-{who}" for who in able) or f"none, since no {plot.subject} follows {plot.rules} rules"
        )
        raise InputError(
            f"figure = {figure!r}: {subject!r} is no {plot.subject} that it can show; possible: {possible}"
        )


def draw(figure: str, trajectories):
    """Return the matplotlib Figure called ``figure``, drawn from the trajectories of a scale."""
    check(figure, trajectories[["experiment", "task", "rule"]].drop_duplicates().itertuples(index=False))
    name, subject = plot_named(figure)
    return import_module(PLOTS[name].module).draw(trajectories, subject)
