"""A batch ramp: its rates, its batches and its SDE time against the run that decays, and its limits."""

import math

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim import lr_scheduler as schedules

from adasde.common import InputError
from adasde.scaling.micro_batches import MicroBatchNoise
from adasde.scaling.ramp import BatchRamp
from conftest import slow

BETAS = (0.99, 0.995)


def adam(lr=1e-3, betas=BETAS):
    torch.manual_seed(0)
    return Adam([nn.Parameter(torch.ones(3))], lr, betas)


def course(ramp, examples):
    """Return (examples seen, batch, lr, betas) of every step up to ``examples``."""
    found = []
    while ramp.examples < examples:
        group = ramp.optimizer.param_groups[0]
        found.append((ramp.examples, ramp.batch_size, group["lr"], group["betas"]))
        ramp.optimizer.step()
        ramp.step()
    return found


def test_the_batch_doubles_at_milestones_and_the_rate_falls_by_the_root():
    found = course(BatchRamp(adam(), 32, [320, 640]), 960)
    assert [(seen, size) for seen, size, *_ in found if seen in (288, 320, 576, 640, 896)] == [
        (288, 32), (320, 64), (576, 64), (640, 128), (896, 128)
    ]  # fmt: skip
    assert found[-1][2] == pytest.approx(1e-3 / 2)
    assert found[-1][3] == pytest.approx((0.96, 0.98))


def test_the_sde_time_is_that_of_the_run_that_decays():
    def elapsed(found):
        return sum(lr**2 for *_, lr, _ in found)

    decayed = 10 * (1e-3) ** 2 + 10 * (1e-3 / 2) ** 2 + 20 * (1e-3 / 4) ** 2
    assert elapsed(course(BatchRamp(adam(), 32, [320, 640]), 40 * 32)) == pytest.approx(decayed, rel=1e-9)


