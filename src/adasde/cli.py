"""The command line: the only door from Snakemake, and for people."""

import argparse
import logging
import os
import re
import signal
import sys
from pathlib import Path

from adasde import __version__, commands
from adasde.common import InputError, Stopped
from adasde.scaling.rules import RULES


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
    except Stopped as error:
        return _fail(f"{error}; a run with a checkpoint goes on from there", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail("interrupted; a run with a checkpoint goes on from there", 130)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:  # without the extras there is the library alone
        return _fail(f"{error.name}: is not installed; it comes with adasde[vision,language,workflow]", 2)
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
    entries = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(function, name, help_):
        sub = entries.add_parser(name, help=help_, description=function.__doc__.replace("``", ""))
        sub.set_defaults(command=function)
        return sub

    scale = command(commands.scale, "scale", "hyperparameters for another batch size")
    kinds = scale.add_subparsers(required=True, metavar="OPTIMIZER", parser_class=_Parser)
    for kind, betas in (("adam", ("beta1", "beta2")), ("rmsprop", ("beta",))):
        sub = kinds.add_parser(kind, help=f"{kind}'s hyperparameters", description=scale.description)
        sub.set_defaults(optimizer=kind, betas=betas)
        for name in ("lr", *betas, "eps"):
            sub.add_argument(f"--{name}", type=float, required=True)
        sub.add_argument("--batch-size", type=_count, required=True, help="batch size of these hyperparameters")
        sub.add_argument("--to", type=_count, required=True, help="batch size wanted")
        sub.add_argument("--rule", default="sqrt", help=f"one of {', '.join(RULES)} (default sqrt)")
        sub.add_argument("--weight-decay", type=float, default=0.0)
        if kind == "adam":
            sub.add_argument("--decoupled", action="store_true", help="the decay is AdamW's")
        sub.add_argument("--steps", type=_count, help="optimizer steps of the whole training")
        sub.add_argument("--warmup-steps", type=_count, default=0)
        sub.add_argument("--clip", type=float, help="largest gradient norm")
        sub.add_argument("--average", type=float, help="decay of a moving average of the weights")
        sub.add_argument("--json", action="store_true")

    sub = kinds.add_parser("recipe", help="a file with a whole recipe", description=scale.description)
    sub.set_defaults(optimizer="recipe")
    sub.add_argument("file", type=Path, help="YAML or JSON: optimizer, its hyperparameters, batch_size, steps, ...")
    sub.add_argument("--to", type=_count, required=True, help="batch size wanted")
    sub.add_argument("--rule", default="sqrt", help=f"one of {', '.join(RULES)} (default sqrt)")
    sub.add_argument("--json", action="store_true")

    sub = command(commands.plan, "plan", "what a config would cost, and the runs that it asks for")
    _config_argument(sub)
    sub.add_argument("--figure", metavar="NAME", help="only what this figure needs")
    sub.add_argument("--device", metavar="NAME", help="train on this device instead: h100, h200, a100 or cpu-core")
    sub.add_argument("--gpus", type=_count, metavar="N", help="GPUs, or cores, at once (default 1, 8 and 64)")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--runs", action="store_true", help="one row per run, every number resolved")
    form.add_argument("--json", action="store_true", help="one JSON array of specs")

    sub = command(commands.data, "data", "fetch, verify and prepare a data set")
    sub.add_argument("name")
    sub.add_argument("--packed", action="store_true", help="also pack its files into one (imagenet)")
    _data_option(sub)

    sub = command(commands.run, "run", "train one run")
    sub.add_argument("--spec", required=True, help="spec as JSON, or @FILE")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")
    sub.add_argument("--checkpoint", type=Path, help="file to resume from and to save to")
    sub.add_argument("--checkpoint-every", type=float, default=10.0, metavar="SECONDS")
    sub.add_argument("--weights", type=Path, metavar="FILE", help="also write the final weights, as safetensors")
    sub.add_argument("--pretrained", type=Path, metavar="FILE", help="weights to start from, of the spec's parent")
    sub.add_argument("--threads", type=int, default=1)
    _data_option(sub)

    sub = command(commands.collect, "collect", "stack run files into the tidy tables")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")

    sub = command(commands.throughput, "throughput", "how fast finished runs were, for the costs of others")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV to write, or to renew")

    sub = command(commands.figure, "figure", "draw one figure")
    sub.add_argument("name")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--tables", type=Path, metavar="FOLDER")
    source.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help="files of the runs that it shows")
    sub.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="PNG or PDF files")
    sub.add_argument("--reference", type=Path, metavar="FOLDER", help="tables of other runs, drawn behind in grey")

    sub = command(commands.predict, "predict", "how far larger batches would fall behind a finished run")
    sub.add_argument(
        "run", type=Path, metavar="RUN", help="file of a finished run, such as results/mini/runs/*.parquet"
    )
    sub.add_argument("--json", action="store_true")

    sub = command(commands.claims, "claims", "judge the claims and print them with their verdicts")
    sub.add_argument("tables", type=Path, metavar="FOLDER", help="folder of the tables, such as results/mini")
    sub.add_argument("--out", type=Path, metavar="FILE", help="also write them as CSV")
    sub.add_argument("--readme", type=Path, metavar="FILE", help="also put them between the marks of a Markdown file")

    sub = command(commands.compare, "compare", "did it reproduce here? Your tables against the repository's")
    sub.add_argument("tables", type=Path, nargs="?", default=Path("results/mini"), metavar="FOLDER", help="yours")
    sub.add_argument("--reference", type=Path, metavar="FOLDER", help="default results/reference/SCALE")
    sub.add_argument("--figures", type=Path, metavar="FOLDER", help="draw every figure with the reference behind")

    sub = command(commands.check, "check", "whether every run of a config is there, whole and as planned")
    _config_argument(sub)
    sub.add_argument("--results", type=Path, metavar="FOLDER", help="default results/SCALE")
    return parser


def _config_argument(sub):
    sub.add_argument("config", type=Path, nargs="+", help="YAML file; of several the later ones change the first")


def _data_option(sub):
    here = Path("results/data")
    default = os.environ.get("ADASDE_DATA") or (here if here.exists() else Path("~/.cache/adasde").expanduser())
    sub.add_argument(
        "--data", type=Path, default=default, metavar="FOLDER", help=f"where data sets are kept (default {default})"
    )
