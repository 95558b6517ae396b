"""The state that `rescale` carries over: the length of steps after a change of batch, against what it comes to."""

import copy

import pytest
import torch
from torch.optim import Adam, AdamW, NAdam, RMSprop

from adasde.scaling import optimizers
from adasde.scaling.rescale import rescale, transported
from conftest import slow

WEIGHTS = 1000
KINDS = {
    "Adam": lambda p, h: Adam(p, 1e-9, h, 1e-12),
    "fused Adam": lambda p, h: Adam(p, 1e-9, h, 1e-12, fused=True),
    "AdamW": lambda p, h: AdamW(p, 1e-9, h, 1e-12, weight_decay=0.0),
    "NAdam": lambda p, h: NAdam(p, 1e-9, h, 1e-12),
    "beta1 = 0": lambda p, h: Adam(p, 1e-9, (0.0, h[1]), 1e-12),
    "RMSprop": lambda p, h: RMSprop(p, 1e-9, h[1], 1e-12),
    "RMSprop of the paper": lambda p, h: optimizers.RMSprop(p, 1e-9, h[1], 1e-12),
}


class Walk:
    """An optimizer on gradients of a fixed mean, whose noise has the variance 1 / batch; its weights hardly move."""

    def __init__(self, kind, signal, betas):
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.zeros(WEIGHTS, dtype=torch.float64))
        self.optimizer, self.mean = KINDS[kind]([self.weight], betas), signal**0.5

    def length(self, batch, steps=1):
        """Take steps; return the root mean square of the last, over the learning rate."""
        for _ in range(steps):
            before = self.weight.detach().clone()
            self.weight.grad = self.mean + torch.randn_like(self.weight) * batch**-0.5
            self.optimizer.step()
        moved = (self.weight.detach() - before).square().mean().sqrt().item()
        return moved / self.optimizer.param_groups[0]["lr"]


def ratio(kind, kappa, signal, second_moment="transport"):
    """Length of the first step after a change of batch, over what it would be if v had its mean at the new batch.

    Signal over noise is that of one example, the smaller of the two batches.
    """
    batch, factor = (1.0, 1.0) if kappa > 1 else (1 / kappa, 1 / kappa)
    walk = Walk(kind, signal, (1 - 0.0025 * factor, 1 - 0.0025 * factor))
    walk.length(batch, round(2000 / factor))
    rescale(walk.optimizer, kappa, second_moment=second_moment)
    right = copy.deepcopy(walk)
    (state,) = right.optimizer.state.values()
    v = next(state[name] for name in ("exp_avg_sq", "square_avg", "v") if name in state)
    v.fill_(signal + 1 / (batch * kappa))  # the correction of the bias is 1 after 5 half-lives
    lengths = []
    for each in (walk, right):
        torch.manual_seed(1)
        lengths.append(each.length(batch * kappa))
    return lengths[0] / lengths[1]


# The others are variants of these.
COMMON = [kind if kind in ("Adam", "AdamW", "RMSprop") else slow(kind) for kind in KINDS]


@pytest.mark.parametrize("kappa", [16.0, slow(4.0), slow(1 / 16)])
@pytest.mark.parametrize("kind", COMMON)
def test_the_first_step_has_its_right_length(kind, kappa):  # case R1
    for signal in (0.01, 1.0):
        right = 1.0
        if "RMSprop" in kind or kind == "beta1 = 0":  # without a mean of gradients all of v is taken for noise
            old = 1.0 if kappa > 1 else kappa  # the noise before the change
            new, rest = old / kappa, 0.0025 * max(kappa, 1.0)  # v takes in the gradient of the step itself
            rest = 0.0 if kind == "RMSprop of the paper" else rest
            right = ((signal + new) / ((1 - rest) * (signal + old) / kappa + rest * (signal + new))) ** 0.5
        # v averages 800 gradients (50 at kappa 1/16), which leaves 1 % (4 %) of its root per weight, less over 1,000.
        assert ratio(kind, kappa, signal) == pytest.approx(right, rel=0.03)


