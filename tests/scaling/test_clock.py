"""Counts of steps: another batch size, whole steps of SDE time, SVAG levels."""

import math

import pytest

from adasde.common import InputError
from adasde.scaling.clock import scaled_steps, step_count, steps_until


def test_counts_of_steps():
    assert [scaled_steps(count, 4) for count in (0, 1, 1000, 1002)] == [0, 1, 250, 250]
    with pytest.raises(InputError, match="steps = 2.5: must be a whole number"):
        scaled_steps(2.5, 4)


def test_whole_steps_of_sde_time():
    assert steps_until("horizon", 0.75, 0.25) == 3
    assert steps_until("horizon", 0.3 + 0.6, 0.3) == 3  # but for rounding
    assert steps_until("horizon", 1.0, 0.25, start=0.5) == 2
    with pytest.raises(InputError, match="^horizon = 0.3: must be a whole number of steps of 0.25; the next is 0.5$"):
        steps_until("horizon", 0.3, 0.25)
    with pytest.raises(InputError, match="^record = 0.3: .* steps of 0.25 from 0.5; the next is 0.5$"):
        steps_until("record", 0.3, 0.25, start=0.5)
    with pytest.raises(InputError, match="^horizon = nan: .* the next is 0.25$"):
        steps_until("horizon", math.nan, 0.25)


def test_a_level_takes_ell_squared_steps_for_one():
    assert step_count(1280, 32) == 40
    assert step_count(1280, 32, ell=2) == 160
    assert step_count(128, 32, ell=1.5) == 9
    with pytest.raises(InputError, match=r"ell = 1.1: 32 samples .* would become 1.21 steps, .* \(nearest ell: 1\)"):
        step_count(32, 32, ell=1.1)
