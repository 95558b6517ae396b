"""spreads.py: how much gaps differ between seeds, from runs whose spread is known and from the reference."""

import csv
import math

import numpy as np
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.spreads import COLUMNS, POWER, Spread, _spread_of, measured_spreads, pooled, read_spreads
from adasde.analysis.forecast import write_forecast
from adasde.analysis.statistics import Sample
from analysis.claims.test_forecasts import forecast_to
from analysis.runs import FAITHFUL, WITH_SVAG, write_runs
from conftest import ROOT

TABLE = ROOT / "src/adasde/analysis/claims/spreads.csv"


@pytest.fixture
def scale(tmp_path, spec):
    """Make the folder of a scale from effects and the options of write_runs."""

    def make(name, effects, **options):
        paths = write_runs(tmp_path, spec, effects, **options)
        folder = tmp_path / name
        folder.mkdir()
        tables.write(folder, *tables.collect(paths))
        return folder

    return make


@pytest.mark.parametrize(("correlation", "least", "most"), [(0.0, 1.25, 1.45), (0.9, 1.05, 1.25), (1.0, 0.99, 1.01)])
def test_a_trajectory_has_the_power_of_a_single_number_with_its_spread(correlation, least, most):
    """Whatever the number of seeds is that it was measured with, and the number that is planned."""
    generator, times = np.random.default_rng(0), 8
    covariance = correlation * np.ones((times, times)) + (1 - correlation + 1e-9) * np.eye(times)
    root = np.linalg.cholesky(covariance)
    known = generator.normal(size=(times + 2, times))
    known -= known.mean(axis=0)
    known = np.linalg.solve(np.linalg.cholesky(np.cov(known.T)), known.T).T @ root.T  # which has just this covariance
    spread = _spread_of(Sample((known,)))
    assert least < spread < most
    for seeds in (3, 6, 20):
        highs = Sample((generator.normal(size=(4000, seeds, times)) @ root.T,)).gap.high
        tolerance = np.quantile(highs, POWER)
        assert Sample.single(spread / tolerance, seeds, True).power(1.0) == pytest.approx(POWER, abs=0.1)


def test_spreads_of_runs_by_hand(scale):
    """Each value is its constant times 1 + 0.01 of a normal number: a gap's deviation is sqrt(2) of it."""
    found = {row.metric: row for row in measured_spreads(scale("many", {("sqrt", 1): 0, ("sqrt", 4): 0}, seeds=30))}
    assert {(row.scale, row.workload, row.about, row.kind, row.claim) for row in found.values()} == {
        ("many", "fashion-cnn", "vision", "scratch", "rule")
    }
    one = math.sqrt(2) * 0.01 * 0.88 / 0.03  # of test accuracy, in tolerances, at one of the six times that count
    assert one < found["test_accuracy"].spread < 1.5 * one
    assert found["test_accuracy"].freedom == 29


def test_cells_that_say_nothing_of_a_null_do_not_count(scale):
    effects = {**WITH_SVAG, ("sqrt", 12): 0.0}
    found = measured_spreads(scale("some", effects, seeds=3, diverged={("sqrt", 12, 1)}))
    freedom = {row.claim: row.freedom for row in found if row.metric == "train_loss"}
    assert freedom == {"rule": 2 + 2, "svag": 4 + 4}  # two levels each, and none of rivals
    assert measured_spreads(scale("single", FAITHFUL, seeds=1)) == []


@pytest.mark.parametrize(("safe", "cells"), [(32.0, 2), (8.0, 1), (2.0, 1)])
def test_where_no_cell_is_forecast_to_hold_the_smallest_kappa_counts(scale, spec, safe, cells):
    folder = scale("forecast", {("sqrt", 1): 0.0, ("sqrt", 4): 0.0, ("sqrt", 12): 0.0}, seeds=3)
    (folder / "forecasts").mkdir()
    write_forecast(forecast_to(safe, spec.experiment), folder / f"forecasts/{spec.experiment}.json")
    assert {row.freedom for row in measured_spreads(folder)} == {2 * cells}


def test_a_table_is_renewed_scale_by_scale(scale, adasde, tmp_path):
    out, folder = tmp_path / "spreads.csv", scale("mine", WITH_SVAG)
    other = "other,fashion-cnn,vision,scratch,rule,lag,0.5,4\n"
    out.write_text(",".join(COLUMNS) + f"\n{other}mine,old,vision,scratch,rule,lag,0.5,4\n")
    for _ in range(2):
        done = adasde("claims", folder, "--spreads", out)
        assert (done.returncode, done.stderr) == (0, "")
        rows = list(csv.DictReader(out.open()))
        assert other in out.read_text()
        assert {row["workload"] for row in rows if row["scale"] == "mine"} == {"fashion-cnn"}
        assert len(rows) > 4
    text = out.read_text()
    out.write_text("a,b\n1,2\n")
    done = adasde("claims", folder, "--spreads", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no column 'scale'" in done.stderr
    assert out.read_text() != text


def test_pooling_is_by_degrees_of_freedom():
    rows = [
        Spread("a", "b", "vision", "scratch", "rule", "lag", spread, freedom) for spread, freedom in ((1, 3), (3, 1))
    ]
    assert pooled(rows) == pytest.approx(math.sqrt((3 * 1 + 9) / 4))


def test_the_package_holds_the_spreads_of_the_reference():
    known = read_spreads()
    assert len({row[:6] for row in map(list_of, known)}) == len(known) > 30
    assert all(0 < row.spread < 100 and row.freedom > 0 for row in known)  # short runs of few seeds reach 10
    assert {row.about for row in known} == {"vision", "language"}
    assert {row.scale for row in known} <= {path.name for path in (ROOT / "results/reference").iterdir()}
    assert 0.5 < POWER < 1


@pytest.mark.slow
def test_the_spreads_are_made_from_the_reference(adasde, tmp_path):
    for scale in {row.scale for row in read_spreads()}:
        found = sorted(map(list_of, measured_spreads(ROOT / "results/reference" / scale)))
        kept = sorted(list_of(row) for row in read_spreads() if row.scale == scale)
        assert [row[:6] for row in found] == [row[:6] for row in kept]
        assert [row[6] for row in found] == pytest.approx([row[6] for row in kept], rel=0.01)


def list_of(row):
    return tuple(getattr(row, name) for name in COLUMNS)
