"""The arguments of every command."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from adasde import __version__
from adasde.cli import commands
from adasde.cli.files import apart
from adasde.scaling.command import Parser, count, scale, scale_arguments

DESCRIPTION = "Change the batch size of Adam or RMSprop; plan, run and judge the paper's experiments."
_CACHE = "~/.cache/adasde"  # where data sets are kept unless another place is named or is there
_Command = Callable[[Callable, str, str], argparse.ArgumentParser]  # adds a command: its function, name and help


def parser_of_commands() -> Parser:
    """Return the parser of every command, whose function it gives as ``command``."""
    parser = Parser(prog="adasde", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    entries = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(function: Callable, name: str, help_: str) -> argparse.ArgumentParser:
        sub = entries.add_parser(name, help=help_, description=(function.__doc__ or "").replace("``", ""))
        sub.set_defaults(command=apart(function))
        return sub

    _add_planning(command)
    _add_running(command)
    _add_reading(command)
    return parser


def _add_planning(command: _Command) -> None:
    """Add the commands that need no finished run."""
    scale_arguments(command(scale, "scale", "hyperparameters for another batch size"))

    sub = command(commands.plan, "plan", "what a config would cost, and the runs that it asks for")
    _config_argument(sub)
    sub.add_argument("--figure", metavar="NAME", help="only what this figure needs")
    sub.add_argument("--device", metavar="NAME", help="train on this device instead: h100, h200, a100 or cpu-core")
    sub.add_argument("--gpus", type=count, metavar="N", help="GPUs, or cores, at once (default 1, 8 and 64)")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--runs", action="store_true", help="one row per run, every number resolved")
    form.add_argument("--json", action="store_true", help="one JSON array of specs")
    form.add_argument("--budget", metavar="HOURS", help="what to keep within it, such as 100gpuh (of GPUs) or 5h")
    sub.add_argument("--out", type=Path, metavar="FILE", help="with --budget: config to write, to lay over the others")

    sub = command(commands.data, "data", "fetch, verify and prepare a data set")
    sub.add_argument("name", metavar="NAME", help="fashion-mnist, cifar-10, wiki-mini, ...; a wrong name lists all")
    sub.add_argument("--packed", action="store_true", help="also pack its files into one (imagenet)")
    _data_option(sub)


def _add_running(command: _Command) -> None:
    """Add the commands that make files of runs, and tables of these."""
    sub = command(commands.run, "run", "train or simulate the runs of one job")
    sub.add_argument("--spec", required=True, help="spec, or list of specs, as JSON, or @FILE")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")
    sub.add_argument("--checkpoint", type=Path, help="file to resume from and to save to")
    sub.add_argument("--checkpoint-every", type=float, default=10.0, metavar="SECONDS", help="default 10")
    sub.add_argument("--weights", type=Path, metavar="FOLDER", help="also write final weights, as RUN.safetensors")
    sub.add_argument(
        "--pretrained", type=Path, nargs="+", default=(), metavar="FOLDER", help="where the parents' weights are"
    )
    sub.add_argument(
        "--states", type=Path, nargs="+", default=(), metavar="FILE", help="state files that the runs start from"
    )
    sub.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch per process (default 1)")
    sub.add_argument("--overwrite", action="store_true", help="the output may hold runs of other specs")
    _data_option(sub)

    sub = command(commands.state, "state", "train a run up to a branch point, and keep its state")
    sub.add_argument("--spec", required=True, help="the run's spec, as JSON, or @FILE")
    sub.add_argument("--samples", type=count, required=True, metavar="N", help="samples that it has seen by then")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE")
    sub.add_argument("--before", type=Path, metavar="FILE", help="an earlier state of the run, to go on from")
    sub.add_argument("--checkpoint", type=Path, help="file to resume from and to save to")
    sub.add_argument("--checkpoint-every", type=float, default=10.0, metavar="SECONDS", help="default 10")
    _data_option(sub)

    sub = command(commands.collect, "collect", "stack run files into the tidy tables")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")

    sub = command(commands.throughput, "throughput", "how fast finished runs were, for `adasde plan`")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV to write, or to renew")


def _add_reading(command: _Command) -> None:
    """Add the commands that read what is finished."""
    sub = command(commands.figure, "figure", "plot one figure")
    sub.add_argument("name", metavar="NAME", help="such as map or scaling-cnn-adam")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--tables", type=_folder, metavar="FOLDER")
    source.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help="files of the runs that it shows")
    sub.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="PNG or PDF files")
    sub.add_argument("--reference", type=_folder, metavar="FOLDER", help="tables of other runs, plotted behind in grey")

    sub = command(commands.predict, "predict", "print how far larger batches would fall behind finished runs")
    sub.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="file of finished runs, such as results/mini/runs/cnn-adam.baseline.parquet",
    )
    sub.add_argument("--json", action="store_true")

    sub = command(commands.branch, "branch", "try larger batches from the state of an interrupted run")
    sub.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="such as results/mini/runs/NAME.parquet.HASH.checkpoint"
    )
    sub.add_argument("--kappas", type=float, nargs="+", default=(2, 4, 8, 16), metavar="KAPPA", help="default 2 4 8 16")
    sub.add_argument("--tolerance", type=float, default=0.01, metavar="NATS", help="largest gap in loss (default 0.01)")
    sub.add_argument("--repeats", type=count, default=3, metavar="N", help="orders of the examples (default 3)")
    sub.add_argument("--betas", default="linear", help="linear (default) or half-life")
    sub.add_argument(
        "--examples", type=count, metavar="N", help="most per branch (default: the number that the run has seen)"
    )
    sub.add_argument("--plot", type=Path, metavar="FILE", help="also plot the gaps, as PNG or PDF")
    _data_option(sub)

    sub = command(
        commands.forecast, "forecast", "write the forecast that claims and figures use, from the runs of a baseline"
    )
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="files of the baseline's runs")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")

    sub = command(commands.claims, "claims", "judge the claims and print them with their verdicts")
    sub.add_argument("tables", type=_folder, metavar="FOLDER", help="folder of the tables, such as results/mini")
    sub.add_argument("--out", type=Path, metavar="FILE", help="also write them as CSV")
    sub.add_argument("--readme", type=Path, metavar="FILE", help="also put them between the marks of a Markdown file")
    sub.add_argument(
        "--spreads", type=Path, metavar="FILE", help="also renew a CSV of how much gaps differ between seeds"
    )

    sub = command(commands.report, "report", "figures and claims of a scale as one HTML file")
    _config_argument(sub)
    sub.add_argument("--results", type=_folder, metavar="FOLDER", help="default results/SCALE")
    sub.add_argument("--figures", type=_folder, metavar="FOLDER", help="default figures/SCALE")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default results/SCALE/report.html")

    sub = command(commands.compare, "compare", "did it reproduce here? Your tables against the repository's")
    sub.add_argument("tables", type=_folder, nargs="?", default=Path("results/mini"), metavar="FOLDER", help="yours")
    sub.add_argument("--reference", type=_folder, metavar="FOLDER", help="default results/reference/SCALE")
    sub.add_argument("--figures", type=Path, metavar="FOLDER", help="plot every figure with the reference behind")

    sub = command(commands.check, "check", "whether every run of a config is there, whole and as planned")
    _config_argument(sub)
    sub.add_argument("--results", type=_folder, metavar="FOLDER", help="default results/SCALE")
    sub.add_argument(
        "--delete", action="store_true", help="delete what is damaged, not as planned or made by different code"
    )


def _config_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", type=Path, nargs="+", help="YAML file; of several the later ones change the first")


def _data_option(sub: argparse.ArgumentParser) -> None:
    here = "results/data"
    default = os.environ.get("ADASDE_DATA") or (here if Path(here).exists() else _CACHE)
    sub.add_argument(
        "--data",
        type=_data_folder,  # argparse calls it on the default only where the option is not given
        default=default,
        metavar="FOLDER",
        help="where data sets are kept (default %(default)s)",
    )


def _folder(value: str | Path) -> Path:
    path = Path(value)
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{value}: is a file; name a folder")
    return path


def _data_folder(value: str) -> Path:
    try:
        return _folder(Path(value).expanduser())
    except RuntimeError as error:  # no HOME, and no entry in the list of users
        mend = "give --data or ADASDE_DATA" if value == _CACHE else "write the whole path"
        raise argparse.ArgumentTypeError(f"{value}: there is no home folder; {mend}") from error
