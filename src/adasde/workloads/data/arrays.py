"""Arrays as .npy files: saved at once, or appended to in blocks so that an interrupted preparation can continue.

Items of different lengths, such as documents or files, lie back to back in one array. Beside it an index of int64,
(items + 1,), says where each begins: item i is values[index[i] : index[i + 1]].
"""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from adasde.common import MALFORMED, InputError, atomic, read_text

HEADER = 128  # bytes before the numbers of an .npy file


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Write each array whole as ``folder``/<name>.npy, and return the names."""
    for name, content in arrays.items():
        with atomic(folder / f"{name}.npy") as temporary:
            np.save(temporary, content)
    return list(arrays)


def back_to_back(items: Iterable[Sequence[int]], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all items one after another, and their index."""
    items = [np.asarray(item, dtype) for item in items]
    index = np.cumsum([0, *map(len, items)], dtype=np.int64)
    return np.concatenate(items) if items else np.empty(0, dtype), index


def npy_header(dtype: np.dtype, count: int) -> bytes:
    """Return the first HEADER bytes of an .npy file of ``count`` numbers."""
    buffer = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    header = buffer.getvalue()
    assert len(header) == HEADER
    return header


class BlockWriter:
    """Appends items to pairs of .npy files, values and index, block by block.

    After every block ``progress.json`` says how long each file is and how far the caller has read its sources. A new
    writer cuts off what lies beyond, which an interrupted call left, and continues there. If ``made_from``, such as
    hashes of sources, has changed, it begins anew.

    ``kinds`` are the names of a pair's two files after the split's, as in train-tokens and train-index, and ``dtype``
    is the type of the values. ``rows`` says how much of each source has been read, as the caller gave it with the last
    block, and ``lengths`` how many values and items of each split are written.
    """

    def __init__(
        self, folder: Path, splits: Iterable[str], kinds: tuple[str, str], dtype: Any, made_from: Mapping[str, Any]
    ):
        self.folder, self.kinds, self.made_from = Path(folder), kinds, dict(made_from)
        self.dtype, self.progress = np.dtype(dtype), self.folder / "progress.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self._state()
        continued = {key: state.get(key) for key in self.made_from} == self.made_from
        self.rows: dict[str, int] = state["rows"] if continued else {}
        self.lengths: dict[str, list[int]] = state["lengths"] if continued else {split: [0, 0] for split in splits}
        for part, dtype, count in self._files():
            final = part.with_suffix(".npy")
            if continued and final.exists():  # the call was interrupted while it gave the files their names
                final.replace(part)
            if not continued:
                final.unlink(missing_ok=True)
                self.progress.unlink(missing_ok=True)
                part.write_bytes(bytes(HEADER + dtype.itemsize * count))  # an index begins with 0
            wanted = HEADER + dtype.itemsize * count
            if not part.exists() or part.stat().st_size < wanted:
                raise InputError(f"{part}: not what {self.progress.name} says; delete {self.progress} to start anew")
            with part.open("r+b") as file:
                file.truncate(wanted)

    def append(self, items: Mapping[str, Sequence[Any]], rows: Mapping[str, int] | None = None) -> None:
        """Append a block: items of each split, bytes or arrays of the writer's dtype, and the ``rows`` read by now."""
        for split, added in items.items():
            values, count = self.lengths[split]
            ends = values + np.cumsum([len(item) for item in added], dtype=np.int64)
            for kind, content in zip(self.kinds, (added, [ends]), strict=True):
                with self._part(split, kind).open("ab") as file:
                    file.writelines(content)
                    _sync(file)
            self.lengths[split] = [int(ends[-1]) if added else values, count + len(added)]
        self.rows |= rows or {}
        with atomic(self.progress) as temporary:
            temporary.write_text(json.dumps({**self.made_from, "rows": self.rows, "lengths": self.lengths}))

    def finish(self) -> list[str]:
        """Give the files their headers and names, and return these without .npy.

        What ``progress.json`` says stays true; whoever writes the manifest deletes it.
        """
        parts = self._files()
        for part, dtype, count in parts:
            with part.open("r+b") as file:
                file.write(npy_header(dtype, count))
                _sync(file)
        return [part.replace(part.with_suffix(".npy")).stem for part, _, _ in parts]

    def _files(self):
        """Return (path, dtype, numbers so far) of every file."""
        return [
            (self._part(split, kind), dtype, count)
            for split, (values, items) in self.lengths.items()
            for kind, dtype, count in zip(
                self.kinds, (self.dtype, np.dtype(np.int64)), (values, items + 1), strict=True
            )
        ]

    def _state(self):
        """Return what progress.json says; nothing if it is missing or damaged."""
        with suppress(FileNotFoundError, *MALFORMED):
            state = json.loads(read_text(self.progress))
            rows = {str(source): int(count) for source, count in state["rows"].items()}
            lengths = {str(split): [int(values), int(items)] for split, (values, items) in state["lengths"].items()}
            return {**state, "rows": rows, "lengths": lengths}
        return {}

    def _part(self, split, kind):
        return self.folder / f"{split}-{kind}.part"


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
