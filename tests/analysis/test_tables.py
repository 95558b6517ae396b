"""tables.py, on runs whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.common import InputError
from analysis.runs import FAITHFUL, METRICS, WITH_SVAG, write_runs


def test_tables_hold_every_run(tmp_path, spec):
    trajectories, simulations, runs = tables.collect(write_runs(tmp_path, spec, FAITHFUL))
    assert len(runs) == 15
    assert len(trajectories) == 15 * 8 * len(METRICS)
    assert set(runs["lr"]) == {spec.optimizer.lr}
    assert np.isclose(trajectories["epoch"].max(), 8 * 384 / 60_000)
    assert runs["final_test_accuracy"].between(0.8, 1.2).all()
    tables.write(tmp_path / "out", trajectories, simulations, runs)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "out"), trajectories)
    with pytest.raises(InputError, match="no such file; Snakemake makes it"):
        tables.read(tmp_path)


def test_a_damaged_or_foreign_table_is_refused(tmp_path, spec):
    tables.write(tmp_path, *tables.collect(write_runs(tmp_path / "runs", spec, FAITHFUL)))
    path = tmp_path / "trajectories.parquet"
    whole = path.read_bytes()
    noticed = 0
    for place in range(10, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            table = tables.read(tmp_path)
        except InputError as error:
            assert "trajectories.parquet" in str(error)
            noticed += 1
        else:  # a byte of the footer that carries no value
            path.write_bytes(whole)
            pd.testing.assert_frame_equal(table, tables.read(tmp_path))
    assert noticed > 30
    for content in (b"", b"text", whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            tables.read(tmp_path)
    pd.DataFrame({"run": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match="no table of trajectories .no column 'step'"):
        tables.read(tmp_path)


def test_groups_contain_the_baseline_for_every_rule(trajectories):
    groups = tables.groups(trajectories(FAITHFUL), "fashion-cnn-adam", "linear", "test_loss")
    assert list(groups.values) == [1, 4]
    assert groups.seeds == 3
    assert groups.values[4].shape == (3, 8)
    assert groups.batch_size == {1: 32, 4: 128}
    with pytest.raises(InputError, match="no values of test_los for experiment"):
        tables.groups(trajectories(FAITHFUL), "fashion-cnn-adam", "linear", "test_los")


def test_groups_of_svag_are_by_ell_and_those_of_rules_hold_none_of_it(trajectories):
    table = trajectories(WITH_SVAG)
    groups = tables.groups(table, "fashion-cnn-adam", "svag", "test_loss")
    assert list(groups.values) == [1, 2, 4]
    assert {values.shape for values in groups.values.values()} == {(3, 8)}
    assert all(np.isfinite(values).all() for values in groups.values.values())
    assert set(groups.batch_size.values()) == {32}
    assert list(tables.groups(table, "fashion-cnn-adam", "linear", "test_loss").values) == [1, 4]
    assert tables.groups(table, "fashion-cnn-adam", "linear", "test_loss").values[1].shape == (3, 8)


def test_fine_tunings_are_grouped_by_what_pre_trained_them(tuned):
    """Two fine-tunings of one model are one repeat: their mean."""
    groups = tables.groups(tuned, "tuned", "finetune", "test_accuracy")
    assert groups.seeds == 2
    assert groups.values[4][:, 0].tolist() == pytest.approx([0.05, 0.25])
