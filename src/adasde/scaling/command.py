"""The command `adasde scale`, and what all commands share: the parser, and one line in place of a traceback.

It needs no package that the core does without, and no torch.
"""

import argparse
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from adasde.common import InputError, Stopped, atomic, check_writable, not_installed, one_line, short
from adasde.scaling import recipe
from adasde.scaling.recipe_files import SHARES, read_recipe
from adasde.scaling.recipe_formats import FORMATS
from adasde.scaling.rules import RULES, ScalingWarning


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `InputError`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for action in (None, "store"):
            self.register("action", action, _Once)
        # argparse takes -1e-3 and -1h for options.
        self._negative_number_matcher = re.compile(r"-[\d.]+([eE][-+]?\d+|h|gpuh)?$")

    def error(self, message: str) -> NoReturn:
        """Raise an InputError with the message."""
        raise InputError(f"{message} (see `{self.prog} --help`)")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print, with an error where that fails, which argparse hides."""
        print(message, end="", file=file or sys.stderr, flush=True)


class _Once(argparse.Action):
    """Store a value. An option that is given twice is refused: argparse would ignore the first of the two."""

    given = False

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if self.given:
            raise argparse.ArgumentError(self, "given twice")
        self.given = True
        setattr(namespace, self.dest, values)


def count(value: str, least: int = 1) -> int:
    """Return a whole number from ``least`` to 10^15 that is given as an argument."""
    if not (value.isdecimal() and len(value) <= 16 and least <= int(value) <= 10**15):
        raise argparse.ArgumentTypeError(f"{short(value)} is not a whole number from {least} to 10^15")
    return int(value)


def run_command(parser: Callable[[], argparse.ArgumentParser], arguments: Sequence[str] | None) -> int:
    """Run the command that ``parser()`` finds in ``arguments``, by default those of the process.

    Returns 0 or the command's own status, or another one after one line on stderr that says what is wrong.
    """
    try:
        with _output():
            _check_text(sys.argv[1:] if arguments is None else arguments)
            options = parser().parse_args(arguments)
            return options.command(options) or 0
    except InputError as error:
        return fail(str(error), 2)
    except Stopped as error:
        return fail(f"{error}; a run with a checkpoint goes on from there", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return fail("interrupted; a run with a checkpoint goes on from there", 130)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        return 0
    except ModuleNotFoundError as error:  # an extra is missing
        return fail(not_installed(error), 2)
    except OSError as error:
        place = "working directory" if isinstance(error, FileNotFoundError) else "output"  # it has been deleted
        return fail(f"{error.filename or place}: {error.strerror}", 2)


def _check_text(arguments: Sequence[str]) -> None:
    """Raise an InputError for an argument that is not UTF-8, which could be neither printed nor given to pyarrow.

    Nor can one that Python has read in another encoding, which the locale asks for.
    """
    encoding = sys.getfilesystemencoding()
    what_to_do = "UTF-8; rename the file" if encoding == "utf-8" else f"{encoding}, the locale's; set PYTHONUTF8=1"
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise InputError(f"{argument!a}: is not {what_to_do}")


def fail(message: str, status: int) -> int:
    """Print an error in one line, and return ``status``."""
    if sys.stderr is not None:  # print would write to stdout
        with suppress(OSError):
            print(f"adasde: error: {one_line(message)}", file=sys.stderr)
    return status


@contextmanager
def _output() -> Iterator[None]:
    """Write out what is printed, with an error where that fails; what is printed to a closed output is discarded.

    Letters that the output's encoding lacks are escaped, as they are in errors.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115, as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # Python would try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def scale(options: argparse.Namespace) -> None:
    """Print what becomes of a recipe when the batch size changes, by the square-root rule or another."""
    file = None
    if options.optimizer == "recipe":
        _check_write(options.write, options.by)
        file = read_recipe(options.file, options.format, options.devices)
        old, name, whose, assumed = file.recipe, file.optimizer, file.whose, file.assumed
    else:
        name, whose = options.optimizer, "torch's"
        old, assumed = recipe.recipe_of(name, {part: getattr(options, part) for part in options.parts})
    kappa = options.to / old.batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScalingWarning)
        new = old.scaled(kappa, options.rule, options.betas)
    notes = list(dict.fromkeys([*(file.notes if file else ()), *(str(warning.message) for warning in caught)]))
    if options.rule == "invariant":
        notes.append(f"rule invariant is for adasde.InvariantAdam with micro_batches={kappa:g}, each of the old batch")
    if file and options.write is not None:
        text = file.written(new, options.by or SHARES[0])
        with atomic(options.write) as temporary:
            temporary.write_text(text, newline="", encoding="utf-8")
    if options.json:
        facts = {"optimizer": name, "rule": options.rule, "betas": options.betas, "kappa": kappa}
        facts |= {"format": file.title, "batch": file.batch} if file else {}
        print(json.dumps({**facts, **new.parts(), "assumed": assumed, "warnings": notes}, indent=1))
        return
    if file:
        print(f"{file.title}: batch {file.batch}")
    betas = "" if options.betas == "linear" else f", betas {options.betas}"
    print(f"{name}, rule {options.rule}{betas}, kappa = {kappa:.6g}")
    print(recipe.comparison(old, new, options.rule, options.betas))
    if assumed:
        print(f"not given: {recipe.assumption(assumed, whose)}")
    if file is None and old.steps is None:
        print("steps, warm-up and schedule: divide by kappa wherever they are counted in steps (unchanged in epochs)")
    for note in notes:
        print(f"warning: {note}")
    if options.write is not None:
        print(f"written to {options.write}")


