"""Figures by name: a plot, and what it shows after a dash. The registry imports no plotting library.

A plot is a function ``plot(*tables, subject)`` that returns a matplotlib Figure, in a module of this package. Its
tables are the trajectories, the simulations and the claims, those that its entry asks for, and hold only what it shows.
Its subject is an experiment, or nothing where one figure shows the whole scale. An experiment can bear the name of a
plot, which is then not said twice: svag-cnn-adam shows the experiment of that name, and so does branch-cnn-adam. A new
plot is one entry here, one function, and its caption in a Markdown file of the module's name.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adasde.common import InputError
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import Simulation, Trained
from adasde.scaling.rules import RULES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from adasde.analysis.tables import Tables

BASELINE = "baseline"
MOMENTS = frozenset({"keep", "fresh"})  # what can become of the second moment, beside the rule's own way
OTHERS = frozenset(RULES) - {"sqrt"}


class Row(NamedTuple):
    """What a training run can show: its experiment, the kind of that, and what the run followed.

    This is ``baseline``, a rule, ``svag``, or what became of the second moment if that was not carried over.
    """

    experiment: str
    kind: str
    followed: str


@dataclass(frozen=True)
class Plot:
    """The module that holds a function ``plot``, and what it can show."""

    module: str
    subject: str | None = None  # what a figure shows: an ``experiment`` or, if None, the scale
    rules: frozenset[str] = frozenset({"sqrt"})  # experiments with runs that follow one of these are shown,
    kinds: frozenset[str] = frozenset({"scratch", "branch"})  # and are of one of these kinds
    study: str | None = None  # simulations of this study are shown
    judged: bool = False  # the plot also takes the claims on what it shows

    def subject_of(self, row: Row) -> str:
        """What the figure that shows a run is about."""
        return row.experiment if self.subject else ""

    def shows(self, row: Row) -> bool:
        """Whether a run makes its experiment one of those shown."""
        return row.followed in self.rules and row.kind in self.kinds

    def experiments(self, subject: str, rows: Iterable[Row]) -> set[str]:
        """Names of the experiments that the figure of a subject shows."""
        return {row.experiment for row in rows if self.shows(row) and self.subject_of(row) == subject}


_HERE = "adasde.analysis.figures"
PLOTS = {
    "map": Plot(f"{_HERE}.map", rules=frozenset({"sqrt", "svag", *OTHERS}), judged=True),
    "scaling": Plot(f"{_HERE}.scaling", "experiment", kinds=frozenset({"scratch"}), judged=True),
    "branch": Plot(f"{_HERE}.branch", "experiment", kinds=frozenset({"branch"}), judged=True),
    "svag": Plot(f"{_HERE}.svag", "experiment", frozenset({"svag"}), judged=True),
    "rules": Plot(f"{_HERE}.rules", rules=OTHERS, judged=True),
    "rescale": Plot(f"{_HERE}.rescale", rules=MOMENTS, kinds=frozenset({"branch"})),
    "forecast": Plot(f"{_HERE}.forecast", kinds=frozenset({"scratch"}), study="breakdown"),
    "noise": Plot(f"{_HERE}.noise"),
    "finetune": Plot(f"{_HERE}.finetune", rules=frozenset({"finetune"}), kinds=frozenset({"finetune"})),
    "weak-order": Plot(f"{_HERE}.weak_order", rules=frozenset(), study="weak-order"),
    "sde-real-data": Plot(f"{_HERE}.real_data", rules=frozenset(), study="convergence"),
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
        for subject in (plot.subject_of(row) for row in rows if plot.shows(row)):
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
    followed = "no ell is above 1" if plot.rules == {"svag"} else f"no run follows {' or '.join(sorted(plot.rules))}"
    needed = f"{followed} in an experiment of the kind {' or '.join(sorted(plot.kinds))}"
    if plot.subject is None:
        raise InputError(f"figure = {figure!r}: nothing to show, since {needed}")
    others = ", ".join(other for other in subjects if plot_named(other)[0] == name) or f"none, since {needed}"
    raise InputError(f"figure = {figure!r}: {subject!r} is not an {plot.subject} that it can show; possible: {others}")


def figure_runs(plan: Plan) -> dict[str, list[str]]:
    """Return the ids of the runs that each figure of a plan shows. InputError names a figure that has none."""
    trained = {run: spec for run, spec in plan.runs.items() if isinstance(spec, Trained)}
    simulations = {run: spec for run, spec in plan.runs.items() if isinstance(spec, Simulation)}
    rows = {run: _row(spec.experiment, spec.origin, *_followed(spec)) for run, spec in trained.items()}
    shown = {}
    for figure in plan.figures:
        subject = check_figure(figure, rows.values(), {spec.study for spec in simulations.values()})
        plot = PLOTS[plot_named(figure)[0]]
        experiments = plot.experiments(subject, rows.values())
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
    tables = import_module("adasde.analysis.tables")  # with pandas, which planning does not need
    simulations = tables.NO_SIMULATIONS if simulations is None else simulations
    columns = ["experiment", "kind", "rule", "kappa", "ell", "second_moment"]
    found = trajectories[columns].drop_duplicates().itertuples(index=False, name=None)
    rows = [_row(*values) for values in found]
    subject = check_figure(figure, rows, set(simulations["study"]))
    plot = PLOTS[plot_named(figure)[0]]
    if plot.subject and not any(row.followed == BASELINE and row.experiment == subject for row in rows):
        raise InputError(f"figure = {figure!r}: no run of the baseline of {subject}, sqrt at kappa 1, is there")
    own = trajectories[trajectories["experiment"].isin(plot.experiments(subject, rows))]
    given = [own] * bool(plot.rules) + [simulations[simulations["study"] == plot.study]] * bool(plot.study)
    if plot.judged:
        given.append(import_module("adasde.analysis.cells").judged(own))
    with tables.whole_simulations() if plot.study and not plot.rules else nullcontext():
        plotted = import_module(plot.module).plot(*given, subject)
    if reference is not None:
        import_module(f"{_HERE}.style").behind(plotted, plot_figure(figure, *reference))
    return plotted


def save_figure(figure: str, paths: Iterable[Path], *tables: Any, **options: Any) -> None:
    """Plot a figure as `plot_figure` does, and save it to ``paths``, PNG or PDF files."""
    import_module(f"{_HERE}.style").save(plot_figure(figure, *tables, **options), paths)


def _followed(spec):
    return spec.rule, spec.kappa, spec.ell, getattr(spec, "second_moment", "transport")


def _row(experiment, kind, rule, kappa, ell, second_moment):
    followed = BASELINE if (rule, kappa, ell) == ("sqrt", 1, 1) else rule
    return Row(experiment, kind, followed if second_moment == "transport" else second_moment)
