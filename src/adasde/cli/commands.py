"""What each command does."""

import argparse
import json
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adasde.analysis.figures.registry import figure_runs, plot_named, save_figure
from adasde.cli.files import check_apart
from adasde.common import InputError, atomic, check_writable, read_text, text_table
from adasde.experiments import cost, plan_cost
from adasde.experiments import plan as planning
from adasde.experiments.documents import merged
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import Simulation, Trained, Training, spec_of
from adasde.scaling.documents import parsed_json
from adasde.scaling.rules import ScalingWarning
from adasde.workloads.data.registry import dataset_named, prepare

# Commands import torch, pandas, pyarrow and matplotlib when they run: most need none of them, and each takes its time.

# Forms of what `plan` prints, options that would do nothing there, and why.
_FORMS = (
    ("budget", ("figure", "gpus"), "looks at hours of the whole config"),
    ("runs", ("device", "gpus"), "tells no hours"),
    ("json", ("device", "gpus"), "tells no hours"),
)


def plan(options: argparse.Namespace) -> None:
    """Print what a config would cost, without running anything: per figure and as a whole, or every run.

    The speeds behind the hours are measured, estimated or unknown. With a budget, propose what to keep of the config.
    """
    for form, names, why in _FORMS:
        for name in names if getattr(options, form) else ():
            if (value := getattr(options, name)) is not None:
                raise InputError(f"{name} = {value}: does not go with --{form}, which {why}")
    planned, shown = _planned(options.config)
    if options.device is not None:
        cost.device_named(options.device)
    if options.budget is not None or options.out is not None:
        _propose(options)
        return
    runs = plan_cost.needed(planned, shown, options.figure) if options.figure is not None else planned.runs
    specs = [planned.runs[run] for run in runs]
    if options.json:
        print(json.dumps([spec.document for spec in specs], indent=1))
    elif options.runs:
        _print_runs(specs, len(planned.figures))
    else:
        print(plan_cost.report(planned, shown, options.figure, options.device, options.gpus))


def _propose(options: argparse.Namespace) -> None:
    """Print what a budget leaves of a config, and write the overlay that takes the rest away."""
    if options.budget is None:
        raise InputError("out: goes with --budget only, whose overlay it is")
    if options.out is not None:
        check_writable("out", options.out)

    from adasde.analysis.budget import cut, overlay_text, summary  # with pandas and scipy, which planning does not need

    found = cut(merged(options.config), options.budget, options.device)
    configs = [str(path) for path in options.config]
    if options.out is not None:
        with atomic(options.out) as temporary:
            temporary.write_text(overlay_text(found, configs), encoding="utf-8")
    print(summary(found))
    if options.out is not None:
        command = ("snakemake", "--cores", "all", "all", "--configfile", *configs, str(options.out))
        print(f"{options.out}: lay it over: {shlex.join(command)}")


def _print_runs(specs: list, figures: int) -> None:
    """Print one row per run, every number resolved."""
    rows, total = [("run", "batch", "lr", "betas", "eps", "steps", "samples")], 0
    for spec in (spec for spec in specs if isinstance(spec, Trained)):
        h, taken = spec.optimizer, cost.work(spec)[0]
        betas = ", ".join(f"{getattr(h, name):.6g}" for name in ("beta1", "beta2", "beta") if hasattr(h, name))
        total += taken
        size = str(spec.batch_size)
        rows.append((spec.run, size, f"{h.lr:.4g}", betas, f"{h.eps:.3g}", str(spec.steps), str(taken)))
    print(text_table(rows))
    simulated = [(s.run, s.study, str(s.paths), str(s.batches)) for s in specs if not isinstance(s, Trained)]
    if simulated:
        print(text_table([("simulation", "study", "paths", "batches"), *simulated]))
    print(f"{len(rows) - 1} runs, {total:,} training samples, {len(simulated)} simulations, {figures} figures")


def data(options: argparse.Namespace) -> None:
    """Fetch, verify and prepare a data set, unless that is done; print where it is."""
    dataset = dataset_named(options.name)
    folder = prepare(options.name, options.data, options.packed)
    sizes = f"{dataset.train_size:,} training and {dataset.test_size:,} test {dataset.unit}"
    print(f"{folder}: {sizes}, verified; licence: {dataset.licence}")


