"""forecast.py: what a baseline says of larger batches, and its file."""

import json

import numpy as np
import pytest

from adasde.analysis.forecast import forecast_of, make_forecast, read_forecast, read_forecasts, write_forecast
from adasde.common import InputError, canonical, digest
from adasde.experiments.artifacts import Result
from conftest import changed, save_run

TIME = np.linspace(0.0, 2.0, 9)
SPEEDS = {2: 0.95, 4: 0.85, 8: 0.7, 16: 0.5}


def loss(time):
    return 2.0 * np.exp(-time)


def rows_of(run, noisy=(0.0, 1.0, 2.0), speeds=SPEEDS, metrics=None):
    """Rows of a baseline whose loss falls geometrically; its noise is measured at three times."""
    metrics = metrics or {"train_loss": loss, "test_accuracy": lambda time: 0.2 + 0.2 * time}
    rows = [(run, round(10 * t), float(t), name, float(curve(t))) for t in TIME for name, curve in metrics.items()]
    rows += [(run, round(10 * t), t, f"speed_k{k}", speed / 2) for t in noisy for k, speed in speeds.items()]
    return rows + [
        (run, round(10 * t), t, f"persistent_speed_k{k}", speed) for t in noisy[1:] for k, speed in speeds.items()
    ]


@pytest.fixture
def results(spec):
    """Finished runs of a baseline, two seeds."""

    def make(**options):
        specs = [changed(spec, run=f"a.s{seed}", seed=seed) for seed in range(2)]
        return [Result(one, rows_of(one.run, **options), {}) for one in specs]

    return make


def test_constant_speeds_forecast_constant_lags_and_gaps_in_natural_units(results, spec):
    found = forecast_of(results(), "here")
    assert (found.experiment, found.kind, found.seeds) == (spec.experiment, "scratch", 2)
    assert {kappa: found.lag(kappa) for kappa in SPEEDS} == pytest.approx({k: 1 - v for k, v in SPEEDS.items()})
    assert found.lag(1) == pytest.approx(0.0)
    assert [found.holds(kappa) for kappa in (1, 2, 4)] == [True, True, False]
    # The whole gradient, of which half does not persist here, predicts more.
    assert found.instant_lag(4) == pytest.approx(1 - SPEEDS[4] / 2)
    # Linear in log kappa: half-way between the lags .05 and .15 of kappa 2 and 4.
    assert found.safe_kappa == pytest.approx(2 * 2**0.5)
    # At time t the larger batch is where the baseline was at 0.7 t; the window begins at t = 0.5.
    gaps = found.gaps(8)
    time = TIME[TIME >= 0.5]
    assert gaps["train_loss"].gap == pytest.approx((loss(0.7 * time) - loss(time)).max())
    assert gaps["train_loss"].tolerance == pytest.approx(0.05 * (loss(0) - loss(2)))
    assert gaps["test_accuracy"].gap == pytest.approx(-0.3 * 0.2 * 2, rel=0.02)  # interpolated in the logarithm
    assert [found.gaps_hold(kappa) for kappa in (1, 2, 4, 8)] == [True, True, False, False]


def test_a_slower_start_costs_less_in_the_end(results):
    """Persistent speeds belong to the two stretches; the speed between these is their mean, and then linear."""
    stretches = {1.0: 0.25, 2.0: 1.0}
    made = [
        Result(
            one.spec,
            [(*row[:4], stretches[row[2]] if row[3] == "persistent_speed_k4" else row[4]) for row in one.rows],
            {},
        )
        for one in results()
    ]
    found = forecast_of(made, "here")
    assert found.speeds[4].tolist() == [0.25, 0.625, 1.0]
    # tau' = 0.25 + 0.375 tau, so tau = (exp(0.375 t) - 1) / 1.5, and at the end tau(2) = 0.745.
    assert found.lag(4) == pytest.approx(1 - (np.exp(0.75) - 1) / 1.5 / 2)


def test_the_file_gives_back_the_forecast(results, tmp_path):
    found, path = forecast_of(results(), "here"), tmp_path / "a.json"
    write_forecast(found, path)
    again = read_forecast(path)
    assert again.document == found.document
    assert again.safe_kappa == found.safe_kappa
    first = json.loads(path.read_text())["forecasts"][0]
    assert (first["kappa"], first["holds"]) == (2, True)
    assert first["lag_at_end"] == pytest.approx(0.05)
    text = path.read_text()
    path.write_text(text.replace('"holds":true', '"holds":false', 1))
    with pytest.raises(InputError, match="damaged .not what was written."):
        read_forecast(path)
    path.write_text(text[:100])
    with pytest.raises(InputError, match="no forecast, or a damaged one"):
        read_forecast(path)
    with pytest.raises(InputError, match="no such file"):
        read_forecast(tmp_path / "nowhere.json")


