"""lag.py: curves whose lag is known."""

import math

import numpy as np
import pytest

from adasde.common import InputError
from adasde.scaling import lag

TIME = np.linspace(0.0, 2.0, 9)


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
