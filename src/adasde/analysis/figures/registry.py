"""Figures by name: a plot, and what it shows after a dash. The registry imports no plotting library.

A plot is a function ``plot(*tables, subject)`` that returns a matplotlib Figure, in a module of this package. Its
tables hold only the experiments and simulations that it shows. Its subject is an experiment, a workload, or nothing
where one figure shows the whole scale. An experiment made for a plot can bear its name, which is then not said twice:
svag-fashion-cnn-adam shows the experiment of that name. A new plot is one entry here, one function, and its caption in
a Markdown file of the module's name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from adasde.common import InputError
from adasde.experiments.cells import Plan
from adasde.experiments.specs import Simulation
from adasde.scaling.rules import ABLATIONS, RULES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from adasde.analysis.tables import Tables

COMPARED = frozenset(RULES) - {"sqrt", *ABLATIONS}
_APART = frozenset({"svag", *ABLATIONS})  # experiments for other questions than how large a batch can be

Row = tuple[str, str, str]  # experiment, workload and rule of a training run


@dataclass(frozen=True)
class Plot:
    """The module that holds a function ``plot``, and what it can show."""

    module: str
    subject: str | None = None  # what a figure shows: an ``experiment``, a ``workload`` or, if None, the scale
    rules: frozenset[str] = frozenset({"sqrt"})  # experiments with runs that follow one of these are shown,
    without: frozenset[str] = frozenset()  # but not those that also have runs that follow one of these
    beside: frozenset[str] = frozenset()  # experiments on the same workload that follow one of these are shown too
    study: str | None = None  # simulations of this study are shown

    def subject_of(self, row: Row) -> str:
        """What the figure that shows a run is about."""
        return {"experiment": row[0], "workload": row[1], None: ""}[self.subject]

    def experiments(self, subject: str, rows: Iterable[Row]) -> set[str]:
        """Names of the experiments that the figure of a subject shows."""
        rules, workloads = {}, {}
        for experiment, workload, rule in rows:
            rules.setdefault(experiment, set()).add(rule)
            workloads[experiment] = workload
        wanted = {
            name
            for name, followed in rules.items()
            if followed & self.rules
            and not followed & self.without
            and subject == self.subject_of((name, workloads[name], ""))
        }
        beside = {workloads[name] for name in wanted} if self.beside else set()
        return wanted | {name for name in rules if rules[name] & self.beside and workloads[name] in beside}


PLOTS = {
    "scaling": Plot("adasde.analysis.figures.scaling", "experiment"),
    "rules": Plot("adasde.analysis.figures.rules", "workload", COMPARED),
    "svag": Plot("adasde.analysis.figures.svag", "experiment", frozenset({"svag"})),
    "noise": Plot("adasde.analysis.figures.noise", without=_APART),
    "breakdown": Plot("adasde.analysis.figures.breakdown", without=_APART, study="breakdown"),
    "ablation": Plot("adasde.analysis.figures.ablation", rules=frozenset(ABLATIONS), beside=COMPARED),
    "finetune": Plot("adasde.analysis.figures.finetune", rules=frozenset({"finetune"})),
    "weak-order": Plot("adasde.analysis.figures.weak_order", rules=frozenset(), study="weak-order"),
    "sde-real-data": Plot("adasde.analysis.figures.real_data", rules=frozenset(), study="convergence"),
}


def plot_named(figure: str) -> tuple[str, str]:
    """Split a figure's name into plot and subject. An unknown plot is an InputError that lists the known ones."""
    for name, plot in PLOTS.items():
        if plot.subject is None and figure == name:
            return name, ""
        if plot.subject and figure.startswith(f"{name}-"):
            return name, figure[len(name) + 1 :]
    known = [name if plot.subject is None else f"{name}-{plot.subject.upper()}" for name, plot in PLOTS.items()]
    raise InputError(f"figure = {figure!r}: must be one of {', '.join(known)}")


def possible_figures(rows: Iterable[Row], studied: set[str]) -> dict[str, str]:
    """Return the figures that the runs of a scale can show, with the subject of each.

    ``rows`` describe the training runs, ``studied`` are the studies of the simulations.
    """
    found, rows = {}, list(rows)
    for name, plot in PLOTS.items():
        if not plot.rules and plot.study in studied:
            found[name] = ""
        for subject in (plot.subject_of(row) for row in rows if row[2] in plot.rules):
            found[f"{name}-{subject.removeprefix(f'{name}-')}" if subject else name] = subject
    return found


def check_figure(figure: str, rows: Iterable[Row], studied: set[str]) -> str:
    """Return the subject of ``figure``. InputError unless it is one of the `possible_figures`."""
    name, subject = plot_named(figure)
    plot = PLOTS[name]
    subjects = possible_figures(rows, studied)
    if figure in subjects:
        return subjects[figure]
    if not plot.rules:
        raise InputError(f"figure = {figure!r}: nothing to show, since no simulation studies {plot.study}")
    needed = f"no run follows {' or '.join(sorted(plot.rules))}" if "svag" not in plot.rules else "no ell is above 1"
    if plot.subject is None:
        raise InputError(f"figure = {figure!r}: nothing to show, since {needed}")
    others = ", ".join(other for other in subjects if plot_named(other)[0] == name) or f"none, since {needed}"
    raise InputError(f"figure = {figure!r}: {subject!r} is no {plot.subject} that it can show; possible: {others}")


def figure_runs(plan: Plan) -> dict[str, list[str]]:
    """Return the ids of the runs that each figure of a plan is drawn from. InputError names a figure that has none."""
    simulations = {run: spec for run, spec in plan.runs.items() if isinstance(spec, Simulation)}
    trained = {run: spec for run, spec in plan.runs.items() if run not in simulations}
    rows = list(dict.fromkeys((spec.experiment, spec.workload, spec.rule) for spec in trained.values()))
    shown = {}
    for figure in plan.figures:
        subject = check_figure(figure, rows, {spec.study for spec in simulations.values()})
        plot = PLOTS[plot_named(figure)[0]]
        experiments = plot.experiments(subject, rows)
        own = {run for run, spec in trained.items() if spec.experiment in experiments}
        own |= {run for run, spec in simulations.items() if spec.study == plot.study}
        shown[figure] = [run for run in plan.runs if run in own]
    return shown


def plot_figure(
    figure: str,
    trajectories: "pd.DataFrame",
    simulations: "pd.DataFrame | None" = None,
    reference: "Tables | None" = None,
) -> "Figure":
    """Plot a figure from the tables of a scale. InputError if they cannot show it.

    If there is a ``reference``, the same two tables of other runs, its curves are plotted behind, broad and grey.
    """
    from adasde.analysis import tables  # with pandas, which planning does not need

    simulations = tables.NO_SIMULATIONS if simulations is None else simulations
    rows = list(trajectories[["experiment", "task", "rule"]].drop_duplicates().itertuples(index=False, name=None))
    subject = check_figure(figure, rows, set(simulations["study"]))
    plot = PLOTS[plot_named(figure)[0]]
    own = trajectories[trajectories["experiment"].isin(plot.experiments(subject, rows))]
    given = [own] * bool(plot.rules) + [simulations[simulations["study"] == plot.study]] * bool(plot.study)
    drawn = import_module(plot.module).plot(*given, subject)
    if reference is not None:
        import_module("adasde.analysis.figures.style").behind(drawn, plot_figure(figure, *reference))
    return drawn
