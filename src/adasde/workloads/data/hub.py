"""Texts and tokenizers from a hub, through the libraries ``datasets`` and ``tokenizers``, or from files put by hand.

Files put by hand lie in the data set's folder, under ``sources``.
"""

import hashlib
import logging
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adasde.common import InputError


@dataclass(frozen=True)
class Source:
    """Parquet files of documents: on a hub, at a revision, or put by hand into the folder ``name``.

    A row's text is in the column ``text``. ``rows`` is the number of rows if it is known, ``sha256`` the known hashes
    of the files, by name. With ``lines`` a row is a line, and a line `` = Title = `` starts a document. Otherwise
    ``joined`` rows make a document; 1 if each row is a text of its own.
    """

    name: str
    repository: str
    config: str
    revision: str
    split: str
    rows: int | None = None
    sha256: tuple[tuple[str, str], ...] = ()
    lines: bool = False
    joined: int = 1

    def documents(self, folder: Path, skip: int) -> Iterator[tuple[int, str]]:
        """Yield (rows read so far, text) of every document after ``skip`` rows that is not blank, in constant memory.

        ``skip`` is a number of rows that was yielded before. InputError if the files are missing or not whole.
        """
        count, lines, what = skip, [], self._called(folder)
        for row in (row["text"] for row in self.read(folder, skip)):
            if self.lines and lines and re.fullmatch(r"\s*= [^=].* =\s*", row):
                if "".join(lines).strip():
                    yield count, "".join(lines)
                lines = []
            count += 1
            lines.append(row)
            if not self.lines and len(lines) == self.joined:
                if "".join(lines).strip():
                    yield count, "\n".join(lines)
                lines = []
        if "".join(lines).strip():
            yield count, ("" if self.lines else "\n").join(lines)
        if self.rows is not None and count != self.rows:
            raise InputError(f"{what}: {count:,} rows, not {self.rows:,}; the files are cut or not the right ones")

    def read(
        self, folder: Path, skip: int = 0, texts: Sequence[str] = ("text",), numbers: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows after ``skip``, which have at least these columns of texts and of numbers.

        InputError as for `documents`, and for a value of another kind.
        """
        import datasets  # imports pandas and pyarrow, which planning does without

        _hush()
        datasets.disable_progress_bars()
        what, here = self._called(folder), self._files(folder)
        wanted = [*((column, str) for column in texts), *((column, int | float) for column in numbers)]
        try:
            if here:
                files = [str(path) for path in here]
                rows = datasets.load_dataset("parquet", data_files={"all": files}, split="all", streaming=True)
            else:
                rows = datasets.load_dataset(
                    self.repository, self.config, revision=self._commit(folder), split=self.split, streaming=True
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
            raise self._unreadable(folder, self._place(folder) if here else self.repository, error) from error

    def facts(self, folder: Path) -> dict[str, str]:
        """Return the SHA-256 of its files by name, or the commit on the hub. InputError if a known hash differs."""
        known, found = dict(self.sha256), {}
        for path in self._files(folder):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != known.get(path.name, sha256):
                raise InputError(f"{path}: SHA-256 is {sha256[:12]}..., not {known[path.name][:12]}...; fetch it again")
            found[f"{self.name}/{path.name}"] = sha256
        return found or {self.name: f"{self.repository}@{self._commit(folder)}"}

    def _commit(self, folder):
        """Return the revision, or the commit at which a branch stands."""
        if re.fullmatch("[0-9a-f]{40}", self.revision):
            return self.revision
        from huggingface_hub import HfApi  # optional: comes with datasets

        _hush()
        try:
            return HfApi().dataset_info(self.repository, revision=self.revision).sha
        except Exception as error:  # as above
            raise self._unreadable(folder, self.repository, error) from error

    def _unreadable(self, folder, where, error):
        return InputError(
            f"{self._called(folder)}: cannot be read from {where} ({type(error).__name__}); "
            f"put its parquet files into {self._place(folder)}"
        )

    def _place(self, folder):
        return Path(folder, "sources", self.name)

    def _files(self, folder):
        return sorted(self._place(folder).glob("*.parquet"))

    def _called(self, folder):
        return f"{Path(folder).name}/{self.name}"


def facts_of(sources: Iterable[Source], folder: Path) -> dict[str, str]:
    """Return the facts of several sources in one dictionary."""
    return {name: fact for source in sources for name, fact in source.facts(folder).items()}


def pretrained_tokenizer(name: str, folder: Path, repository: str, revision: str, size: int) -> Any:
    """Return the tokenizer of ``repository``, or sources/tokenizer.json in ``folder``; it must know ``size`` tokens."""
    from tokenizers import Tokenizer  # optional: images do without it

    _hush()
    path = Path(folder, "sources/tokenizer.json")
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = Tokenizer.from_pretrained(repository, revision=revision)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{name}: no tokenizer of {repository} ({type(error).__name__}); put its tokenizer.json at {path}"
        ) from error
    found = tokenizer.get_vocab_size()
    if found != size:
        raise InputError(f"{name}: the tokenizer has {found} tokens, but that of {repository} {size}")
    return tokenizer


def _hush():
    """Keep the hub's clients from logging every failed attempt; they raise an error in the end."""
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _damaged(paths):
    """Return the first of the parquet files that cannot be read, None if all can."""
    import pyarrow as pa  # needed only where reading has failed
    import pyarrow.parquet as pq

    for path in paths:
        try:
            for _ in pq.ParquetFile(path).iter_batches():
                pass
        except (OSError, pa.ArrowException):
            return path
    return None