def _check_write(path: Path | None, by: str | None) -> None:
    """Raise an InputError for a file that is there or cannot be written, and for ``by`` where none is to be written."""
    if path is None and by is not None:
        raise InputError(f"by = {by}: goes with --write only, whose batch it is about")
    if path is not None and path.exists():
        raise InputError(f"write = {path}: exists already; name a new file")
    if path is not None:
        check_writable("write", path)


def scale_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `scale` to its parser."""
    kinds = parser.add_subparsers(required=True, metavar="OPTIMIZER", parser_class=Parser)
    for kind, defaults in recipe.TORCH_DEFAULTS.items():
        sub = kinds.add_parser(kind, help=f"{kind}'s hyperparameters", description=parser.description)
        rest = ["batch_size", "steps", "warmup_steps", "clip", "average"]
        for part, value in defaults.items():
            sub.add_argument(f"--{part.replace('_', '-')}", type=float, help=f"default {value:g}, torch's")
        if kind in ("adam", "nadam"):
            rest.append("decoupled")
            sub.add_argument("--decoupled", action="store_true", help="the decay is AdamW's")
        sub.set_defaults(optimizer=kind, parts=(*defaults, *rest), write=None)
        sub.add_argument("--batch-size", type=count, required=True, help="batch size of these hyperparameters")
        sub.add_argument("--steps", type=count, help="optimizer steps of the whole training")
        sub.add_argument("--warmup-steps", type=partial(count, least=0), default=0, help="warm-up steps (default 0)")
        sub.add_argument("--clip", type=float, help="largest gradient norm")
        sub.add_argument("--average", type=float, help="decay of a moving average of the weights")
    sub = kinds.add_parser("recipe", help="a file with a whole recipe", description=parser.description)
    sub.set_defaults(optimizer="recipe")
    sub.add_argument("file", type=Path, help=f"YAML or JSON with the keys of {', '.join(FORMATS)}")
    sub.add_argument("--format", metavar="NAME", help="which of these it is; told by its keys if not given")
    sub.add_argument("--devices", type=count, metavar="N", help="devices that share the batch (default 1)")
    sub.add_argument("--write", type=Path, metavar="FILE", help="also write the recipe, in the same format")
    sub.add_argument("--by", choices=SHARES, help=f"what takes up the batch there (default {SHARES[0]})")
    for sub in kinds.choices.values():
        sub.add_argument("--to", type=count, required=True, help="batch size wanted")
        sub.add_argument("--rule", default="sqrt", help=f"one of {', '.join(RULES)} (default sqrt)")
        sub.add_argument(
            "--betas", default="linear", help="linear, 1 - kappa (1 - beta) (default), or half-life, beta^kappa"
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
