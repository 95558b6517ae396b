"""artifacts.py: whole files or none, and tables of runs that notice damage."""

import json
import math
import os
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adasde.common import InputError, canonical, digest
from adasde.experiments.artifacts import (
    COLUMNS,
    KEY,
    Result,
    finished_runs,
    misplaced,
    other_code,
    provenance,
    read_results,
    rows_digest,
    write_results,
)
from adasde.experiments.specs import spec_of
from conftest import changed, load_run, save_run

RUN = "fashion-cnn-adam.sqrt.k1.s0"  # that of the fixture `spec`
ROWS = [(RUN, 4, 1e-6, "test_loss", 0.1), (RUN, 8, 2e-6, "test_loss", math.nan)]


def test_a_table_comes_back_with_its_spec(spec, tmp_path):
    path = tmp_path / "runs" / "a.parquet"
    save_run(path, ROWS, spec, seconds=1.5)
    result = load_run(path)
    assert rows_digest(result.rows) == rows_digest(ROWS)
    assert result.rows[0] == ROWS[0]
    assert result.spec == spec
    assert result.facts["seconds"] == 1.5
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_a_cell_is_one_file(spec, tmp_path):
    seeds = [changed(spec, run=f"{spec.cell}.s{seed}", seed=seed) for seed in range(3)]
    rows = [[(one.run, 4, 1e-6, "test_loss", 0.1 * one.seed)] * (1 + one.seed) for one in seeds]
    results = [Result(one, part, {"seconds": float(one.seed)}) for one, part in zip(seeds, rows, strict=True)]
    write_results(tmp_path / "cell.parquet", results)
    found = read_results(tmp_path / "cell.parquet")
    assert [(result.spec, result.rows, result.facts["seconds"]) for result in found] == [
        (result.spec, result.rows, result.facts["seconds"]) for result in results
    ]
    write_results(tmp_path / "again.parquet", found)  # what was read can be written
    assert read_results(tmp_path / "again.parquet") == found


def test_pandas_reads_it_too(spec, tmp_path):
    import pandas as pd

    save_run(tmp_path / "a.parquet", ROWS, spec)
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["value"].tolist()[0] == 0.1


def test_the_digest_sees_the_last_bit():
    assert rows_digest(ROWS) == rows_digest([list(row) for row in ROWS])
    other = [(*ROWS[0][:4], math.nextafter(0.1, 1)), ROWS[1]]
    assert rows_digest(other) != rows_digest(ROWS)


def test_damage_is_noticed(spec, tmp_path):
    path = tmp_path / "a.parquet"
    save_run(path, ROWS, spec)
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(0, len(whole), 7):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0x10
        path.write_bytes(spoiled)
        try:
            result = load_run(path)
        except InputError as error:
            assert str(path) in str(error)
        else:  # a byte that carries no value, such as a statistic or a version
            assert rows_digest(result.rows) == rows_digest(ROWS)
            assert result.spec == spec
            unnoticed += 1
    assert unnoticed < len(whole) / 7 / 2
    for length in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="or a damaged one"):
            load_run(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_run(path)


def test_equal_specs_have_equal_hashes(spec):
    assert spec_of(dict(reversed(spec.document.items()))).hash == spec.hash
    assert changed(spec, seed=5).hash != spec.hash
    assert changed(spec, precision="float32").hash == spec.hash  # the default


def test_provenance_names_versions_and_device_only():
    facts = provenance()
    assert {"adasde", "source", "python", "torch", "numpy", "device", "threads"} == set(facts)


def test_a_folder_with_runs_of_another_config_is_refused(tmp_path, spec):
    """A damaged file is left to its job, and runs that are still to come are no conflict."""
    save_run(tmp_path / "a.parquet", [(spec.run, 0, 0.0, "train_loss", 1.0)], spec)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    other = changed(spec, seed=7)
    assert finished_runs({spec.run: spec, "more": other}, tmp_path) == {spec.run}
    with pytest.raises(InputError, match=f"a.parquet: holds runs of another config .{spec.run}: this config does not "):
        finished_runs({}, tmp_path)  # C10: a copy that names fewer runs would write over claims and figures
    with pytest.raises(InputError) as caught:
        finished_runs({spec.run: other}, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'a.parquet'}: holds runs of another config ({spec.run}: seed = 0 there and 7 here); "
        "delete it, or choose another name for the scale"
    )


