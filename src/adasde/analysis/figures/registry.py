"""Figures by name: a plot, and what it shows after a dash. The registry imports no plotting library.

A plot is a function ``draw(*tables, subject)`` that returns a matplotlib Figure, in a module of this package; its
subject is an experiment or a task, or nothing where one figure shows the whole scale; plots of simulations are given
these instead. An experiment made for a plot can bear its name, which is then not said twice: svag-fashion-cnn-adam
shows the experiment of that name. A new plot is one entry here and one function.
"""

from dataclasses import dataclass
from importlib import import_module

from adasde.common import InputError
from adasde.scaling.rules import ABLATIONS, RULES

OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop"}  # as people write them
COMPARED = frozenset(RULES) - {"sqrt", *ABLATIONS}


@dataclass(frozen=True)
class Plot:
    """Where a plot is drawn, and what it can show.

    Its ``subject`` is an experiment, a task or, if None, the scale. It shows the experiments of which some runs follow
    one of ``rules`` and none follows one of ``without``, those on the same task of which some follow one of ``beside``,
    and the simulations of a ``study``, which is all where there are no rules.
    """

    module: str
    subject: str | None = None
    rules: frozenset[str] = frozenset({"sqrt"})
    without: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    study: str | None = None

    @property
    def reads(self) -> list[str]:
        """The tables that it is drawn from."""
        return ["trajectories"] * bool(self.rules) + ["simulations"] * bool(self.study)


_APART = frozenset({"svag", *ABLATIONS})  # experiments for other questions than how large a batch can be

PLOTS = {
    "scaling": Plot("adasde.analysis.figures.scaling", "experiment"),
    "rules": Plot("adasde.analysis.figures.rules", "task", COMPARED),
    "svag": Plot("adasde.analysis.figures.svag", "experiment", frozenset({"svag"})),
    "noise": Plot("adasde.analysis.figures.noise", without=_APART),
    "breakdown": Plot("adasde.analysis.figures.breakdown", without=_APART, study="breakdown"),
    "ablation": Plot("adasde.analysis.figures.ablation", rules=frozenset(ABLATIONS), beside=COMPARED),
    "finetune": Plot("adasde.analysis.figures.finetune", rules=frozenset({"finetune"})),
    "weak-order": Plot("adasde.analysis.figures.weak_order", rules=frozenset(), study="weak-order"),
    "sde-real-data": Plot("adasde.analysis.figures.real_data", rules=frozenset(), study="convergence"),
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


def possible_figures(rows, studied) -> dict[str, str]:
    """Return the figures that the runs of a scale can show, with the subject of each.

    ``rows`` are the (experiment, task, rule) of the training runs, ``studied`` the studies of the simulations.
    """
    found = {}
    rows = list(rows)
    for name, plot in PLOTS.items():
        if not plot.rules and plot.study in studied:
            found[name] = ""
        for experiment, task, rule in rows:
            if rule in plot.rules:
                who = {"experiment": experiment, "task": task, None: ""}[plot.subject]
                found[f"{name}-{who.removeprefix(f'{name}-')}" if who else name] = who
    return found


def check_figure(figure: str, rows, studied) -> str:
    """Return the subject that ``figure`` shows; InputError unless the runs of a scale, as in `possible`, have one."""
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


def runs_shown(figure: str, specs: dict[str, dict]) -> list[str]:
    """Return the runs that ``figure`` is drawn from, of ``specs`` by run; the figure has passed `check`."""
    name, subject = plot_named(figure)
    plot = PLOTS[name]
    trained = {run: spec for run, spec in specs.items() if "task" in spec}
    subject = check_figure(
        figure, {(s["experiment"], s["task"], s["rule"]): None for s in trained.values()}, {plot.study}
    )
    rules, tasks = {}, {}
    for spec in trained.values():
        rules.setdefault(spec["experiment"], set()).add(spec["rule"])
        tasks[spec["experiment"]] = spec["task"]
    wanted = {
        experiment
        for experiment, followed in rules.items()
        if followed & plot.rules
        and not followed & plot.without
        and subject in {"experiment": (experiment,), "task": (tasks[experiment],), None: ("",)}[plot.subject]
    }
    wanted |= {e for e in rules if rules[e] & plot.beside and tasks[e] in {tasks[other] for other in wanted}}
    return [
        run
        for run, spec in specs.items()
        if (spec["experiment"] in wanted if "task" in spec else spec["study"] == plot.study)
    ]


def figure_runs(plan) -> dict[str, list[str]]:
    """Return the runs that each figure of a plan is drawn from; InputError names a figure that has none."""
    trained = {(s["experiment"], s["task"], s["rule"]): None for s in plan.runs.values() if "task" in s}
    studied = {s["study"] for s in plan.runs.values() if "study" in s}
    for figure in plan.figures:
        check_figure(figure, trained, studied)
    return {figure: runs_shown(figure, plan.runs) for figure in plan.figures}


def draw_figure(figure: str, trajectories, simulations=None, reference=None):
    """Return the matplotlib Figure called ``figure``, drawn from the tables of a scale.

    With ``reference``, the same two tables of other runs, what these give is drawn behind, broad and grey. InputError
    if that has other panels.
    """
    rows = trajectories[["experiment", "task", "rule"]].drop_duplicates().itertuples(index=False)
    if simulations is None:
        simulations = import_module("adasde.analysis.tables").NO_SIMULATIONS
    subject = check_figure(figure, rows, set(simulations["study"]))
    plot = PLOTS[plot_named(figure)[0]]
    tables = {"trajectories": trajectories, "simulations": simulations}
    drawn = import_module(plot.module).draw(*(tables[name] for name in plot.reads), subject)
    if reference is not None:
        import_module("adasde.analysis.figures.style").behind(drawn, draw_figure(figure, *reference))
    return drawn
