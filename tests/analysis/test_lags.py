"""lag.py, the claims and the command that read it: curves whose lag is known."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.figures.registry import draw_figure
from adasde.analysis.lags import has_lags
from adasde.common import InputError
from adasde.experiments.artifacts import write_run
from adasde.scaling import lag

TIME = np.linspace(0.0, 2.0, 9)
SPEEDS = {2: 0.9, 4: 0.7, 8: 0.55, 16: 0.4}  # predicted by the baseline, constant in time


def test_a_constant_speed_stretches_time():
    assert np.allclose(lag.warp(TIME, np.full(9, 0.25)), 0.25 * TIME)
    assert np.allclose(lag.predicted(TIME, np.full((3, 9), 0.25)), 0.75)
    assert np.allclose(lag.predicted(TIME, np.ones(9)), 0.0)


def test_a_changing_speed_is_integrated_exactly():
    speed = np.array([0.2, 0.2, 0.5, 0.9, 0.3, 0.7, 0.7, 1.0, 0.6])
    tau, fine = 0.0, [0.0]
    for _ in range(200_000):  # midpoint rule
        half = tau + 0.5e-5 * np.interp(tau, TIME, speed)
        tau += 1e-5 * np.interp(half, TIME, speed)
        fine.append(tau)
    wanted = np.interp(TIME, np.linspace(0.0, 2.0, 200_001), fine)
    assert np.allclose(lag.warp(TIME, speed), wanted, atol=1e-7)
    assert np.allclose(lag.warp(TIME, np.stack([speed, speed / 2]))[0], wanted, atol=1e-7)
    assert lag.predicted(TIME, speed)[0] == pytest.approx(0.8)


def test_a_standstill_lags_by_everything():
    assert np.allclose(lag.predicted(TIME, np.zeros(9)), 1.0, atol=1e-5)


def test_the_lag_of_exponential_losses_is_found():
    baseline = 2.0 * np.exp(-TIME)
    found = lag.observed(TIME, baseline, 2.0 * np.exp(-0.7 * TIME))
    assert np.isnan(found[:2]).all()
    assert np.allclose(found[2:], 0.3)
    # A bump of the baseline is passed over: what it had at 0.5 and not again before 1.25 it had at 0.5.
    bumped = baseline.copy()
    bumped[4] = 2.0
    assert np.allclose(lag.observed(TIME, bumped, np.full(9, baseline[2]))[2:], 1 - 0.5 / TIME[2:])
    # A loss that the baseline never had has no time.
    assert np.isnan(lag.observed(TIME, baseline, np.full(9, 0.01))).all()
    assert np.isnan(lag.observed(TIME, baseline, np.full(9, 3.0))).all()


def test_between_recorded_kappas():
    speeds = {2: np.array([0.8]), 8: np.array([0.4])}
    assert lag.speed_between(speeds, 1) == [1.0]
    assert lag.speed_between(speeds, 2) == [0.8]
    assert np.isclose(lag.speed_between(speeds, 4)[0], 0.6)
    assert np.isclose(lag.speed_between(speeds, math.sqrt(2))[0], 0.9)
    with pytest.raises(InputError, match="kappa = 9: a run records its speeds for kappa from 1 to 8"):
        lag.speed_between(speeds, 9)


def test_the_largest_tolerable_kappa():
    curves = {kappa: np.array([1.0, end]) for kappa, end in ((2, 0.05), (4, 0.15), (8, 0.4))}
    assert lag.safe_kappa(curves) == pytest.approx(2**1.5)
    assert lag.safe_kappa({2: np.array([0.4])}) == pytest.approx(2**0.25)
    assert lag.safe_kappa({2: np.array([0.01]), 4: np.array([0.02])}) == 4


def rows_of(name, kappa, random, true, noise):
    """A run whose loss falls as the prediction says, or at the speed ``true`` of its kappa."""
    size = int(32 * kappa)
    for moment in TIME:
        step = round(moment * 6144 / size)
        loss = 2.0 * math.exp(-true.get(kappa, 1.0) * moment + (noise * random.normal() if moment else 0.0))
        yield name, step, float(moment), "train_loss", loss
        for k, speed in SPEEDS.items():
            yield name, step, float(moment), f"speed_k{k}", speed


@pytest.fixture
def trajectories(tmp_path, spec):
    def make(true=SPEEDS, kappas=(1, 2, 4, 16), seeds=3, noise=1e-3):
        random, paths = np.random.default_rng(0), []
        for kappa in kappas:
            for seed in range(seeds):
                name = f"a.sqrt.k{kappa}.s{seed}"
                own = {"run": name, "kappa": kappa, "batch_size": 32 * kappa, "seed": seed, "samples": 2 * 6144}
                paths.append(tmp_path / f"{name}.parquet")
                write_run(paths[-1], list(rows_of(name, kappa, random, true, noise)), {**spec, **own})
        return tables.collect(paths)[0]

    return make


EXPERIMENT = "fashion-cnn-adam"


def verdicts(table):
    found = evaluate_claims(table)
    return {row.id.partition(".")[0]: row for row in found.itertuples() if row.id.startswith("prediction")}


def test_runs_that_slow_down_as_predicted_reproduce_the_claims(trajectories):
    found = verdicts(trajectories(kappas=(1, 2, 4, 8, 16)))
    assert {row.verdict for row in found.values()} == {"reproduced"}
    # Predictions that are equal at all times share ranks, which bounds the correlation by sqrt(1 - 1 / 4^2).
    assert 0.94 < found["prediction-rank"].value < 0.97
    assert found["prediction-error"].value < 0.01
    assert "k16 0.60 0.6" in found["prediction-error"].note


def test_runs_that_do_not_slow_down_refute_them(trajectories):
    found = verdicts(trajectories(true={2: 0.75, 4: 0.98, 16: 0.999}))
    assert {row.verdict for row in found.values()} == {"not reproduced"}


def test_one_seed_and_few_batch_sizes(trajectories):
    assert {row.verdict for row in verdicts(trajectories(seeds=1)).values()} == {"inconclusive"}
    assert verdicts(trajectories(kappas=(1, 4))) == {}


def test_no_lag_without_speeds_a_baseline_or_a_constant_learning_rate(trajectories):
    table = trajectories()
    assert has_lags(table, EXPERIMENT)
    assert not has_lags(table[~table["metric"].str.startswith("speed")], EXPERIMENT)
    lost = table.assign(metric=table["metric"].where(table["run"] != "a.sqrt.k1.s0", "diverged"))
    assert not has_lags(lost, EXPERIMENT)
    assert not has_lags(table.assign(time=table["time"] ** 2), EXPERIMENT)
    assert not has_lags(table[table["kappa"] == 1], EXPERIMENT)
    with pytest.raises(InputError, match="breakdown': no baseline at a constant learning rate recorded"):
        draw_figure("breakdown", table.assign(time=table["time"] ** 2))


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"kappas": (1, 4)}, {"seeds": 2, "noise": 0.3}])
def test_the_figure_of_the_breakdown(trajectories, options):
    drawn = draw_figure("breakdown", trajectories(**options))
    top, bottom = drawn.axes
    assert top.get_ylabel() == bottom.get_ylabel() == "lag behind the baseline"
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels[-2:] == ["predicted", "observed"]
    assert len(labels) == len(options.get("kappas", (1, 2, 4, 16))) - 1 + 2
    plt.close(drawn)


def test_the_breakdown_says_how_many_seeds_each_experiment_has(trajectories):
    few, more = trajectories(seeds=2), trajectories(seeds=3)
    more = more.assign(experiment="b", run=more["run"].str.replace("a.", "b.", regex=False))
    drawn = draw_figure("breakdown", pd.concat([few, more]))
    assert "(2 or 3 seeds)" in drawn.get_suptitle()
    plt.close(drawn)


def test_the_legends_of_the_breakdown_are_true_of_all_panels(trajectories):
    """Of experiments that were measured at other moments, and of batch sizes that the first has not."""
    first, second = trajectories(), trajectories(kappas=(1, 2, 8, 16))
    second = second[second["time"] != TIME[4]]
    second = second.assign(experiment="b", run=second["run"].str.replace("a.", "b.", regex=False))
    drawn = draw_figure("breakdown", pd.concat([first, second]))
    moments, kappas = ([text.get_text() for text in panel.get_legend().get_texts()] for panel in drawn.axes[1::2])
    assert moments == ["about ¼ of the run", "about ½ of it", "its end", "predicted", "observed"]
    assert kappas == [rf"$\kappa = {kappa}$" for kappa in (2, 4, 8, 16)] + ["predicted", "observed"]
    plt.close(drawn)


@pytest.fixture
def run_file(tmp_path, spec):
    def write(rows, name="run.parquet", **changes):
        write_run(tmp_path / name, rows, {**spec, **changes})
        return tmp_path / name

    return write


def test_predict_prints_the_lags_and_the_largest_kappa(adasde, run_file):
    path = run_file(list(rows_of("a", 1, np.random.default_rng(0), {}, 0.0)))
    lines = adasde("predict", path).stdout.splitlines()
    assert [line.split() for line in lines[2:4]] == [["2", "64", "10.0%", "10.0%"], ["4", "128", "30.0%", "30.0%"]]
    assert lines[-1].startswith("largest kappa with a predicted lag under 10% at the end: 2 (linear in log kappa")
    found = json.loads(adasde("predict", path, "--json").stdout)
    assert found["safe_kappa"] == pytest.approx(2.0)
    assert found["rule_needs_kappa_below"] == 100
    assert found["lags"][-1] == {
        "kappa": 16, "batch_size": 512, "lag_at_end": pytest.approx(0.6), "largest_lag": pytest.approx(0.6),
    }  # fmt: skip
    scheduled = run_file(list(rows_of("a", 1, np.random.default_rng(0), {}, 0.0)), schedule={"warmup": 0.1})
    assert "warning: the run's learning rate is not constant" in adasde("predict", scheduled).stdout


def test_predict_refuses_what_it_cannot_read_in_one_line(adasde, run_file, tmp_path):
    rows = list(rows_of("a", 1, np.random.default_rng(0), {}, 0.0))
    (tmp_path / "note.txt").write_text("mine")
    for path, message in (
        (tmp_path / "nowhere.parquet", "no such file"),
        (tmp_path / "note.txt", "no run's table, or a damaged one"),
        (run_file([*rows[:20], ("a", 9, 1.1, "diverged", 1.0)], "lost.parquet"), "diverged at time 1.1; a prediction"),
        (run_file([row for row in rows if row[3] == "train_loss"], "old.parquet"), "holds no speed_k2, ... along"),
        (run_file(rows[:5], "short.parquet"), "holds no speed_k2, ... along"),
        (run_file(rows, "svag.parquet", ell=2), "holds SVAG at ell = 2; a prediction needs a plain training run"),
        (run_file(rows, "study.parquet", study="breakdown"), "holds a simulation; a prediction needs a plain"),
    ):
        done = adasde("predict", path)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"adasde: error: {path}: ")
        assert message in line
