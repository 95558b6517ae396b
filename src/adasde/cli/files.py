"""Which files a command reads and writes: none may be both."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adasde.common import InputError

# Options that name files to read, with what these are called; options that name files to write; and the files that are
# meant where an option names a folder.
_READ = {
    "config": "configs", "runs": "runs", "states": "states", "before": "states", "spec": "specs",
    "tables": "tables", "reference": "tables", "results": "results", "figures": "figures",
}  # fmt: skip
_WRITTEN = ("out", "checkpoint", "weights", "readme", "spreads", "plot")
_TABLES = ("trajectories.parquet", "simulations.parquet", "runs.csv")
_INSIDE = {
    "out": _TABLES,
    "tables": (*_TABLES, "forecasts/*.json"),
    "reference": (*_TABLES, "forecasts/*.json"),
    "results": ("runs.csv", "claims.csv"),
    "figures": ("*.png",),
}


def apart(function: Callable) -> Callable:
    """Return a command that first checks, as `check_apart` does, which files it reads and writes."""

    def checked(options: argparse.Namespace) -> int | None:
        check_apart(options)
        return function(options)

    return checked


def check_apart(options: argparse.Namespace) -> None:
    """Raise an InputError if a file to write is one that the command reads, or that another option writes.

    One of the two would be lost.
    """
    given = vars(options)
    taken = {os.path.realpath(path): f"one of the {_READ[name]}" for name in _READ for path in _files(name, given)}
    for name in _WRITTEN:
        files = {os.path.realpath(path): path for path in _files(name, given)}
        for real, path in files.items():
            if real in taken:
                raise InputError(f"{name} = {path}: is {taken[real]}; name another file")
        taken |= dict.fromkeys(files, "also the output" if name == "out" else f"also --{name}")


def _files(name: str, given: dict[str, Any]) -> list[Path]:
    """Files that an option names, and those in a folder that it names.

    A spec may name one as @FILE, and `plan --runs` names none.
    """
    value = given.get(name)
    if isinstance(value, str) and value.startswith("@"):
        return [Path(value[1:])]
    named = [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]
    return [*named, *(file for path in named for inside in _INSIDE.get(name, ()) for file in path.glob(inside))]