@pytest.mark.parametrize(
    "kind",
    [
        lambda o: schedules.CosineAnnealingLR(o, 64, eta_min=1e-4),
        slow(lambda o: schedules.ExponentialLR(o, 0.97)),
        lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=64, cycle_momentum=False, final_div_factor=1),
    ],
)
def test_a_scheduler_is_followed_between_doublings(kind):
    optimizer = adam()
    ramp = BatchRamp(optimizer, 8, kind(optimizer), steps=64, largest=64)
    found = course(ramp, 64 * 8)
    plain = adam()
    scheduler, rates = kind(plain), []
    for _ in range(64):
        rates.append(plain.param_groups[0]["lr"])
        plain.step()
        scheduler.step()
    sizes = [size for _, size, *_ in found]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 8
    for seen, size, lr, betas in found:
        # The rule at kappa = size / 8, on the rate that the schedule has there.
        assert lr == pytest.approx(rates[seen // 8] * math.sqrt(size / 8), rel=1e-9)
        assert 1 - betas[0] == pytest.approx(size / 8 * (1 - BETAS[0]))
        below = max(rates[seen // 8 :]) / max(rates)  # the batch is doubled where the rate has fallen to half, for good
        assert size / 8 == min(8, 2 ** int(math.log2(1 / below) + 1e-9))


class Noise:
    """What a ramp asks of a measurement of the noise."""

    def __init__(self, critical):
        self.critical, self.told = critical, []

    def critical_batch(self):
        return self.critical

    def rescaled(self, kappa):
        self.told.append(kappa)


def test_the_batch_grows_up_to_the_critical_one():
    noise = Noise(100.0)
    found = course(BatchRamp(adam(), 32, [320, 640, 960], noise=noise), 1280)
    assert [size for _, size, *_ in found if size != 32] == [64] * (len(found) - 10)
    assert found[-1][2] == pytest.approx(1e-3 / 8 * math.sqrt(2))  # the rest of the schedule falls on the rate
    assert noise.told == [2]


def test_a_noise_that_is_measured_goes_along():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(50))
    optimizer = Adam([weight], 1e-4, (0.99, 0.995))
    noise = MicroBatchNoise(optimizer, micro_batch_size=8, every=1)
    ramp = BatchRamp(optimizer, 16, [160, 320], noise=noise)
    sizes = []
    for _ in range(30):
        optimizer.zero_grad()
        count = ramp.batch_size // 8
        for _ in range(count):
            (weight * (0.01 + torch.randn(50))).sum().div(count).backward()
            noise.accumulate()
        optimizer.step()
        ramp.step()
        sizes.append(ramp.batch_size)
    assert sizes[-1] == 64
    assert noise.batch_size == 64


def test_state_goes_into_a_checkpoint():
    one = BatchRamp(adam(), 32, [320, 640])
    course(one, 480)
    optimizer = adam()
    two = BatchRamp(optimizer, 32, [320, 640])
    optimizer.load_state_dict(one.optimizer.state_dict())
    two.load_state_dict(one.state_dict())
    assert course(two, 960) == course(one, 960)
    state, kept = one.state_dict(), two.state_dict()
    for wrong, words in (
        ({}, "state_dict: holds no examples"),
        ({**state, "kappa": 0}, "kappa = 0: must be a whole number >= 1"),
        ({**state, "examples": "x"}, "examples = 'x': must be a whole number"),
        ({**state, "factor": None}, "factor = None: must be a finite number > 0"),
    ):
        with pytest.raises(InputError, match=words):
            two.load_state_dict(wrong)
        assert two.state_dict() == kept


def test_what_cannot_be_is_refused_when_the_ramp_is_made():
    optimizer = adam(betas=(0.9, 0.99))
    with pytest.raises(InputError, match="largest: .* to 512; give a limit, or noise .*too large for beta1 = 0.9"):
        BatchRamp(optimizer, 32, [1, 2, 3, 4])
    BatchRamp(optimizer, 32, [1, 2, 3, 4], largest=128 + 32)
    assert BatchRamp(optimizer, 32, [1, 2, 3, 4], betas="half-life")._most == 16
    scheduler = schedules.CosineAnnealingLR(optimizer, 10)
    with pytest.raises(InputError, match="steps: missing"):
        BatchRamp(optimizer, 32, scheduler)
    for words, arguments in (
        ("milestones = .*: must increase", ([3, 2],)),
        ("steps = -5: goes with a scheduler, not with milestones", ([3], -5)),
        ("largest = 16: must be a whole number >= 32", ([3], None, 16)),
        ("batch_size", ([3],)),
    ):
        with pytest.raises(InputError, match=words):
            BatchRamp(adam(), 0 if words == "batch_size" else 32, *arguments)
    longer = schedules.LambdaLR(adam(), lambda k: 0.0 if k > 5 else 1.0)
    with pytest.raises(InputError, match="largest: missing; the rate falls to 0"):
        BatchRamp(longer.optimizer, 32, longer, steps=10)


def test_groups_with_schedules_of_their_own_are_refused_and_so_is_another_scheduler():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = Adam([{"params": [first]}, {"params": [second]}], 1e-3, BETAS)
    differing = schedules.LambdaLR(optimizer, [lambda k: 1.0, lambda k: 0.9**k])
    with pytest.raises(InputError, match="schedule: differs between parameter groups"):
        BatchRamp(optimizer, 8, differing, steps=20)
    with pytest.raises(InputError, match="scheduler: a LambdaLR holds rates of this optimizer"):
        BatchRamp(optimizer, 8, [80])
    with pytest.raises(InputError, match="scheduler = LambdaLR: belongs to another optimizer"):
        BatchRamp(adam(), 8, differing, steps=20)


def test_a_noise_that_refuses_leaves_everything_as_it_was():
    class Silent(Noise):
        def critical_batch(self):
            raise InputError("nothing measured yet")

    ramp = BatchRamp(adam(), 32, [32], noise=Silent(1.0))
    with pytest.raises(InputError, match="nothing measured yet"):
        ramp.step()
    assert (ramp.examples, ramp.optimizer.param_groups[0]["lr"]) == (0, 1e-3)
