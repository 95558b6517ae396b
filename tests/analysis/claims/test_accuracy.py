"""claims/accuracy.py: kappas that are judged apart, and how often noise is called a failure."""

import numpy as np

from adasde.analysis import tables
from adasde.analysis.claims.accuracy import spread
from analysis.runs import FAITHFUL, collected, judged, write_runs
from conftest import changed


def test_kappas_that_leave_no_average_are_judged_apart(tmp_path, spec):
    paths = write_runs(tmp_path, spec, FAITHFUL, seeds=10, noise=1e-3)
    extreme = changed(spec, optimizer=spec.document["optimizer"] | {"beta2": 0.36})
    paths += write_runs(tmp_path / "k12", extreme, {("sqrt", 12): -0.2}, seeds=10, noise=1e-3)
    found, table = judged(collected(paths))
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"
    assert found["final-accuracy-beyond.fashion-cnn-adam"] == "not reproduced"
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert "k12" not in notes["final-accuracy.fashion-cnn-adam"]
    assert "k12" in notes["final-accuracy-beyond.fashion-cnn-adam"]


def test_the_spread_of_final_values_is_not_blamed_for_its_own_noise():
    """Where there is no effect, hardly any spread of noise alone is called a failure, nor one of half the threshold."""
    random = np.random.default_rng(0)
    report = []
    for _ in range(200):
        values = {kappa: 0.4 + 0.027 * random.normal(size=(2, 1)) for kappa in (1, 2, 4, 8, 16)}
        found = spread(tables.Groups(np.zeros(1), np.zeros(1), {}, values, {}))
        low, high = found["bounds"]
        report.append((low > 0.03, high < 0.03))
    failed, held = np.mean(report, axis=0)
    assert failed <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5
    assert held == 0
    exact = {kappa: np.full((2, 1), 0.4) + 1e-4 * random.normal(size=(2, 1)) for kappa in (1, 2)}
    found = spread(tables.Groups(np.zeros(1), np.zeros(1), {}, exact, {}))
    assert found["bounds"][1] < 0.03
