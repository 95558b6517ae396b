"""Text too large for memory: streamed from parquet files into token arrays, interruptible anywhere.

The arrays are those that text.py describes.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from adasde.common import InputError
from adasde.workloads.data import hub
from adasde.workloads.data.arrays import BlockWriter, save_arrays
from adasde.workloads.data.entries import Corpus
from adasde.workloads.data.hub import documents, pretrained_tokenizer
from adasde.workloads.data.text import encoded, end_of

log = logging.getLogger(__name__)


def facts(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Return what the arrays in ``folder`` were made from, as `make` found it."""
    return json.loads((folder / "progress.json").read_text())["sources"]


def make(corpus: Corpus, folder: Path) -> list[str]:
    """Write the arrays into ``folder`` and return their names; what an interrupted call had written is kept."""
    tokenizer = pretrained_tokenizer(corpus.name, folder, *corpus.tokenizer)
    save_arrays(folder, {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)})
    found = hub.facts((source for part in corpus.sources.values() for source in part), folder)
    writer = Writer(folder, tokenizer, dict.fromkeys((*corpus.sources, "validation")), found)
    for split, sources in corpus.sources.items():
        for source in sources:
            key = f"{split}/{source.name}"
            for rows, text in documents(source, folder, writer.rows.get(key, 0)):
                held = split == "train" and "validation" not in corpus.sources and _share(text, corpus.held_out)
                writer.add("validation" if held else split, text, key, rows)
    return ["tokenizer", *writer.finish()]


class Writer(BlockWriter):
    """Appends documents as tokens. What another tokenizer or other ``sources``, by name and hash, left is discarded."""

    BLOCK = 2000  # documents
    SAID = 25  # blocks between two lines in the log

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, splits: Iterable[str], sources: Mapping[str, str] | None = None
    ):
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
        tokens = encoded(self.tokenizer, [text for _, text in self.waiting])
        for (split, _), ids in zip(self.waiting, tokens, strict=True):
            items[split].append(np.array([*ids, self.end], self.dtype))
        self.append(items, self.seen)
        self.waiting, self.seen, self.flushed = [], {}, self.flushed + 1
        if self.flushed % self.SAID == 0:
            total = [sum(counts) for counts in zip(*self.lengths.values(), strict=True)]
            log.info("%s: %s tokens of %s documents", self.folder.name, *(f"{count:,}" for count in total))


def _share(text, one_in):
    """Whether a document is held out, decided by its text only, so that order and restarts do not matter."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % one_in == 0
