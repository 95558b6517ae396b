"""What people see on a terminal: tables, and a bar for long work."""

import fcntl
import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


def text_table(rows) -> str:
    """Return rows of strings in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


class InputError(ValueError):
    """Bad input, said in one line: the field, its value, what is allowed.

    The command line prints the message alone and exits with status 2.
    """


class Stopped(Exception):  # noqa: N818, since it is no error
    """A run that was asked to stop, as by SIGTERM, and has been saved."""


def positive(name, value):
    """Return ``value`` if it is a finite number above 0; otherwise an InputError that names it."""
    number = isinstance(value, int | float) or hasattr(value, "__float__") and not isinstance(value, str)
    if not (number and math.isfinite(value) and value > 0):
        shown = f"{float(value):g}" if number else repr(value)
        raise InputError(f"{name} = {shown}: must be a finite number > 0")
    return value


def whole(name, value, least):
    """Return ``value`` if it is a whole number of at least ``least``; otherwise an InputError that names it."""
    if value != int(value) or value < least:
        raise InputError(f"{name} = {value:g}: must be a whole number >= {least}")
    return value


_held = []  # open lock files: closed ones let go of their locks


@contextmanager
def atomic(path):
    """Yield a temporary path beside ``path`` that replaces it at the end, or vanishes on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:  # a full disk, say, of which what writes does not always tell the file
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def hold(path, what: str):
    """Hold the lock file at ``path`` until this process ends, however it does; InputError if another process has it.

    ``what`` it is held for is in the message.
    """
    file = Path(path).open("a+")  # noqa: SIM115, since it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        who = file.read().strip()
        file.close()
        raise InputError(
            f"{what}: process {who} is making this scale here; wait for its end, or work in a folder of your own"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.append(file)


def check_writable(name: str, path):
    """InputError, before any work, if ``path`` cannot be written; ``name`` is what the user calls it."""
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".", dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{name} = {path}: cannot be written ({error.strerror})") from error


def canonical(spec) -> str:
    """Return ``spec`` as JSON with sorted keys: equal specs are equal strings."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"))


def spec_hash(spec) -> str:
    """SHA-256 of the canonical spec, in hexadecimal."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
