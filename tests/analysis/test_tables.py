"""tables.py, on runs whose answer is known."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.figures.style import subject
from adasde.common import InputError
from adasde.experiments.plan import plan
from adasde.experiments.specs import Branch
from analysis.runs import FAITHFUL, METRICS, WITH_SVAG, collected, write_runs
from conftest import changed, save_run


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


def test_adam_with_decoupled_weight_decay_is_adamw(tmp_path, spec):
    kinds = [spec, changed(spec, optimizer=spec.document["optimizer"] | {"decoupled": True, "weight_decay": 0.1})]
    for number, kind in enumerate(kinds):
        save_run(tmp_path / f"{number}.parquet", [(spec.run, 0, 0.0, "train_loss", 1.0)], kind)
    found = [tables.collect([tmp_path / f"{number}.parquet"])[0].iloc[0] for number in range(2)]
    assert [subject(row).partition(",")[0] for row in found] == ["Adam", "AdamW"]


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
    with pytest.raises(InputError, match="not a table of trajectories .no column 'step'"):
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


WAYS = {"transport": 0.0, "keep": 0.25}  # and what each adds to the loss


@pytest.fixture
def branched(config, tmp_path):
    """The table of the smoke scale's branches: the loss is 1, plus the seed, the way of v and the samples."""
    specs, paths = [spec for spec in plan(config).runs.values() if isinstance(spec, Branch)], []
    for spec in reversed(specs):  # in whatever order they come
        moments = [(n, round(n * spec.ell**2 / spec.batch_size)) for n in (0, 1024, 3072)]
        losses = [1 + spec.seed + WAYS[spec.second_moment] + n / 4096 for n, _ in moments]
        rows = [(spec.run, k, n * 1e-8, "test_loss", v) for (n, k), v in zip(moments, losses, strict=True)]
        if spec.is_baseline:
            rows += [(spec.run, k, n * 1e-8, "noise_trace", 10.0 + spec.seed) for n, k in moments[::2]]
        paths.append(tmp_path / f"{spec.run}.parquet")
        save_run(paths[-1], rows, spec, seconds=1.0)
    return collected(paths)


def test_branches_are_told_by_their_parent_and_by_what_became_of_v(branched):
    assert set(branched["kind"]) == {"branch"}
    assert set(branched["parent"]) == {"fashion-cnn-adam.sqrt.k1.s0"}
    assert set(branched["workload"]) == {"fashion-cnn"}
    kept = branched[branched["second_moment"] == "keep"]
    assert set(kept["run"]) == {f"branch-cnn-adam.sqrt.k4.keep.s{seed}" for seed in (0, 1)}
    assert set(branched["second_moment"]) == set(WAYS)
    assert sorted(set(branched["samples"])) == [0, 1024, 3072]  # from the branch point on
    assert np.allclose(branched["epoch"], branched["samples"] / 60_000)
    for way, more in WAYS.items():
        groups = tables.groups(branched, "branch-cnn-adam", "sqrt", "test_loss", way)
        times = np.array([0.0, 0.25, 0.75])
        assert list(groups.values) == [1, 4]
        np.testing.assert_allclose(groups.values[1], [1 + times, 2 + times])  # the baseline, by seed
        np.testing.assert_allclose(groups.values[4], [1 + more + times, 2 + more + times])
    assert list(tables.groups(branched, "branch-cnn-adam", "svag", "test_loss").values) == [1, 2]


def test_runs_pair_up_by_their_seed(branched):
    """Also where a seed is missing on one side; at random they would not be paired at all."""
    lost = branched[~((branched["kappa"] == 4) & (branched["seed"] == 0))]
    groups = tables.groups(lost, "branch-cnn-adam", "sqrt", "test_loss")
    assert groups.repeats == {1: [0, 1], 4: [1]}
    values, reference = groups.pairs(4, groups, 1)
    np.testing.assert_allclose(reference, groups.values[1][1:])
    np.testing.assert_allclose(values, groups.values[4])


def test_noise_has_the_times_at_which_it_was_measured(branched):
    """Which are fewer than the evaluations, and the baseline's only."""
    noise = tables.groups(branched, "branch-cnn-adam", "sqrt", "noise_trace")
    assert noise.time.tolist() == pytest.approx([0.0, 3072e-8])
    assert noise.values[1].tolist() == [[10.0, 10.0], [11.0, 11.0]]
    assert np.isnan(noise.values[4]).all()
    assert noise.diverged_runs == []


