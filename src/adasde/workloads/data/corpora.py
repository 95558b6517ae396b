"""Text too large for memory: streamed from parquet files into token arrays, interruptible anywhere.

The arrays are those of text.py.
"""

import hashlib
import io
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adasde.common import InputError, atomic
from adasde.workloads.data.hub import Source, pretrained_tokenizer
from adasde.workloads.data.text import encoded, end_of

log = logging.getLogger(__name__)

HEADER = 128  # bytes before the numbers of an .npy file


@dataclass(frozen=True)
class Corpus:
    """Registry entry of a text data set too large for memory; sizes are in tokens.

    ``sources`` holds the sources of every split; those of a split that has none are drawn from the training documents,
    one in ``held_out``. ``tokenizer`` is (repository, revision, tokens in the vocabulary).
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

    @property
    def prepared_bytes(self) -> int:
        """Bytes of its arrays, about: of the tokens."""
        return (self.train_size + self.test_size) * (2 if self.tokenizer[2] <= 1 << 16 else 4)

    def facts(self, folder: Path) -> dict:
        """Return what the arrays in ``folder`` were made from, as `make` found it."""
        return {"files": json.loads((folder / "progress.json").read_text())["sources"]}

    def make(self, folder: Path) -> list[str]:
        """Write the arrays, as .npy files, and return their names; what an interrupted call had written is kept."""
        import numpy as np

        tokenizer = pretrained_tokenizer(self.name, folder, *self.tokenizer)
        with atomic(folder / "tokenizer.npy") as temporary:
            np.save(temporary, np.frombuffer(tokenizer.to_str().encode(), np.uint8))
        found = {k: v for part in self.sources.values() for source in part for k, v in source.facts(folder).items()}
        writer = Writer(folder, tokenizer, tuple(dict.fromkeys((*self.sources, "validation"))), found)
        for split, sources in self.sources.items():
            for source in sources:
                key = f"{split}/{source.name}"
                for rows, text in source.documents(folder, writer.rows.get(key, 0)):
                    held = split == "train" and "validation" not in self.sources and _share(text, self.held_out)
                    writer.add("validation" if held else split, text, key, rows)
        return ["tokenizer", *writer.finish()]


class Writer:
    """Appends documents to .npy files, in blocks, so that an interrupted preparation goes on where it was.

    After every block ``progress.json`` says how far each file and each source has got; what lies beyond was written
    by a block that was not finished, and is cut off. What another tokenizer or other ``sources``, by name and hash,
    have left is begun anew.
    """

    BLOCK = 2000  # documents
    SAID = 25  # blocks between two lines in the log

    def __init__(self, folder: Path, tokenizer, splits, sources=()):
        import numpy as np

        self.folder, self.tokenizer, self.splits = Path(folder), tokenizer, splits
        self.end = end_of(tokenizer)
        self.dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.int32)
        self.waiting, self.seen, self.flushed = [], {}, 0
        self.progress = self.folder / "progress.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made_by = {"tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(), "sources": dict(sources)}
        state = self._state()
        going_on = {key: state.get(key) for key in self.made_by} == self.made_by
        # Rows read of every source, and (tokens, documents) of every split.
        self.rows, self.lengths = (state["rows"], state["lengths"]) if going_on else ({}, {s: [0, 0] for s in splits})
        for split, kind, dtype, count in self._files():
            path, final = self._path(split, kind), self.folder / f"{split}-{kind}.npy"
            if going_on and final.exists():  # the call was interrupted as it gave the files their names
                final.replace(path)
            if not going_on:
                final.unlink(missing_ok=True)
                self.progress.unlink(missing_ok=True)
                path.write_bytes(bytes(HEADER + (dtype.itemsize if kind == "index" else 0)))
            wanted = HEADER + dtype.itemsize * count
            if not path.exists() or path.stat().st_size < wanted:
                raise InputError(f"{path}: not what {self.progress.name} says; delete {self.progress} to start anew")
            with path.open("r+b") as file:
                file.truncate(wanted)
        if self.rows:
            log.info("%s: going on after %s", self.folder.name, self.rows)

    def add(self, split: str, text: str, source: str, rows: int):
        """Add a document; ``rows`` of its ``source`` have been read then."""
        self.waiting.append((split, text))
        self.seen[source] = rows
        if len(self.waiting) >= self.BLOCK:
            self._flush()

    def finish(self) -> list[str]:
        """Give the files their headers and names, and return these without .npy. InputError for an empty split.

        What ``progress.json`` says stays true: who has made the manifest deletes it.
        """
        self._flush()
        empty = [split for split, (_, documents) in self.lengths.items() if not documents]
        if empty:
            raise InputError(f"{self.folder.name}: the split {empty[0]} is empty: its files hold no text")
        for split, kind, dtype, count in self._files():
            with self._path(split, kind).open("r+b") as file:
                file.write(npy_header(dtype, count))
        for split, kind, _, _ in self._files():
            self._path(split, kind).replace(self.folder / f"{split}-{kind}.npy")
        return [f"{split}-{kind}" for split, kind, _, _ in self._files()]

    def _files(self):
        """Return (split, kind, dtype, numbers so far) of every file."""
        import numpy as np

        return [
            part
            for split, (tokens, documents) in self.lengths.items()
            for part in ((split, "tokens", self.dtype, tokens), (split, "index", np.dtype(np.int64), documents + 1))
        ]

    def _flush(self):
        import numpy as np

        documents = encoded(self.tokenizer, [text for _, text in self.waiting])
        for split in self.splits:
            mine = [ids for (of, _), ids in zip(self.waiting, documents, strict=True) if of == split]
            tokens, count = self.lengths[split]
            ends = tokens + np.cumsum([len(ids) + 1 for ids in mine], dtype=np.int64)
            flat = [token for ids in mine for token in (*ids, self.end)]
            for kind, values in (("tokens", np.array(flat, self.dtype)), ("index", ends)):
                with self._path(split, kind).open("ab") as file:
                    file.write(values.tobytes())
            self.lengths[split] = [tokens + len(flat), count + len(mine)]
        self.rows |= self.seen
        self.waiting, self.seen, self.flushed = [], {}, self.flushed + 1
        if self.flushed % self.SAID == 0:
            total = [sum(counts) for counts in zip(*self.lengths.values(), strict=True)]
            log.info("%s: %s tokens of %s documents", self.folder.name, *(f"{count:,}" for count in total))
        with atomic(self.progress) as temporary:
            temporary.write_text(json.dumps({**self.made_by, "rows": self.rows, "lengths": self.lengths}))

    def _state(self):
        """What progress.json says, nothing if it is not there or damaged."""
        with suppress(FileNotFoundError, ValueError):
            return json.loads(self.progress.read_text())
        return {}

    def _path(self, split, kind):
        return self.folder / f"{split}-{kind}.part"


def _share(text, one_in):
    """Whether a document is one of those held out, told by its text alone, so that order and restarts do not matter."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % one_in == 0


def npy_header(dtype, count: int) -> bytes:
    """Return the first HEADER bytes of an .npy file of ``count`` numbers."""
    import numpy as np

    buffer = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    header = buffer.getvalue()
    assert len(header) == HEADER
    return header
