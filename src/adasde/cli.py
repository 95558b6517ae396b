"""The command line: the only door from Snakemake, and for people."""

import argparse
import json
import logging
import os
import re
import sys
import warnings
from pathlib import Path

from . import __version__, recipe, scaling, terminal
from .errors import InputError


def main(arguments=None) -> int:
    """Run a command; return 0, or 2 after one line on stderr where the input was bad or a file could not be used."""
    logging.basicConfig(format="adasde: %(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        options = _parser().parse_args(arguments)
        status = options.command(options) or 0
        sys.stdout.flush()
        return status
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; a run with a checkpoint goes on from there", 130)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror}", 2)


def _fail(message, status):
    print(f"adasde: error: {message}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-[\d.]+([eE][-+]?\d+)?$")  # argparse takes -1e-3 for an option

    def error(self, message):
        raise InputError(f"{message} (see `{self.prog} --help`)")


def _count(value):
    if not (value.isdigit() and 1 <= int(value) <= 10**15):
        raise argparse.ArgumentTypeError(f"{value!r} is no whole number from 1 to 10^15")
    return int(value)


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
        sub.add_argument("--batch-size", type=_count, required=True, help="batch size of these hyperparameters")
        sub.add_argument("--to", type=_count, required=True, help="batch size wanted")
        sub.add_argument("--rule", default="sqrt", help=f"one of {', '.join(scaling.RULES)} (default sqrt)")
        sub.add_argument("--weight-decay", type=float, default=0.0)
        if kind == "adam":
            sub.add_argument("--decoupled", action="store_true", help="the decay is AdamW's")
        sub.add_argument("--steps", type=_count, help="optimizer steps of the whole training")
        sub.add_argument("--warmup-steps", type=_count, default=0)
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
    here = Path("results/data")
    default = os.environ.get("ADASDE_DATA") or (here if here.exists() else Path("~/.cache/adasde").expanduser())
    sub.add_argument(
        "--data", type=Path, default=default, metavar="FOLDER", help=f"where data sets are kept (default {default})"
    )


def _scale(options):
    """Print what becomes of a recipe when the batch size changes, by the square-root rule or another."""
    values = {name: getattr(options, name) for name in ("lr", *options.betas, "eps", "weight_decay")}
    if options.optimizer == "adam":
        values["decoupled"] = options.decoupled
    rest = {name: getattr(options, name) for name in ("steps", "warmup_steps", "clip", "average")}
    old = recipe.Recipe(scaling.optimizer(options.optimizer, **values), options.batch_size, **rest)
    kappa = options.to / options.batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", scaling.ScalingWarning)
        new = old.scaled(kappa, options.rule)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if options.json:
        facts = {"optimizer": options.optimizer, "rule": options.rule, "kappa": kappa}
        print(json.dumps({**facts, **new.parts(), "warnings": notes}, indent=1))
        return
    print(f"{options.optimizer}, rule {options.rule}, kappa = {kappa:.6g}")
    print(recipe.comparison(old, new, options.rule))
    if old.steps is None:
        print("steps, warm-up and schedule: divide by kappa wherever they are counted in steps (unchanged in epochs)")
    for note in notes:
        print(f"warning: {note}")


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
    print(terminal.table(rows))
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
    from . import plan, store

    spec = _json("spec", options.spec)
    plan.check(spec)
    if not 1 <= options.threads <= (os.cpu_count() or 1):
        raise InputError(f"threads = {options.threads}: this machine has 1 to {os.cpu_count()}")
    if not options.checkpoint_every >= 0:
        raise InputError(f"checkpoint-every = {options.checkpoint_every:g}: must be a number of seconds >= 0")
    store.check_writable("out", options.out)
    if options.checkpoint is not None:
        store.check_writable("checkpoint", options.checkpoint)
        if options.checkpoint.resolve() == options.out.resolve():
            raise InputError(f"checkpoint = {options.checkpoint}: is also the output; name another file")
    if options.out.exists() and store.read_run(options.out)[1]["spec"] != spec:
        raise InputError(f"out = {options.out}: holds the run of another spec; delete it, or name another file")

    import torch

    from . import optim, tasks
    from .train import keep_memory, train

    keep_memory()
    optim.skip_compiler()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # the averages of inactive units decay into numbers that are slow to add
    task = tasks.load(spec["task"], options.data)
    with terminal.progress(spec["run"]) as report:
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
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
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
        value = Path(value[1:]).read_text(errors="replace")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not JSON ({error})") from error
