"""Figures by name: a plot, a dash, and what it shows. The registry imports no plotting library.

A plot is a function ``draw(trajectories, subject)`` that returns a matplotlib Figure, in a module of this package; its
subject is an experiment or a task. An experiment made for a plot can bear its name, which is then not said twice:
svag-fashion-cnn-adam shows the experiment of that name. A new plot is one entry here and one function.
"""

from dataclasses import dataclass
from importlib import import_module

from ..errors import InputError


@dataclass(frozen=True)
class Plot:
    """Where a plot is drawn, and what it can show: a ``subject`` with runs of at least ``rules`` rules, or of SVAG."""

    module: str
    subject: str
    rules: int = 1
    svag: bool = False

    def shows(self, followed: set[str]) -> bool:
        """Whether an experiment with runs of the rules ``followed`` gives it something to show."""
        return "svag" in followed if self.svag else len(followed - {"svag"}) >= self.rules

    @property
    def needs(self) -> str:
        """What a subject needs to be shown, in words."""
        return "is run at an ell above 1" if self.svag else f"follows {self.rules} rules"


PLOTS = {
    "scaling": Plot("adasde.plots.scaling", subject="experiment"),
    "rules": Plot("adasde.plots.rules", subject="task", rules=2),
    "svag": Plot("adasde.plots.svag", subject="experiment", svag=True),
}


def plot_named(figure: str) -> tuple[str, str]:
    """Split a figure's name into plot and subject; an unknown plot is an InputError that lists the known ones."""
    for plot in PLOTS:
        if figure.startswith(f"{plot}-"):
            return plot, figure[len(plot) + 1 :]
    raise InputError(f"figure = {figure!r}: must start with one of {', '.join(f'{plot}-' for plot in PLOTS)}")


def check(figure: str, rows) -> str:
    """Return the subject that ``figure`` shows; InputError unless runs of these (experiment, task, rule) have one."""
    name, subject = plot_named(figure)
    plot = PLOTS[name]
    found = {}
    for experiment, task, rule in rows:
        found.setdefault(experiment if plot.subject == "experiment" else task, {}).setdefault(experiment, set()).add(
            rule
        )
    able = [who for who, experiments in found.items() if any(map(plot.shows, experiments.values()))]
    subjects = {f"{name}-{who.removeprefix(f'{name}-')}": who for who in able}
    if figure not in subjects:
        possible = ", ".join(subjects) or f"none, since no {plot.subject} {plot.needs}"
        raise InputError(
            f"figure = {figure!r}: {subject!r} is no {plot.subject} that it can show; possible: {possible}"
        )
    return subjects[figure]


def draw(figure: str, trajectories):
    """Return the matplotlib Figure called ``figure``, drawn from the trajectories of a scale."""
    subject = check(figure, trajectories[["experiment", "task", "rule"]].drop_duplicates().itertuples(index=False))
    name, _ = plot_named(figure)
    return import_module(PLOTS[name].module).draw(trajectories, subject)
