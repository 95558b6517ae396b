"""The learning-rate schedule: its clock, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasde.common import InputError
from adasde.training.schedule import Schedule

schedules = st.builds(
    Schedule,
    warmup=st.floats(0.01, 0.2),
    warmup_from=st.floats(1e-3, 0.9),
    decays=st.sampled_from([(0.5,), (0.6, 0.8)]),
    decay_factor=st.floats(0.05, 0.9),
) | st.builds(Schedule, warmup=st.floats(0.01, 0.2), warmup_from=st.floats(1e-3, 0.9))


linear = st.builds(Schedule, warmup=st.sampled_from([0.0, 0.06, 0.5]), shape=st.just("linear"))


@given(schedule=schedules | linear, steps=st.integers(1, 300))
def test_every_batch_size_is_at_the_same_time_after_the_same_samples(schedule, steps):
    ticks = [k / steps for k in range(steps + 1)]
    squares = sum(schedule.factor(a, b) ** 2 / steps for a, b in zip(ticks, ticks[1:], strict=False))
    assert math.isclose(squares, schedule.elapsed(1.0), rel_tol=1e-9)


def test_the_factor_in_the_limit_of_small_steps():
    schedule = Schedule(warmup=0.1, warmup_from=1e-2, decays=(0.6, 0.8), decay_factor=0.1)
    for progress, factor in ((0, 1e-2), (0.05, 1e-1), (0.1, 1), (0.3, 1), (0.7, 0.1), (0.9, 0.01)):
        assert math.isclose(schedule.factor(progress, progress + 1e-6), factor, rel_tol=1e-3)
    assert Schedule().elapsed(0.25) == 0.25
    assert Schedule().constant
    assert not schedule.constant


@pytest.mark.parametrize(("name", "owner"), [("warmup_from", "warmup"), ("decay_factor", "decays")])
def test_what_nothing_would_use_is_refused(name, owner):
    with pytest.raises(InputError, match=f"^{name} = 0.5: goes with {owner}, which the schedule has none of$"):
        Schedule(**{name: 0.5})


@pytest.mark.parametrize(
    "values",
    [{"warmup": 1.0}, {"warmup_from": 0.0}, {"decays": (0.8, 0.6)}, {"warmup": 0.5, "decays": (0.3,)}],
)
def test_schedules_out_of_order_are_refused(values):
    with pytest.raises(InputError, match=next(iter(values)) if len(values) == 1 else "decays"):
        Schedule(**values)


def test_a_linear_schedule_rises_from_nothing_and_falls_to_nothing():
    schedule = Schedule(warmup=0.25, shape="linear")
    assert not schedule.constant
    factors = [schedule.factor(p - 1e-6, p + 1e-6) for p in (0.125, 0.25, 0.625, 0.875)]
    assert factors == pytest.approx([0.5, 1.0, 0.5, 1 / 6], rel=1e-4)
    assert schedule.elapsed(1.0) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="decays = .0.5,.: a linear schedule has none"):
        Schedule(decays=(0.5,), shape="linear")
    with pytest.raises(InputError, match="shape = 'cosine': must be steps or linear"):
        Schedule(shape="cosine")
