"""Schedulers under `rescale`: whose rates follow, and whichever could put old rates back is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR

from adasde.common import InputError
from adasde.scaling.rescale import rescale

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")

TORCH = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: schedules.StepLR(o, 2),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=4),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 8),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 6, eta_min=1e-5),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, eta_min=1e-5),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 1e-4, 1e-3, step_size_up=4, cycle_momentum=False),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=12),
    "SWALR": lambda o: SWALR(o, 2e-4, anneal_epochs=5),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=2), schedules.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.1, 4), schedules.ExponentialLR(o, 0.9)]
    ),
}


def adam(**options):
    torch.manual_seed(0)
    return Adam([nn.Parameter(torch.ones(3))], **{"lr": 1e-3, "betas": (0.95, 0.99), **options})


def rates(kind, kappa, step=lambda scheduler: scheduler.step()):
    """Learning rates of 8 steps, the batch changed after three of them."""
    optimizer = adam()
    scheduler, found = kind(optimizer), []
    for count in range(8):
        if count == 3 and kappa != 1:
            rescale(optimizer, kappa, scheduler=scheduler)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step(scheduler)
    return [float(rate) for rate in found]


@pytest.mark.parametrize("name", TORCH)
def test_the_rates_of_torch_s_schedulers_follow(name):
    plain = rates(TORCH[name], 1)
    assert rates(TORCH[name], 4) == pytest.approx(plain[:3] + [2 * rate for rate in plain[3:]], rel=1e-9)


def test_no_scheduler_of_torch_is_missing_here():
    classes = {k for k, v in vars(schedules).items() if isinstance(v, type) and issubclass(v, schedules.LRScheduler)}
    assert classes - {"LRScheduler", "_LRScheduler", "ReduceLROnPlateau"} == set(TORCH) - {"SWALR"}


def test_a_plateau_goes_down_from_the_new_rate_to_the_new_least_one():
    optimizer = adam()
    scheduler = schedules.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=2e-4)
    rescale(optimizer, 4, scheduler=scheduler)
    for _ in range(4):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-4)


def test_beta1_follows_where_a_scheduler_moves_it():  # case R5
    for kind in (
        lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=40),
        lambda o: schedules.CyclicLR(o, 1e-4, 1e-3, step_size_up=20),
    ):
        found = []
        for kappa in (1, 4):
            optimizer = adam(betas=(0.95, 0.999))
            scheduler = kind(optimizer)
            optimizer.step()
            scheduler.step()
            if kappa != 1:
                rescale(optimizer, kappa, scheduler=scheduler)
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["betas"][0])
        assert 1 - found[1] == pytest.approx(4 * (1 - found[0]), rel=1e-9)
    optimizer = adam(betas=(0.95, 0.999))
    scheduler = schedules.OneCycleLR(optimizer, 1e-3, total_steps=40)
    before = copy.deepcopy(optimizer.param_groups[0])
    with pytest.raises(InputError, match="too large for beta1 = 0.85"):  # to which the schedule would take it
        rescale(optimizer, 8, scheduler=scheduler)
    assert str(optimizer.param_groups[0]) == str(before)


@pytest.mark.parametrize("form", [lambda s: [s], lambda s: {"scheduler": s, "interval": "step"}, lambda s: [s, (s,)]])
def test_schedulers_come_in_lists_and_dictionaries(form):  # case R3
    optimizer = adam()
    scheduler = schedules.ExponentialLR(optimizer, 0.5)
    rescale(optimizer, 4, scheduler=form(scheduler))
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("name", ["CosineLRScheduler", "StepLRScheduler", "PolyLRScheduler", "TanhLRScheduler"])
def test_the_rates_of_timm_s_schedulers_follow(name):  # case R3
    timm = pytest.importorskip("timm.scheduler")
    options = {"decay_t": 3, "decay_rate": 0.5} if name == "StepLRScheduler" else {"t_initial": 8, "lr_min": 1e-5}
    count = iter(range(1, 100))

    def kind(optimizer):
        return getattr(timm, name)(optimizer, warmup_t=2, warmup_lr_init=1e-4, t_in_epochs=False, **options)

    def step(scheduler):
        scheduler.step_update(next(count) % 8)

    plain = rates(kind, 1, step)
    count = iter(range(1, 100))
    assert rates(kind, 4, step) == pytest.approx(plain[:3] + [2 * rate for rate in plain[3:]], rel=1e-9)


def test_a_plateau_of_timm_follows():
    timm = pytest.importorskip("timm.scheduler")
    optimizer = adam()
    scheduler = timm.PlateauLRScheduler(optimizer, patience_t=0, lr_min=2e-4, warmup_t=0)
    rescale(optimizer, 4, scheduler=scheduler)
    for epoch in range(1, 6):
        scheduler.step(epoch, metric=0.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-4)


def test_what_accelerate_wraps_is_unwrapped():  # cases R3, R10
    accelerate = pytest.importorskip("accelerate")
    optimizer = adam()
    scheduler = schedules.ExponentialLR(optimizer, 0.5)
    accelerator = accelerate.Accelerator(cpu=True)
    wrapped, wrapped_scheduler = accelerator.prepare(optimizer, scheduler)
    assert wrapped is not optimizer
    rescale(wrapped, 4, scheduler=wrapped_scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-3)
    wrapped.step()
    wrapped_scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("module", ["lightning.pytorch.core.optimizer", "pytorch_lightning.core.optimizer"])
def test_what_lightning_wraps_is_unwrapped(module):  # case R10
    class LightningOptimizer:  # as Lightning's: the optimizer behind a property
        def __init__(self, optimizer):
            self._optimizer = optimizer

        @property
        def optimizer(self):
            return self._optimizer

    LightningOptimizer.__module__ = module
    optimizer = adam()
    rescale(LightningOptimizer(optimizer), 4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-3)


def test_a_scheduler_that_is_left_out_is_refused():  # case R3
    optimizer = adam()
    first, second = schedules.ExponentialLR(optimizer, 0.5), schedules.CosineAnnealingLR(optimizer, 5)
    for given in (None, first, [second]):
        with pytest.raises(InputError, match="scheduler: a .* holds rates of this optimizer, .* give it as well"):
            rescale(optimizer, 4, scheduler=given)
        assert optimizer.param_groups[0]["lr"] == 1e-3
    rescale(optimizer, 4, scheduler=[first, second])
    timm = pytest.importorskip("timm.scheduler")
    other = adam()
    kept = timm.CosineLRScheduler(other, t_initial=5)
    with pytest.raises(InputError, match="a CosineLRScheduler holds rates"):
        rescale(other, 4)
    del kept
    rescale(other, 4)


class WarmUp:
    """A wrapper of somebody's own."""

    def __init__(self, inner):
        self.inner, self.optimizer, self.base_lrs = inner, inner.optimizer, list(inner.base_lrs)

    def step(self):
        self.inner.step()


