"""Figures by name: a plot, and what it shows after a dash. The registry imports no plotting library.

A plot is a function ``draw(trajectories, subject)`` that returns a matplotlib Figure, in a module of this package; its
subject is an experiment or a task, or nothing where one figure shows the whole scale. A new plot is one entry here and
one function.
"""

from dataclasses import dataclass
from importlib import import_module

from ..errors import InputError
from ..scaling import ABLATIONS, RULES

COMPARED = frozenset(RULES) - {"sqrt", *ABLATIONS}


@dataclass(frozen=True)
class Plot:
    """Where a plot is drawn, and what it can show.

    Its ``subject`` is an experiment, a task or, if None, the scale; some of its runs follow one of ``rules``.
    """

    module: str
    subject: str | None = None
    rules: frozenset[str] = frozenset({"sqrt"})


PLOTS = {
    "scaling": Plot("adasde.plots.scaling", "experiment"),
    "rules": Plot("adasde.plots.rules", "task", COMPARED),
    "noise": Plot("adasde.plots.noise"),
    "breakdown": Plot("adasde.plots.breakdown"),
    "ablation": Plot("adasde.plots.ablation", rules=frozenset(ABLATIONS)),
}


def plot_named(figure: str) -> tuple[str, str]:
    """Split a figure's name into plot and subject; an unknown plot is an InputError that lists the known ones."""
    for name, plot in PLOTS.items():
        if plot.subject is None and figure == name:
            return name, ""
        if plot.subject and figure.startswith(f"{name}-"):
            return name, figure[len(name) + 1 :]
    known = [name if plot.subject is None else f"{name}-{plot.subject.upper()}" for name, plot in PLOTS.items()]
    raise InputError(f"figure = {figure!r}: must be one of {', '.join(known)}")


def check(figure: str, rows):
    """InputError unless the runs can make ``figure``; ``rows`` are their (experiment, task, rule)."""
    name, subject = plot_named(figure)
    plot = PLOTS[name]
    able = {}  # in the order of the rows
    for experiment, task, rule in rows:
        if rule in plot.rules:
            able[{"experiment": experiment, "task": task, None: ""}[plot.subject]] = None
    if subject not in able:
        needed = f"no run follows {' or '.join(sorted(plot.rules))}"
        if plot.subject is None:
            raise InputError(f"figure = {figure!r}: nothing to show, since {needed}")
        possible = ", ".join(f"{name}-{who}" for who in able) or f"none, since {needed}"
        raise InputError(
            f"figure = {figure!r}: {subject!r} is no {plot.subject} that it can show; possible: {possible}"
        )


def draw(figure: str, trajectories):
    """Return the matplotlib Figure called ``figure``, drawn from the trajectories of a scale."""
    check(figure, trajectories[["experiment", "task", "rule"]].drop_duplicates().itertuples(index=False))
    name, subject = plot_named(figure)
    return import_module(PLOTS[name].module).draw(trajectories, subject)