@pytest.mark.parametrize("kappa", [0.5, 32])
def test_a_kappa_without_a_forecast_is_refused_in_one_line(results, kappa, spec):
    message = f"{spec.experiment}: no forecast for kappa = {kappa:g}; .* from 1 to 16"
    with pytest.raises(InputError, match=message):
        forecast_of(results(), "here").holds(kappa)


def test_what_is_no_baseline_or_did_not_end_forecasts_nothing(results, spec, tmp_path):
    run = results()[0]
    larger = changed(spec, kappa=4, batch_size=128, run="a.k4", samples=12288, evaluate=[12288])
    for bad, message in (
        (Result(larger, run.rows, {}), "a.k4 is not a baseline"),
        (Result(run.spec, [*run.rows, ("a", 99, 3.0, "diverged", 1.0)], {}), "diverged at time 3"),
        (Result(run.spec, rows_of("a", speeds={}), {}), "holds no persistent_speed_k2"),
        (Result(run.spec, rows_of("a", noisy=(0.0,)), {}), "holds no persistent_speed_k2"),
    ):
        with pytest.raises(InputError, match=message):
            forecast_of([bad], "here")
    other = changed(spec, experiment="b")
    with pytest.raises(InputError, match=f"here: holds {spec.experiment} and b"):
        forecast_of([run, Result(other, run.rows, {})], "here")
    save_run(tmp_path / "a.parquet", rows_of(spec.run), spec)
    assert make_forecast([tmp_path / "a.parquet"]).seeds == 1


def test_a_baseline_that_diverged_is_a_result_too(spec, tmp_path):
    rows = [*rows_of(spec.run), (spec.run, 99, 3.0, "diverged", 1.0)]
    save_run(tmp_path / "a.parquet", rows, spec)
    found = make_forecast([tmp_path / "a.parquet"])
    assert str(found) == f"{spec.experiment}: no forecast, since {spec.run} diverged at time 3"
    (tmp_path / "forecasts").mkdir()
    write_forecast(found, tmp_path / "forecasts/a.json")
    assert read_forecast(tmp_path / "forecasts/a.json") == found
    assert read_forecasts(tmp_path) == {}


def test_a_branch_is_forecast_from_the_speeds_along_it_with_its_norm(spec):
    parent = {"run": "a.s9", "spec_hash": "0" * 64, "samples": 64}
    branch = changed(spec, run="b.s0", experiment="b", parent=parent)
    metrics = {"train_loss": loss, "squared_norm": lambda time: 100 + 5 * time}
    found = forecast_of([Result(branch, rows_of("b.s0", metrics=metrics), {})], "here")
    gaps = found.gaps(8)
    assert found.kind == "branch"
    assert gaps["squared_norm"].gap == pytest.approx(-5 * 0.3 * 2, rel=0.01)
    assert gaps["squared_norm"].tolerance == pytest.approx(0.1 * 10)
    assert gaps["train_loss"].tolerance == pytest.approx(0.1 * (loss(0) - loss(2)))
    # All times count: the gap is largest where the loss still falls fast, between the evaluations at 1 and 1.25.
    assert gaps["train_loss"].gap == pytest.approx(max(loss(0.7 * TIME) - loss(TIME)))


@pytest.mark.parametrize("noisy", [(0.0, 0.0, 0.0), (1.0, 2.0), (0.0, 2.0, 1.0)])
def test_times_that_do_not_rise_from_0_forecast_nothing(noisy, results, spec, adasde, tmp_path):
    with pytest.raises(InputError, match="its noise is not measured at times that rise from 0"):
        forecast_of(results(noisy=noisy), "a")
    save_run(tmp_path / "a.parquet", rows_of(spec.run, noisy=noisy), spec)
    for command in (("predict", "a.parquet"), ("forecast", "a.parquet", "--out", "a.json")):
        done = adasde(*command, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "times that rise from 0" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        *({"time": time} for time in ([0.0] * 3, [0.0], [], [0.0, 1.0], [[0.0, 1.0, 2.0]], [0.0, None, 2.0])),
        *({"speeds": speeds} for speeds in ({}, {"2": [1.0]}, {"2": 1.0})),
        *({"curves": curves} for curves in ({}, {"train_loss": [1.0]})),
        {"curve_time": [0.0] * 9},
    ],
)
def test_a_forecast_of_other_content_under_a_valid_digest_is_one_line(change, results, tmp_path):
    document = forecast_of(results(), "a").document | change
    path = tmp_path / "a.json"
    path.write_text(canonical({**document, "sha256": digest(canonical(document))}))
    with pytest.raises(InputError, match="a.json: no forecast, or a damaged one"):
        read_forecast(path)


def test_seeds_that_measured_other_things_make_no_forecast(results):
    one, other = results()
    rows = [row for row in other.rows if row[3] != "test_accuracy"]
    with pytest.raises(InputError, match="a: its runs measured other things, or at other times"):
        forecast_of([one, Result(other.spec, rows, {})], "a")