class Halving(schedules.LRScheduler):
    """A scheduler of somebody's own."""

    def get_lr(self):
        return [base * 0.5**self.last_epoch for base in self.base_lrs]


def test_a_scheduler_of_an_unknown_kind_is_refused():  # case R3
    optimizer = adam()
    inner = schedules.ExponentialLR(optimizer, 0.5)
    wrapper = WarmUp(inner)
    with pytest.raises(InputError, match="scheduler = WarmUp: must be a scheduler of torch, transformers, timm"):
        rescale(optimizer, 4, scheduler=wrapper)
    with pytest.raises(InputError, match="scheduler: a WarmUp holds rates"):
        rescale(optimizer, 4, scheduler=inner)
    other = adam()
    halving = Halving(other)
    with pytest.raises(InputError, match="scheduler = Halving: must be"):
        rescale(other, 4, scheduler=halving)
    with pytest.raises(InputError, match="scheduler: a Halving holds rates"):
        rescale(other, 4)
    endless = []
    endless.append(endless)
    with pytest.raises(InputError, match="scheduler: nests without end"):
        rescale(other, 4, scheduler=endless)
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == 1e-3


def test_a_scheduler_of_another_optimizer_is_refused():
    optimizer, other = adam(), SGD([nn.Parameter(torch.ones(1))], 0.1)
    scheduler = schedules.ExponentialLR(other, 0.5)
    with pytest.raises(InputError, match="scheduler = ExponentialLR: belongs to another optimizer"):
        rescale(optimizer, 4, scheduler=scheduler)


def test_a_loaded_checkpoint_is_rescaled():  # case R7
    old = adam()
    scheduler = schedules.ExponentialLR(old, 0.5)
    new = adam()
    new.load_state_dict(old.state_dict())
    assert "initial_lr" in new.param_groups[0]
    rescale(new, 4)
    again = schedules.ExponentialLR(new, 0.5, last_epoch=0)
    assert again.base_lrs == pytest.approx([2e-3])
    assert scheduler.base_lrs == [1e-3]


def test_groups_that_share_a_tensor_are_scaled_once():  # case R2
    rate = torch.tensor(1e-3)
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = AdamW([{"params": [first]}, {"params": [second]}], lr=rate, fused=True)
    rescale(optimizer, 4)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([2e-3, 2e-3])
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(optimizer.defaults["lr"]) == pytest.approx(2e-3)


def test_the_defaults_follow():  # case R6
    optimizer = AdamW([nn.Parameter(torch.ones(3))], lr=1e-3)
    rescale(optimizer, 4)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    group = optimizer.param_groups[1]
    assert (group["lr"], *group["betas"]) == pytest.approx((2e-3, 0.6, 0.996))
    assert (group["eps"], group["weight_decay"]) == pytest.approx((5e-9, 0.02))


def test_counts_of_steps_change_in_place():  # case R13
    weight = nn.Parameter(torch.ones(3))
    optimizer = Adam([weight], betas=(0.9, 0.99))
    weight.grad = torch.ones(3)
    for _ in range(8):
        optimizer.step()
    before = dict(optimizer.state[weight])
    rescale(optimizer, 4)
    assert float(before["step"]) == 2.0
    assert all(optimizer.state[weight][name] is tensor for name, tensor in before.items())
