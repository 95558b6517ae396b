"""The command line: the only door from Snakemake, and for people."""

import argparse
import json
import logging
import os
import sys
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from . import __version__, scaling, text
from .errors import InputError


def main(arguments=None) -> int:
    """Run a command; return 0, or 2 after one line on stderr where the input was bad."""
    logging.basicConfig(format="adasde: %(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        options = _parser().parse_args(arguments)
        return options.command(options) or 0
    except InputError as error:
        print(f"adasde: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see `{self.prog} --help`)")


def _parser():
    parser = _Parser(prog="adasde", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(function, name, help_):
        sub = commands.add_parser(name, help=help_, description=function.__doc__.replace("``", ""))
        sub.set_defaults(command=function)
        return sub

    scale = command(_scale, "scale", "hyperparameters for another batch size")
    kinds = scale.add_subparsers(required=True, metavar="OPTIMIZER", parser_class=_Parser)
    for kind, betas in (("adam", ("beta1", "beta2")), ("rmsprop", ("beta",))):
        sub = kinds.add_parser(kind, help=f"{kind}'s hyperparameters", description=scale.description)
        sub.set_defaults(optimizer=kind, betas=betas)
        for name in ("lr", *betas, "eps"):
            sub.add_argument(f"--{name}", type=float, required=True)
        sub.add_argument("--batch-size", type=int, required=True, help="batch size of these hyperparameters")
        sub.add_argument("--to", type=int, required=True, help="batch size wanted")
        sub.add_argument("--rule", default="sqrt", help=f"one of {', '.join(scaling.RULES)} (default sqrt)")
        sub.add_argument("--weight-decay", type=float, default=0.0)
        if kind == "adam":
            sub.add_argument("--decoupled", action="store_true", help="the decay is AdamW's")
        sub.add_argument("--steps", type=int, help="optimizer steps of the whole training")
        sub.add_argument("--warmup-steps", type=int, default=0)
        sub.add_argument("--clip", type=float, help="largest gradient norm")
        sub.add_argument("--average", type=float, help="decay of a moving average of the weights")
        sub.add_argument("--json", action="store_true")

    sub = command(_plan, "plan", "the runs that a config asks for")
    sub.add_argument("config", type=Path)
    sub.add_argument("--json", action="store_true", help="one JSON array of specs")

    sub = command(_data, "data", "fetch, verify and prepare a data set")
    sub.add_argument("name")
    _data_option(sub)

    sub = command(_run, "run", "train one run")
    sub.add_argument("--spec", required=True, help="spec as JSON, or @FILE")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")
    sub.add_argument("--checkpoint", type=Path, help="file to resume from and to save to")
    sub.add_argument("--checkpoint-every", type=float, default=10.0, metavar="SECONDS")
    sub.add_argument("--threads", type=int, default=1)
    _data_option(sub)

    sub = command(_collect, "collect", "stack run files into the tidy tables")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")

    sub = command(_figure, "figure", "draw one figure")
    sub.add_argument("name")
    sub.add_argument("--tables", type=Path, required=True, metavar="FOLDER")
    sub.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="PNG or PDF files")

    sub = command(_claims, "claims", "judge the claims and print them with their verdicts")
    sub.add_argument("tables", type=Path, metavar="FOLDER", help="folder of the tables, such as results/mini")
    sub.add_argument("--out", type=Path, metavar="FILE", help="also write them as CSV")
    sub.add_argument("--readme", type=Path, metavar="FILE", help="also put them between the marks of a Markdown file")

    sub = command(_check, "check", "whether every run of a config is there, whole and as planned")
    sub.add_argument("config", type=Path)
    sub.add_argument("--results", type=Path, metavar="FOLDER", help="default results/SCALE")
    return parser


def _data_option(sub):
    default = os.environ.get("ADASDE_DATA", Path("~/.cache/adasde").expanduser())
    sub.add_argument("--data", type=Path, default=default, metavar="FOLDER", help="where data sets are kept")


def _scale(options):
    """Print what becomes of a recipe when the batch size changes, by the square-root rule or another."""
    kind = {"adam": scaling.Adam, "rmsprop": scaling.RMSprop}[options.optimizer]
    values = {name: getattr(options, name) for name in ("lr", *options.betas, "eps", "weight_decay")}
    if kind is scaling.Adam:
        values["decoupled"] = options.decoupled
    rest = {name: getattr(options, name) for name in ("steps", "warmup_steps", "clip", "average")}
    old = scaling.Recipe(kind(**values), options.batch_size, **rest)
    if options.to < 1:
        raise InputError(f"to = {options.to}: must be a whole number >= 1")
    kappa = options.to / options.batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", scaling.ScalingWarning)
        new = old.scaled(kappa, options.rule)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    before, after = _parts(old), _parts(new)
    if options.json:
        facts = {"optimizer": options.optimizer, "rule": options.rule, "kappa": kappa}
        print(json.dumps({**facts, **after, "warnings": notes}, indent=1))
        return
    print(f"{options.optimizer}, rule {options.rule}, kappa = {kappa:.6g}")
    rows = [("", "old", "new", "formula")]
    for part in (part for part in before if part != "decoupled"):
        words = scaling.formula(part, options.rule, options.optimizer == "adam" and options.decoupled)
        rows.append((part, f"{before[part]:.6g}", f"{after[part]:.6g}", words))
    print(text.table(rows))
    if old.steps is None:
        print("steps, warm-up and schedule: divide by kappa wherever they are counted in steps (unchanged in epochs)")
    for note in notes:
        print(f"warning: {note}")


def _parts(recipe):
    """A recipe as one flat dictionary, without what it does not use."""
    parts = {"batch_size": recipe.batch_size, **asdict(recipe.hyperparameters)}
    rest = {name: getattr(recipe, name) for name in ("steps", "warmup_steps", "clip", "average")}
    return parts | {name: value for name, value in rest.items() if value}


def _plan(options):
    """Print one row per run of a config, every number resolved, without running anything."""
    plan = _planned(options.config)
    if options.json:
        print(json.dumps(list(plan.runs.values()), indent=1))
        return
    rows = [("run", "batch", "lr", "betas", "eps", "steps", "samples")]
    for run, spec in plan.runs.items():
        h, size = spec["optimizer"], spec["batch_size"]
        betas = ", ".join(f"{h[name]:.6g}" for name in ("beta1", "beta2", "beta") if name in h)
        steps, samples = spec["samples"] // size, spec["samples"]
        rows.append((run, str(size), f"{h['lr']:.4g}", betas, f"{h['eps']:.3g}", str(steps), str(samples)))
    print(text.table(rows))
    total = sum(spec["samples"] for spec in plan.runs.values())
    print(f"{len(plan.runs)} runs, {total:,} training samples, {len(plan.figures)} figures")


def _data(options):
    """Fetch, verify and prepare a data set, unless that is done; print where it is."""
    from . import data

    dataset = data.dataset_named(options.name)
    folder = data.prepare(options.name, options.data)
    sizes = f"{dataset.train_size:,} training and {dataset.test_size:,} test examples"
    print(f"{folder}: {sizes}, verified; licence: {dataset.licence}")


def _run(options):
    """Train one run and write its table; a checkpoint makes it resumable."""
    from . import plan

    spec = _json("spec", options.spec)
    plan.validate(spec, "run")
    if options.threads < 1:
        raise InputError(f"threads = {options.threads}: must be a whole number >= 1")

    import torch

    from . import optim, store, tasks
    from .train import keep_memory, train

    keep_memory()
    optim.skip_compiler()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # the averages of inactive units decay into numbers that are slow to add
    task = tasks.load(spec["task"], options.data)
    with _progress(spec["run"]) as report:
        rows, facts = train(spec, task, options.checkpoint, options.checkpoint_every, report)
    store.write_run(options.out, rows, spec, **facts, **store.provenance())
    if options.checkpoint is not None:
        options.checkpoint.unlink(missing_ok=True)
    ended = next((f", diverged at time {r[2]:.4g}" for r in rows if r[3] == "diverged"), "")
    print(f"{spec['run']}: {rows[-1][1]} steps in {facts['seconds']:.1f} s{ended}")


def _collect(options):
    """Stack run files into trajectories.parquet and runs.csv."""
    from . import tables

    tables.write(options.out, *tables.collect(options.runs))


def _figure(options):
    """Draw one figure from the tables of a scale."""
    from . import plots, tables

    plots.plot_named(options.name)
    for path in options.out:
        if path.suffix not in (".png", ".pdf"):
            raise InputError(f"out = {path}: must end in .png or .pdf")
    figure = plots.draw(options.name, tables.read(options.tables))
    from .plots import style

    style.save(figure, options.out)


def _claims(options):
    """Judge every claim that the tables can speak to; print and, if asked, write the verdicts."""
    from . import claims, tables

    table = claims.evaluate(tables.read(options.tables))
    if options.out is not None:
        claims.write(table, options.out)
    if options.readme is not None:
        claims.renew(table, options.readme)
    print(claims.summary(table))


def _check(options):
    """Say for every run of a config whether its table is there, whole and of the planned spec; exit 1 if not."""
    from . import store

    plan = _planned(options.config)
    results = options.results or Path("results", plan.scale)
    problems = 0
    for run, spec in plan.runs.items():
        path = results / "runs" / f"{run}.parquet"
        try:
            _, metadata = store.read_run(path)
            problem = None if metadata["spec"] == spec else f"{path}: made from another spec"
        except InputError as error:
            problem = str(error)
        if problem:
            problems += 1
            print(problem)
    print(f"{len(plan.runs) - problems} of {len(plan.runs)} runs are there, whole and as planned")
    return 1 if problems else 0


def _planned(path):
    """Plan of the config file at ``path``; warnings of the rules go to stderr, once each."""
    import yaml

    from .plan import plan

    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        raise InputError(f"{path}: not YAML" + (f" (line {place.line + 1})" if place else "")) from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", scaling.ScalingWarning)
        planned = plan(config)
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"adasde: warning: {note}", file=sys.stderr)
    return planned


def _json(name, value):
    if value.startswith("@"):
        try:
            value = Path(value[1:]).read_text()
        except OSError as error:
            raise InputError(f"{name} = {value}: {error.strerror}") from error
    try:
        return json.loads(value)
    except ValueError as error:
        raise InputError(f"{name}: not JSON ({error})") from error


@contextmanager
def _progress(run):
    """A function report(step, steps) that moves a bar on a terminal, and None elsewhere: logs stay quiet."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(run, total=None)
        yield lambda step, steps: progress.update(bar, completed=step, total=steps)