def run(options: argparse.Namespace) -> None:
    """Run the runs of a job, one after another, and write their table; a checkpoint makes them resumable."""
    document = _json("spec", options.spec)
    warnings.simplefilter("ignore", ScalingWarning)  # the plan has warned
    specs = [spec_of(part) for part in (document if isinstance(document, list) else [document])]
    if not specs or len({(isinstance(spec, Simulation), spec.device, spec.processes) for spec in specs}) > 1:
        raise InputError("spec: must be one spec, or a list of those that share kind, device and processes")
    if twice := [name for name, times in Counter(spec.run for spec in specs).items() if times > 1]:
        raise InputError(f"spec: {twice[0]} is given twice; it would count as two seeds")

    from adasde.experiments.execute import Job

    names = ("out", "checkpoint", "weights", "pretrained", "states", "threads", "overwrite")
    values = {name: getattr(options, name) for name in names}
    job = Job(specs, root=options.data, every=options.checkpoint_every, progress=_progress, **values)
    for result in job.run():
        spec, ended = result.spec, "" if result.diverged is None else f", diverged at time {result.diverged:.4g}"
        amount = f"{spec.batches} batches" if isinstance(spec, Simulation) else f"{result.rows[-1][1]} steps"
        print(f"{spec.run}: {amount} in {result.facts['seconds']:.1f} s{ended}")


def state(options: argparse.Namespace) -> None:
    """Train a run up to a time from which others branch, and write its state."""
    spec = spec_of(_json("spec", options.spec))
    warnings.simplefilter("ignore", ScalingWarning)  # the plan has warned
    if type(spec) is not Training:
        raise InputError(f"spec: {spec.run} is not a training run from new weights, which others can branch from")

    from adasde.experiments.execute import save_state

    names = ("samples", "out", "checkpoint", "before")
    values = {name: getattr(options, name) for name in names}
    save_state(spec, root=options.data, every=options.checkpoint_every, progress=_progress, **values)
    print(f"{options.out}: {spec.run} after {options.samples:,} samples")


def collect(options: argparse.Namespace) -> None:
    """Stack the files of runs into the tidy tables of a scale."""
    from adasde.analysis import tables
    from adasde.experiments.artifacts import other_code, other_code_line

    check_writable("out", options.out, folder=True)
    tables.write(options.out, *tables.collect(options.runs))
    if files := other_code(options.runs):
        print(
            f"adasde: warning: {other_code_line(files)}; `adasde check CONFIG --delete` deletes them", file=sys.stderr
        )


def throughput(options: argparse.Namespace) -> None:
    """Write how many examples per second finished runs took, from which `plan` tells what others will cost."""
    from adasde.experiments.throughput import write_throughput

    check_writable("out", options.out)
    write_throughput(options.runs, options.out)


def figure(options: argparse.Namespace) -> None:
    """Plot one figure, from the tables of a scale or from the files of the runs that it shows."""
    plot_named(options.name)
    for path in options.out:
        _check_picture("out", path)

    from adasde.analysis import tables

    found = tables.collect(options.runs)[:2] if options.runs else tables.both(options.tables)
    reference = options.reference and tables.both(options.reference)
    save_figure(options.name, options.out, *found, reference=reference)


def predict(options: argparse.Namespace) -> None:
    """Predict from finished runs of one cell how far the square-root rule makes larger batches fall behind them."""
    from adasde.analysis.prediction import predict_lags

    found = predict_lags(options.run)
    print(json.dumps(found.document, indent=1) if options.json else found)


def branch(options: argparse.Namespace) -> None:
    """Branch an interrupted run at several batch sizes: does the rule hold there, as its gradient noise forecasts?"""
    from adasde.experiments.branches import branch_checkpoint

    if options.plot is not None:
        _check_picture("plot", options.plot)
    wanted = {name: getattr(options, name) for name in ("kappas", "tolerance", "repeats", "betas", "examples")}
    found = branch_checkpoint(options.checkpoint, options.data, **wanted)
    print(found, flush=True)
    if options.plot is not None:
        with atomic(options.plot) as temporary:
            found.plot().savefig(temporary)