def test_a_kept_second_moment_is_as_wrong_as_the_theory_says():
    # The step itself adds (1 - beta2) of its own square to v: 0.04 of the new noise, and at kappa = 1/16 rather less.
    assert ratio("Adam", 16.0, 0.0, "keep") == pytest.approx(1 / 4, rel=0.05)
    assert ratio("Adam", 1 / 16, 0.0, "keep") == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("kind", COMMON)
def test_kappa_and_back_restores_the_state(kind):
    walk = Walk(kind, 1.0, (0.99, 0.995))  # the signal is clear, so that nothing is clipped
    walk.length(1.0, 500)
    state = {name: value.clone() for name, value in walk.optimizer.state[walk.weight].items()}
    rescale(walk.optimizer, 8.0)
    assert any(not torch.equal(value, state[name]) for name, value in walk.optimizer.state[walk.weight].items())
    rescale(walk.optimizer, 1 / 8)
    for name, value in walk.optimizer.state[walk.weight].items():
        assert torch.allclose(value, state[name], rtol=1e-9, atol=0), name


def test_the_correction_of_young_averages_goes_on():
    # After 30 steps the correction of v is 0.03, and both averages are corrected by other factors afterwards.
    walk = Walk("Adam", 0.0, (0.95, 0.999))
    walk.length(1.0, 30)
    state = {name: value.clone() for name, value in walk.optimizer.state[walk.weight].items()}
    rescale(walk.optimizer, 4.0)
    new = walk.optimizer.state[walk.weight]
    corrected = [state["exp_avg"] / (1 - 0.95**30), new["exp_avg"] / (1 - 0.8**7.5)]
    assert torch.allclose(*corrected, rtol=1e-12)
    old = state["exp_avg_sq"] / (1 - 0.999**30)
    assert torch.allclose(new["exp_avg_sq"] / (1 - 0.996**7.5), transported(corrected[0], old, 0.95, 0.8, 30, 4.0))


@pytest.mark.parametrize("kind", [Adam, AdamW, NAdam, RMSprop])
def test_complex_weights_are_pairs_of_real_ones(kind):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5, dtype=torch.complex128))
    pair = torch.nn.Parameter(torch.view_as_real(weight.detach()).clone())
    one, two = kind([weight], lr=1e-2), kind([pair], lr=1e-2)
    for count in range(6):
        if count == 3:
            rescale(one, 4.0)
            rescale(two, 4.0)
        weight.grad = torch.randn_like(weight)
        pair.grad = torch.view_as_real(weight.grad).clone()
        one.step()
        two.step()
    assert torch.allclose(torch.view_as_real(weight.detach()), pair.detach(), rtol=1e-12)


def test_the_second_moment_by_hand():
    m, v = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])
    share = 0.01 / 1.99  # (1 - beta1) / (1 + beta1)
    signal = torch.tensor([0.0, (1 - share * 4) / (1 - share), 9.0])  # clipped at 0 and at v
    assert torch.allclose(transported(m, v, 0.99, 0.96, 1e9, 4.0), signal + (v - signal) / 4)
    assert torch.equal(transported(m, v, 0.0, 0.0, 5, 4.0), v / 4)
    assert torch.equal(transported(m, v, 0.9, 0.6, 1, 4.0), v / 4)  # one gradient tells nothing of its noise


@pytest.mark.parametrize("rule", ["none", "linear", "lr-only", "sqrt-no-betas"])
def test_where_the_betas_stay_the_averages_keep_their_reach(rule):
    walk = Walk("Adam", 0.0, (0.9, 0.999))
    walk.length(1.0, 100)
    (state,) = walk.optimizer.state.values()
    before = {name: value.clone() for name, value in state.items()}
    rescale(walk.optimizer, 4.0, rule, second_moment="keep")
    assert all(torch.equal(state[name], value) for name, value in before.items())
