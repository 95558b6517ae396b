"""Text too large for memory: streamed from parquet files into token arrays, interruptible anywhere.

The arrays are those that text.py describes.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adasde.common import InputError
from adasde.workloads.base import Dataset
from adasde.workloads.data.arrays import BlockWriter, save_arrays
from adasde.workloads.data.hub import Source, facts_of, pretrained_tokenizer
from adasde.workloads.data.text import encoded, end_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus(Dataset):
    """Registry entry of a text data set too large for memory; sizes are in tokens.

    ``sources`` holds the sources of every split. If there are none for validation, one in ``held_out`` of the training
    documents is taken. ``tokenizer`` is (repository, revision, tokens in the vocabulary).
    """

    name: str
    licence: str
    download_bytes: int
    train_size: int
    test_size: int
    tokenizer: tuple[str, str, int]
    sources: dict[str, tuple[Source, ...]]
    held_out: int = 1000
    unit: str = "tokens, about"

    tolerance = 0.3  # sizes are known only approximately, as the texts are too large to be here

    @property
    def prepared_bytes(self) -> int:
        """Approximate bytes of its arrays: those of the tokens."""
        return (self.train_size + self.test_size) * (2 if self.tokenizer[2] <= 1 << 16 else 4)

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what the arrays in ``folder`` were made from, as `make` found it."""
        return {"files": json.loads((folder / "progress.json").read_text())["sources"]}

    def make(self, folder: Path) -> list[str]:
        """Write the arrays as .npy files and return their names; what an interrupted call had written is kept."""
        tokenizer = pretrained_tokenizer(self.name, folder, *self.tokenizer)
        save_arrays(folder, {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)})
        found = facts_of((source for part in self.sources.values() for source in part), folder)
        writer = Writer(folder, tokenizer, dict.fromkeys((*self.sources, "validation")), found)
        for split, sources in self.sources.items():
            for source in sources:
                key = f"{split}/{source.name}"
                for rows, text in source.documents(folder, writer.rows.get(key, 0)):
                    held = split == "train" and "validation" not in self.sources and _share(text, self.held_out)
                    writer.add("validation" if held else split, text, key, rows)
        return ["tokenizer", *writer.finish()]


class Writer(BlockWriter):
    """Appends documents as tokens. What another tokenizer or other ``sources``, by name and hash, left is discarded."""

    BLOCK = 2000  # documents
    SAID = 25  # blocks between two lines in the log

    def __init__(self, folder: Path, tokenizer: Any, splits: Iterable[str], sources: Mapping[str, str] | None = None):
        self.tokenizer, self.end = tokenizer, end_of(tokenizer)
        self.waiting: list[tuple[str, str]] = []  # (split, text)
        self.seen: dict[str, int] = {}
        self.flushed = 0
        made_from = {"tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(), "sources": sources or {}}
        dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.int32
        super().__init__(folder, splits, ("tokens", "index"), dtype, made_from)
        if self.rows:
            log.info("%s: going on after %s", self.folder.name, self.rows)

    def add(self, split: str, text: str, source: str, rows: int) -> None:
        """Add a document, up to which ``rows`` of its ``source`` have been read."""
        self.waiting.append((split, text))
        self.seen[source] = rows
        if len(self.waiting) >= self.BLOCK:
            self._flush()

    def finish(self) -> list[str]:
        """Write what is waiting, and finish the files. InputError for an empty split."""
        self._flush()
        empty = [split for split, (_, documents) in self.lengths.items() if not documents]
        if empty:
            raise InputError(f"{self.folder.name}: the split {empty[0]} is empty: its files hold no text")
        return super().finish()

    def _flush(self):
        items = {split: [] for split in self.lengths}
        documents = encoded(self.tokenizer, [text for _, text in self.waiting])
        for (split, _), ids in zip(self.waiting, documents, strict=True):
            items[split].append(np.array([*ids, self.end], self.dtype))
        self.append(items, self.seen)
        self.waiting, self.seen, self.flushed = [], {}, self.flushed + 1
        if self.flushed % self.SAID == 0:
            total = [sum(counts) for counts in zip(*self.lengths.values(), strict=True)]
            log.info("%s: %s tokens of %s documents", self.folder.name, *(f"{count:,}" for count in total))


def _share(text, one_in):
    """Whether a document is held out, decided by its text only, so that order and restarts do not matter."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % one_in == 0
