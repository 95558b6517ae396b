"""Arrays that are saved at once or appended to block by block."""

import numpy as np
import pytest

from adasde.workloads.data import arrays
from adasde.workloads.data.arrays import BlockWriter, back_to_back, save_arrays


def test_an_npy_header_is_what_numpy_reads(tmp_path):
    for count in (1, 10**6, 10**12):
        header = arrays.npy_header(np.dtype(np.uint16), count)
        assert len(header) == arrays.HEADER
    path = tmp_path / "x.npy"
    path.write_bytes(arrays.npy_header(np.dtype(np.int64), 3) + np.arange(3).tobytes())
    assert np.load(path).tolist() == [0, 1, 2]


def test_items_lie_back_to_back():
    values, index = back_to_back([[3, 4], [], [5]], np.uint16)
    assert (values.tolist(), values.dtype) == ([3, 4, 5], np.uint16)
    assert (index.tolist(), index.dtype) == ([0, 2, 2, 3], np.int64)
    values, index = back_to_back([], np.uint8)
    assert (len(values), index.tolist()) == (0, [0])


def writer(folder, made_from="x", dtype=np.int32):
    return BlockWriter(folder, ("train", "test"), ("tokens", "index"), dtype, {"source": made_from})


def items(*numbers):
    return [np.arange(number, dtype=np.int32) for number in numbers]


@pytest.fixture
def whole(tmp_path):
    """Arrays that were written without an interruption."""
    one = writer(tmp_path / "whole")
    one.append({"train": items(3, 0, 2), "test": []}, {"a": 3})
    one.append({"train": items(4), "test": items(1, 1)}, {"a": 4, "b": 2})
    return {name: np.load(tmp_path / f"whole/{name}.npy") for name in one.finish()}


def test_blocks_become_arrays(whole):
    assert whole["train-tokens"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert whole["train-index"].tolist() == [0, 3, 3, 5, 9]
    assert whole["test-index"].tolist() == [0, 1, 2]
    assert whole["train-tokens"].dtype == np.int32


def test_a_new_writer_goes_on_after_the_last_block(whole, tmp_path):
    first = writer(tmp_path / "again")
    first.append({"train": items(3, 0, 2), "test": []}, {"a": 3})
    for path in (tmp_path / "again").glob("*.part"):  # of a block that was interrupted
        path.write_bytes(path.read_bytes() + b"garbage")
    second = writer(tmp_path / "again")
    assert second.rows == {"a": 3}
    assert second.lengths == {"train": [5, 3], "test": [0, 0]}
    second.append({"train": items(4), "test": items(1, 1)})
    names = second.finish()
    assert sorted(names) == sorted(whole)
    assert all(np.array_equal(np.load(tmp_path / f"again/{name}.npy"), whole[name]) for name in names)
    assert not list(tmp_path.rglob("*.part"))


def test_what_was_made_from_something_else_is_discarded(tmp_path):
    first = writer(tmp_path)
    first.append({"train": items(3), "test": []})
    first.finish()
    second = writer(tmp_path, made_from="y")
    assert second.lengths == {"train": [0, 0], "test": [0, 0]}
    assert not list(tmp_path.glob("*.npy"))


def test_bytes_are_items_too(tmp_path):
    one = BlockWriter(tmp_path, ("train",), ("jpegs", "jpegs-index"), np.uint8, {"files": "x"})
    one.append({"train": [b"ab", b"c"]})
    assert one.finish() == ["train-jpegs", "train-jpegs-index"]
    assert np.load(tmp_path / "train-jpegs.npy").tobytes() == b"abc"
    assert np.load(tmp_path / "train-jpegs-index.npy").tolist() == [0, 2, 3]


def test_arrays_are_saved_by_name(tmp_path):
    assert save_arrays(tmp_path, {"a": np.arange(3), "b": np.zeros((2, 2))}) == ["a", "b"]
    assert np.load(tmp_path / "b.npy").shape == (2, 2)