def test_runs_from_scratch_and_fine_tunings_have_their_kind(trajectories, tuned):
    assert set(trajectories(FAITHFUL)["kind"]) == {"scratch"}
    assert set(tuned["kind"]) == {"finetune"}
    assert set(tuned["second_moment"]) == {"transport"}


CHANGES = {
    "kappa": [0, -1.0, np.nan, np.inf, "4", True], "step": ["x", -1, None], "time": [-1.0, np.nan],
    "value": ["x", None],
    "rule": ["other", 4, None, ""], "kind": ["other"], "workload": ["other", "timm/resnet18"], "optimizer": ["other"],
    "second_moment": ["other"], "metric": [1], "run": [None],
}  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [(column, value) for column in CHANGES for value in CHANGES[column]])
def test_a_table_that_holds_something_else_under_a_valid_digest_is_refused(column, value, tmp_path, spec):
    trajectories, simulations, runs = tables.collect(write_runs(tmp_path / "runs", spec, {("sqrt", 1): 0}, seeds=1))
    trajectories[column] = [value] * len(trajectories)
    tables.write(tmp_path, trajectories, simulations, runs)
    if column == "value" and value is None:  # a table of nothing but unknown values
        trajectories[column] = pd.Series([None] * len(trajectories), dtype=object)
    with pytest.raises(InputError, match=rf"trajectories.parquet: .*\({column} has other values\)"):
        tables.read(tmp_path)


def test_a_table_holds_models_that_a_config_names(tmp_path, spec):
    trajectories, simulations, runs = tables.collect(write_runs(tmp_path / "runs", spec, {("sqrt", 1): 0}, seeds=1))
    trajectories["workload"] = "timm/resnet18@cifar-10?size=32"
    tables.write(tmp_path, trajectories, simulations, runs)
    assert set(tables.read(tmp_path)["workload"]) == {"timm/resnet18@cifar-10?size=32"}


def test_a_row_that_is_there_twice_is_refused(tmp_path, spec):
    trajectories, simulations, runs = tables.collect(write_runs(tmp_path / "runs", spec, {("sqrt", 1): 0}, seeds=1))
    tables.write(tmp_path, pd.concat([trajectories, trajectories[:1]]), simulations, runs)
    with pytest.raises(InputError, match="a row is there twice"):
        tables.read(tmp_path)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, spec, monkeypatch):
    tables.write(tmp_path, *tables.collect(write_runs(tmp_path / "runs", spec, {("sqrt", 1): 0}, seeds=1)))
    (run,) = (tmp_path / "runs").iterdir()

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # as root, tests can read everything
    for read, path in ((tables.read, tmp_path), (lambda path: tables.collect([path]), run)):
        with pytest.raises(InputError, match="parquet: cannot be read .Permission denied.$"):
            read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run,seconds\na,x\n", "seconds = 'x': must be a number"),
        ("run,peak_bytes\na,1\nb,many\n", "peak_bytes = 'many': must be a number"),
        ("run,seconds\na,1" + "0" * 5000 + "x\n", "seconds = .*: must be a number"),
        ("run\na\na\n", "run = a: is there twice"),
        ("seconds\n1\n", "no column 'run'"),
        ("", "not a table, or a damaged one"),
        ("run," * 10**6, "not a table, or a damaged one"),
        ('"\n",' * 10**6, "not a table, or a damaged one"),
        ("run\n" + "a," * 10**6, "not a table, or a damaged one"),
    ],
    ids=lambda text: text[:20],
)
def test_an_odd_table_of_runs_is_one_line_at_once(text, words, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    begun = time.monotonic()
    with pytest.raises(InputError, match=words) as caught:
        tables.read_runs(tmp_path)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 5


def test_a_pipe_or_a_huge_file_is_no_table_of_runs(tmp_path):
    with (tmp_path / "runs.csv").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="runs.csv: 1,099,511,627,776 bytes; such a file has at most"):
        tables.read_runs(tmp_path)
    (tmp_path / "runs.csv").unlink()
    os.mkfifo(tmp_path / "runs.csv")
    with pytest.raises(InputError, match="runs.csv: is a pipe"):
        tables.read_runs(tmp_path)
