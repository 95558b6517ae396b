"""lags.py: which tables have lags, and the command that predicts them from a run."""

import json

import numpy as np
import pytest

from adasde.analysis.lags import has_lags, measured_lags, paired_lags
from adasde.experiments.plan import plan
from adasde.experiments.specs import Simulation
from analysis.runs import lagging_rows
from conftest import changed, save_run

EXPERIMENT = "fashion-cnn-adam"


def test_no_lag_without_speeds_a_baseline_or_a_constant_learning_rate(lagging):
    table = lagging()
    assert has_lags(table, EXPERIMENT)
    assert not has_lags(table[~table["metric"].str.contains("speed")], EXPERIMENT)
    lost = table.assign(metric=table["metric"].where(table["run"] != "a.sqrt.k1.s0", "diverged"))
    assert not has_lags(lost, EXPERIMENT)
    assert not has_lags(table.assign(time=table["time"] ** 2), EXPERIMENT)
    assert not has_lags(table[table["kappa"] == 1], EXPERIMENT)


def test_speeds_that_are_measured_less_often_predict_the_same(lagging):
    """Constant speeds, measured at the ends and in the middle only."""
    table = lagging()
    kept = ~table["metric"].str.contains("speed") | table["time"].isin([0.0, 1.0, 2.0])
    whole, part = measured_lags(table, EXPERIMENT), measured_lags(table[kept], EXPERIMENT)
    assert kept.sum() < len(table)
    for kappa in (2, 4, 16):
        assert np.allclose(part.predicted[kappa], whole.predicted[kappa])
        assert np.allclose(part.observed[kappa], whole.observed[kappa], equal_nan=True)


TIME = np.linspace(0.0, 2.0, 9)


@pytest.mark.parametrize("speed", [0.9, 0.5, 1.0, 1.1])
def test_lags_by_hand_also_of_a_run_that_is_ahead(speed):
    losses = [2.0 * np.exp(-rate * TIME) for rate in (1.0, speed)]
    lags = paired_lags(TIME, *(np.array([curve, curve]) for curve in losses))
    assert np.isnan(lags[:, :2]).all()
    assert np.allclose(lags[:, 2:], 1 - speed)


def test_a_loss_that_the_baseline_never_had_is_a_lag_of_one():
    losses = 2.0 * np.exp(-TIME)
    assert (paired_lags(TIME, losses[None], losses[None] + 2.0)[:, 2:] == 1.0).all()


def test_a_loss_below_all_that_a_flat_baseline_has_is_no_lag():
    baseline = np.array([2.0, 1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    lags = paired_lags(TIME, baseline[None], baseline[None] - 0.01)
    assert (lags[:, 4:] == 0.0).all()
    assert np.isfinite(lags[:, 2:]).all()


def test_the_spread_of_lags_is_that_of_repeated_experiments():
    random, seeds, trials = np.random.default_rng(0), 5, 200

    def runs(speed):
        return 2.0 * np.exp(-speed * TIME) * np.exp(0.02 * random.normal(size=(seeds, len(TIME))))

    found = np.array([paired_lags(TIME, runs(1.0), runs(0.9))[:, -1] for _ in range(trials)])
    means, variances = found.mean(axis=1), found.var(axis=1, ddof=1) / seeds
    assert means.mean() == pytest.approx(0.1, abs=0.01)
    # A variance of 200 values has a relative standard error of 10%.
    assert variances.mean() == pytest.approx(means.var(), rel=0.4)


@pytest.fixture
def run_file(tmp_path, spec):
    def write(rows, name="run.parquet", **changes):
        own = changed(spec, **changes)
        save_run(tmp_path / name, [(own.run, *row[1:]) for row in rows], own)
        return tmp_path / name

    return write


def baseline():
    return list(lagging_rows("a", 1, np.random.default_rng(0), {}, 0.0))


def test_predict_prints_the_lags_and_the_largest_kappa(adasde, run_file):
    path = run_file(baseline())
    lines = adasde("predict", path).stdout.splitlines()
    assert [line.split() for line in lines[2:4]] == [["2", "64", "10.0%", "10.0%"], ["4", "128", "30.0%", "30.0%"]]
    assert lines[-1].startswith("largest kappa with a predicted lag under 10% at the end: 2 (linear in log kappa")
    found = json.loads(adasde("predict", path, "--json").stdout)
    assert found["safe_kappa"] == pytest.approx(2.0)
    assert found["rule_needs_kappa_below"] == 100
    assert found["lags"][-1] == {
        "kappa": 16, "batch_size": 512, "lag_at_end": pytest.approx(0.6), "largest_lag": pytest.approx(0.6),
    }  # fmt: skip
    scheduled = run_file(baseline(), schedule={"warmup": 0.1})
    assert "warning: the run's learning rate is not constant" in adasde("predict", scheduled).stdout


def test_predict_refuses_what_it_cannot_read_in_one_line(adasde, run_file, tmp_path, config):
    rows = baseline()
    (tmp_path / "note.txt").write_text("mine")
    simulation = next(spec for spec in plan(config).runs.values() if isinstance(spec, Simulation))
    save_run(tmp_path / "study.parquet", [(simulation.run, "sde", 1.0, 0, 0.0, "loss", 1.0)], simulation)
    for path, message in (
        (tmp_path / "nowhere.parquet", "no such file"),
        (tmp_path / "note.txt", "not a run's table, or a damaged one"),
        (run_file([*rows[:20], ("a", 9, 1.1, "diverged", 1.0)], "lost.parquet"), "diverged at time 1.1; a prediction"),
        (run_file([row for row in rows if row[3] == "train_loss"], "old.parquet"), "holds no persistent_speed_k2"),
        (run_file(rows[:5], "short.parquet"), "holds no persistent_speed_k2, ... along"),
        (
            run_file(rows, "svag.parquet", ell=2, rule="svag"),
            "holds SVAG at ell = 2; a prediction needs a plain training run",
        ),
        (tmp_path / "study.parquet", "holds a simulation; a prediction needs a plain"),
    ):
        done = adasde("predict", path)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"adasde: error: {path}: ")
        assert message in line