def test_a_table_of_other_runs_than_its_job_has_is_misplaced(tmp_path, spec):
    """Of a config that has more seeds now, or divides its runs otherwise."""
    for name in ("whole", "less", "gone"):
        run = changed(spec, run=f"{name}.sqrt.k1.s0", experiment=name)
        save_run(tmp_path / f"{name}.parquet", [(run.run, 0, 0.0, "train_loss", 1.0)], run)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    job_of = {"whole.sqrt.k1.s0": "whole", "gone.sqrt.k1.s0": "new"} | {f"less.sqrt.k1.s{n}": "less" for n in range(2)}
    assert [path.stem for path in misplaced(job_of, tmp_path)] == ["gone", "less"]


def test_c8_files_of_other_code_are_named(tmp_path, spec, monkeypatch):
    """Also those that do not say by which code they were made; a damaged file is left to its job."""
    rows = [(spec.run, 0, 0.0, "train_loss", 1.0)]
    save_run(tmp_path / "own.parquet", rows, spec, **provenance())
    save_run(tmp_path / "older.parquet", rows, spec)
    save_run(tmp_path / "other.parquet", rows, spec, **{**provenance(), "source": "0" * 16})
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    assert [path.name for path in other_code(sorted(tmp_path.iterdir()))] == ["older.parquet", "other.parquet"]


def test_c15_odd_metadata_is_no_run_s_table(tmp_path, spec, broken):
    """Nested deeply, null, of another shape, or of another table than its spec says, under valid digests."""
    path = tmp_path / "run.parquet"
    rows = [(spec.run, 0, 0.0, "train_loss", 1.0)]
    save_run(path, rows, spec)
    whole = pq.read_table(path)
    good = json.loads(whole.schema.metadata[KEY])
    odd = ["[" * 100_000, "null", "{}", "[]", "[null]", "[[]]", '[{"rows": 1}]', '[{"rows": null}]', "1", '"x"', ""]
    odd += [json.dumps([{**good[0], "rows": rows}]) for rows in (2, -1, "1", 1e400, True, None)]
    odd += [json.dumps([{**good[0], "spec": other}]) for other in (None, 1, [], {}, {"run": "x"})]
    odd += [json.dumps(good * 2), json.dumps([{"rows": 1}])]
    for metadata in odd:
        pq.write_table(whole.replace_schema_metadata({KEY: metadata.encode()}), path)
        with pytest.raises(InputError, match="run.parquet: ") as caught:
            read_results(path)
        assert "\n" not in str(caught.value)
        with suppress(InputError):  # of a run that the config does not name
            finished_runs({}, tmp_path)
    pq.write_table(whole.replace_schema_metadata(None), path)
    with pytest.raises(InputError, match="not a run's table"):
        read_results(path)
    for other in (rows[:0], [(spec.run, 0, 0.0, "train_loss", "text")], [("other", *rows[0][1:])]):
        own = {"spec": spec.document, "spec_hash": spec.hash, "rows_sha256": rows_digest(other), "rows": len(other)}
        sealed = {**own, "sha256": digest(canonical(own))}
        table = pa.table([pa.array([row[n] for row in other]) for n in range(5)], COLUMNS)
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps([sealed]).encode()}), path)
        with pytest.raises(InputError, match=f"run.parquet: not a table of {spec.run}"):
            read_results(path)
    broken("odd file", "a run's table with odd metadata, or another's", len(odd) + 4, "refused in one line")


def test_c14_a_pipe_is_no_run_s_table(tmp_path):
    os.mkfifo(tmp_path / "run.parquet")
    with pytest.raises(InputError, match="run.parquet: is a pipe, a socket or a device; name a file"):
        read_results(tmp_path / "run.parquet")
    assert finished_runs({}, tmp_path) == set()
    assert other_code([tmp_path / "run.parquet"]) == []
