"""Texts and tokenizers from a hub, through the libraries ``datasets`` and ``tokenizers``, or from files put by hand.

Files put by hand lie in the data set's folder, under ``sources``.
"""

import hashlib
import logging
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, get_session
from tokenizers import Tokenizer

from adasde.common import InputError, check_regular
from adasde.workloads.data.entries import Source
from adasde.workloads.data.fetch import CONNECT

TITLE = re.compile(r"\s*= [^=].* =\s*")  # the line that starts a document, if rows are lines


def documents(source: Source, folder: Path, skip: int) -> Iterator[tuple[int, str]]:
    """Yield (rows read so far, text) of every document after ``skip`` rows that is not blank, in constant memory.

    ``skip`` is a number of rows that was yielded before. InputError if the files are missing or not whole.
    """
    count, lines, between = skip, [], "" if source.lines else "\n"
    for row in read(source, folder, skip):
        if lines and (TITLE.fullmatch(row["text"]) if source.lines else len(lines) == source.joined):
            if (text := between.join(lines)).strip():
                yield count, text
            lines = []
        count += 1
        lines.append(row["text"])
    if (text := between.join(lines)).strip():
        yield count, text
    if source.rows is not None and count != source.rows:
        what = f"{_called(source, folder)}: {count:,} rows, not {source.rows:,}"
        raise InputError(f"{what}; the files are cut or not the right ones")


def read(
    source: Source, folder: Path, skip: int = 0, texts: Sequence[str] = ("text",), numbers: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the rows after ``skip``, which have at least these columns of texts and of numbers.

    InputError as for `documents`, and for a value of another kind.
    """
    datasets.disable_progress_bars()
    what, here = _called(source, folder), _files(source, folder)
    if not here:
        _prepare_clients()
    wanted = [*((column, str) for column in texts), *((column, int | float) for column in numbers)]
    try:
        if here:
            files = [str(path) for path in here]
            rows = datasets.load_dataset("parquet", data_files={"all": files}, split="all", streaming=True)
        else:
            rows = datasets.load_dataset(
                source.repository, source.config, revision=_commit(source, folder), split=source.split, streaming=True
            )
        for number, row in enumerate(rows.skip(skip), skip + 1):
            for column, kind in wanted:
                if column not in row:
                    raise InputError(f"{what}: its rows have no column {column!r}")
                if not isinstance(row[column], kind):
                    found, must = reprlib.repr(row[column]), "a text" if kind is str else "a number"
                    raise InputError(f"{what}: row {number:,}, {column} = {found}: must be {must}")
            yield row
    except InputError:
        raise
    except Exception as error:  # the hub's clients raise errors of many kinds
        if (damaged := _damaged(here)) is not None:
            raise InputError(f"{damaged}: damaged or no parquet file; fetch it again") from error
        raise _unreadable(source, folder, _place(source, folder) if here else source.repository, error) from error


def facts(sources: Iterable[Source], folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files by name, or the commit on the hub. InputError if a known hash differs."""
    found = {}
    for source in sources:
        known, here = dict(source.sha256), _files(source, folder)
        for path in here:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != known.get(path.name, sha256):
                raise InputError(f"{path}: SHA-256 is {sha256[:12]}..., not {known[path.name][:12]}...; fetch it again")
            found[f"{source.name}/{path.name}"] = sha256
        if not here:
            found[source.name] = f"{source.repository}@{_commit(source, folder)}"
    return found


def _commit(source, folder):
    """Return the revision, or the commit at which a branch stands."""
    if re.fullmatch("[0-9a-f]{40}", source.revision):
        return source.revision
    _prepare_clients()
    try:
        return HfApi().dataset_info(source.repository, revision=source.revision).sha
    except Exception as error:  # as above
        raise _unreadable(source, folder, source.repository, error) from error


def _unreadable(source, folder, where, error):
    return InputError(
        f"{_called(source, folder)}: cannot be read from {where} ({_why(error)}); "
        f"put its parquet files into {_place(source, folder)}"
    )


def _place(source, folder):
    return folder / "sources" / source.name


def _files(source, folder):
    found = sorted(_place(source, folder).glob("*.parquet"))
    for path in found:
        check_regular(path)
    return found


def _called(source, folder):
    return f"{folder.name}/{source.name}"


def pretrained_tokenizer(name: str, folder: Path, repository: str, revision: str, size: int) -> Tokenizer:
    """Return the tokenizer of ``repository``, or sources/tokenizer.json in ``folder``; it must know ``size`` tokens."""
    path = Path(folder, "sources/tokenizer.json")
    check_regular(path)
    try:
        if not (here := path.exists()):
            _prepare_clients()
        tokenizer = Tokenizer.from_file(str(path)) if here else Tokenizer.from_pretrained(repository, revision)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{name}: no tokenizer of {repository} ({_why(error)}); put its tokenizer.json at {path}"
        ) from error
    found = tokenizer.get_vocab_size()
    if found != size:
        raise InputError(f"{name}: the tokenizer has {found} tokens, but that of {repository} {size}")
    return tokenizer


def _why(error):
    """What to say of an error of the hub's clients."""
    return "the hub cannot be reached" if constants.HF_HUB_OFFLINE else type(error).__name__


@cache
def _prepare_clients():
    """Keep the hub's clients from logging every failed attempt, and from half a minute of them without a network.

    They raise an error in the end, or find what is wanted in their cache.
    """
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECT)
    except Exception:  # as above
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _damaged(paths):
    """Return the first of the parquet files that cannot be read, None if all can."""
    for path in paths:
        try:
            for _ in pq.ParquetFile(path).iter_batches():
                pass
        except (OSError, pa.ArrowException):
            return path
    return None