def forecast(options: argparse.Namespace) -> None:
    """Forecast from the runs of a baseline up to which batch size the square-root rule will hold."""
    from adasde.analysis.forecast import make_forecast, write_forecast

    check_writable("out", options.out)
    found = make_forecast(options.runs)
    write_forecast(found, options.out)
    print(found)


def claims(options: argparse.Namespace) -> None:
    """Judge every claim that the tables can speak to, and say in five lines whether the paper replicates."""
    from adasde.analysis.claims import evaluation, report, spreads

    for name in ("out", "readme", "spreads"):
        if (path := getattr(options, name)) is not None:
            check_writable(name, path)
    if options.readme is not None:
        report.parts_around(options.readme)
    if options.spreads is not None:
        spreads.kept(options.spreads, options.tables)
    table = evaluation.evaluate_scale(options.tables)
    if options.out is not None:
        report.write_claims(table, options.out)
    if options.readme is not None:
        report.renew_claims(table, options.readme)
    if options.spreads is not None:
        spreads.write_spreads(options.tables, options.spreads)
    print(report.claims_summary(table))


def report(options: argparse.Namespace) -> None:
    """Write a scale's figures with captions and settings, and its claims, as one HTML file that needs no network."""
    from adasde.analysis.report import write_report

    planned, shown = _planned(options.config)
    options.results = options.results or Path("results", planned.scale)
    options.figures = options.figures or Path("figures", planned.scale)
    options.out = options.out or options.results / "report.html"
    check_apart(options)  # again, now that the folders are known
    check_writable("out", options.out)
    configs = [str(path) for path in options.config]
    write_report(planned, shown, options.results, options.figures, options.out, configs)
    print(options.out)


def compare(options: argparse.Namespace) -> int:
    """Compare the tables of finished runs with the repository's own; exit 1 if a claim has the opposite verdict."""
    from adasde.analysis import comparison

    if options.figures is not None:
        check_writable("figures", options.figures, folder=True)
    reference = options.reference or Path("results/reference", options.tables.resolve().name)
    found = comparison.compare(options.tables, reference)
    print(comparison.summary(found))
    if options.figures:
        for path in comparison.plot(options.tables, reference, options.figures):
            print(path)
    return 1 if found.contradicted else 0


def check(options: argparse.Namespace) -> int:
    """Say for every run of a config whether it is there, whole and of the planned spec; exit 1 if not.

    Files made by different code are named, and count as there: most changes of code change no result.
    """
    from adasde.experiments.inspection import inspect

    planned, _ = _planned(options.config)
    found = inspect(planned, options.results or Path("results", planned.scale))
    if options.delete:
        for path in found.wrong:
            path.unlink()
            print(f"{path}: deleted")
        found = inspect(planned, options.results or Path("results", planned.scale))
    print("\n".join(found.lines))
    return 0 if found.there == found.planned else 1


def _planned(paths: list[Path]) -> tuple[Plan, dict[str, list[str]]]:
    """Return the plan of configs that are merged, and the runs of each figure; warnings go to stderr, once each."""
    config = merged(paths)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScalingWarning)
        planned = planning.plan(config)
        shown = figure_runs(planned)
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"adasde: warning: {note}", file=sys.stderr)
    return planned, shown


def _check_picture(name: str, path: Path) -> None:
    """Raise an InputError, before any work, unless ``path`` can be written and ends in .png or .pdf."""
    if path.suffix not in (".png", ".pdf"):
        raise InputError(f"{name} = {path}: must end in .png or .pdf")
    check_writable(name, path)


def _json(name: str, value: str) -> Any:
    if value.startswith("@"):
        value = read_text(value[1:])
    try:
        return parsed_json(value, name)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: not JSON ({error})") from error


@contextmanager
def _progress(run: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function report(step, steps) that moves a bar on a terminal, and None elsewhere: logs stay quiet."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import console, progress

    columns = (
        "{task.description}",
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True)) as shown:
        bar = shown.add_task(run, total=None)
        yield lambda step, steps: shown.update(bar, completed=step, total=steps)
