"""store.py: whole files or none, and tables that notice damage."""

import math

import pytest

from adasde.common import InputError, atomic, spec_hash
from adasde.experiments.artifacts import COLUMNS, provenance, read_run, rows_digest, write_run

ROWS = [("a.k1.s0", 4, 1e-6, "test_loss", 0.1), ("a.k1.s0", 8, 2e-6, "test_loss", math.nan)]


def test_a_table_comes_back_with_its_spec(tmp_path):
    path = tmp_path / "runs" / "a.parquet"
    write_run(path, ROWS, {"lr": 0.1}, seconds=1.5)
    rows, metadata = read_run(path)
    assert rows_digest(rows) == rows_digest(ROWS)
    assert rows[0] == ROWS[0]
    assert metadata["spec"] == {"lr": 0.1}
    assert metadata["seconds"] == 1.5
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_pandas_reads_it_too(tmp_path):
    import pandas as pd

    write_run(tmp_path / "a.parquet", ROWS, {})
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["value"].tolist()[0] == 0.1


def test_the_digest_sees_the_last_bit():
    assert rows_digest(ROWS) == rows_digest([list(row) for row in ROWS])
    other = [(*ROWS[0][:4], math.nextafter(0.1, 1)), ROWS[1]]
    assert rows_digest(other) != rows_digest(ROWS)


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    write_run(path, ROWS, {"lr": 0.1})
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(0, len(whole), 7):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0x10
        path.write_bytes(spoiled)
        try:
            rows, metadata = read_run(path)
        except InputError as error:
            assert str(path) in str(error)
        else:  # a byte that carries no value, such as a statistic or a version
            assert rows_digest(rows) == rows_digest(ROWS)
            assert metadata["spec"] == {"lr": 0.1}
            unnoticed += 1
    assert unnoticed < len(whole) / 7 / 2
    for length in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="or a damaged one"):
            read_run(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_run(path)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_equal_specs_have_equal_hashes():
    assert spec_hash({"a": 1, "b": [0.1]}) == spec_hash({"b": [0.1], "a": 1})
    assert spec_hash({"a": 1}) != spec_hash({"a": 2})


def test_provenance_names_versions_and_device_only():
    facts = provenance()
    assert {"adasde", "python", "torch", "numpy", "device", "threads"} == set(facts)
