"""What every package uses: errors, checks of numbers, files and locks, hashes, text tables, facts of the machine."""

import hashlib
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_held: list[Any] = []  # a lock is released when its object is deleted

# Modules by the smallest extra that brings them.
EXTRAS = {
    "figures": ["matplotlib"],
    "language": ["datasets", "gensim", "huggingface_hub", "tokenizers", "transformers"],
    "recipes": ["yaml"],
    "vision": ["PIL", "timm", "torchvision"],
    "workflow": [
        *("filelock", "jinja2", "pandas", "pooch", "pyarrow", "pydantic", "pydantic_core", "rich", "safetensors"),
        *("scipy", "seaborn", "snakemake", "snakemake_interface_logger_plugins"),
    ],
}


# What reading a file raises whose content is not what was written there.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class InputError(ValueError):
    """Bad input, explained in one line: the field, its value, what is allowed.

    The command line prints only the message and exits with status 2.
    """


class Stopped(Exception):  # noqa: N818, since it is not an error
    """A run stopped because a signal such as SIGTERM asked it to. Its state is saved if it has a checkpoint."""


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number above 0; otherwise raise an InputError that names it."""
    number = _as_float(value)
    if number is None or not (math.isfinite(number) and number > 0):
        shown = repr(value) if number is None else f"{number:g}"
        raise InputError(f"{name} = {shown}: must be a finite number > 0")
    return number


def whole(name: str, value: float, least: int) -> int:
    """Return ``value`` if it is a whole number of at least ``least``; otherwise raise an InputError that names it."""
    number = _as_float(value)
    if number is None or not math.isfinite(number) or number != int(number) or number < least:
        shown = repr(value) if number is None else f"{number:g}"
        raise InputError(f"{name} = {shown}: must be a whole number >= {least}")
    return int(value)


def _as_float(value: object) -> float | None:
    """Return a number, of numpy or a tensor as well, as a float of Python; None if it is not a number."""
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array of several numbers
        return None


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. It replaces ``path`` at the end, or is deleted after any error.

    A link stays, and what it points to is replaced. InputError for a pipe, a socket or a device, which would be lost.
    """
    check_regular(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:  # such as a full disk; not every writer names the file in its error
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _beside(target: Path) -> Path:
    """Return a new name beside ``target``, longer than its own, for what will replace it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{target.suffix}")


def check_regular(path: str | Path) -> None:
    """Raise an InputError if ``path`` is a pipe, a socket or a device, from which reading might never end.

    Files of the kernel that look like others count as devices. A path at which there is nothing is left to whoever
    reads it.
    """
    with suppress(FileNotFoundError):
        mode = Path(path).stat().st_mode
        kernel = os.path.realpath(path).startswith(("/proc/", "/sys/"))
        if kernel or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path}: is a pipe, a socket or a device; name a file")


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to read it. InputError, which does not call it damaged, if that cannot be done."""
    check_regular(path)
    try:
        file = Path(path).open("rb")  # noqa: SIM115, since errors within the context are the caller's
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        yield file


def read_text(path: str | Path, most: int = 2**26, newline: str | None = None) -> str:
    """Return a file's text, in UTF-8 and at most ``most`` bytes long; ``newline`` is that of `open`.

    InputError if it is not a file, larger, or in another encoding.
    """
    check_regular(path)
    with Path(path).open(encoding="utf-8", newline=newline) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise InputError(f"{path}: {size:,} bytes; such a file has at most {most:,}")
        try:
            return file.read(size)  # no more, however it grows
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not text in UTF-8 (byte {error.start})") from error


def check_writable(name: str, path: str | Path, folder: bool = False) -> None:
    """Raise an InputError, before any work, if the file ``path``, or files in the ``folder``, cannot be written.

    ``name`` is the user's word for it.
    """
    path = Path(path)
    try:
        check_regular(path)
        if path.exists() and path.is_dir() != folder:
            raise OSError(0, "is a file; name a folder" if folder else "is a folder")
        target = path / "file" if folder else Path(os.path.realpath(path))
        place = next(above for above in target.parents if above.exists())  # what is missing can be made there
        trial = place / _beside(target).name  # that of `atomic`, which may be too long
        trial.touch(exist_ok=False)
        trial.unlink()
    except InputError as error:
        raise InputError(f"{name} = {error}") from error
    except OSError as error:
        raise InputError(f"{name} = {path}: cannot be written ({error.strerror})") from error


def hold(path: str | Path, what: str) -> None:
    """Hold the lock of ``what`` until this process ends, even if it is killed.

    ``path`` is a file with the holder's process id; the lock itself is the file ``path``.lock. InputError if another
    process holds it.
    """
    from filelock import FileLock, Timeout  # imports asyncio, which only graphs of jobs need

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{what}: process {path.read_text().strip()} is making this scale here; wait for its end, or work in a "
            "folder of your own"
        ) from error
    path.write_text(str(os.getpid()))
    _held.append(lock)


def canonical(value: Any) -> str:
    """Return ``value`` as JSON with sorted keys and no spaces: equal values give equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the SHA-256 of ``text`` in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def short(value: object) -> str:
    """Return a value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(text: str, most: int = 600) -> str:
    """Return ``text`` as one line of at most ``most`` characters: control characters escaped, the middle left out."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return line if len(line) <= most else f"{line[: most - 205]} ... {line[-200:]}"


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return the first field in which two documents differ, and both values, as words; None if they are equal."""
    for field in sorted(there.keys() | here.keys()):
        if there.get(field) != here.get(field):
            return f"{field} = {short(there.get(field))} there and {short(here.get(field))} here"
    return None


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of strings as a text with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def not_installed(error: ModuleNotFoundError) -> str:
    """Return one line that names the missing module and the extra that brings it."""
    name = str(error.name).partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return f"{name}: is not installed" + (f"; it comes with adasde[{extra}]" if extra else "")


def cores() -> int:
    """Return the number of cores that this process may use."""
    # Linux can keep a process to some of the cores. Windows and macOS cannot, and have no such function.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int | None:
    """Return the largest memory that this process has had, in bytes; None on Windows, where it is not counted."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux KiB
