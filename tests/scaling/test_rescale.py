"""rescale, in place: every optimizer against the rule, in mid-training, with schedulers."""

import copy

import pytest
import torch
from torch import nn

from adasde.common import InputError
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rescale import rescale
from adasde.scaling.rules import ScalingWarning
from conftest import slow

KAPPA = 4.0


def weights():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))]


def groups():
    first, second = weights()
    return [{"params": [first]}, {"params": [second], "lr": 5e-4, "weight_decay": 0.0}]


def adam(kind, **options):
    return kind(groups(), lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, **options)


OPTIMIZERS = {
    "Adam": (lambda: adam(torch.optim.Adam), False),
    "fused Adam": (lambda: adam(torch.optim.Adam, fused=True), False),
    "AdamW": (lambda: adam(torch.optim.AdamW), True),
    "NAdam": (lambda: adam(torch.optim.NAdam), False),
    "decoupled NAdam": (lambda: adam(torch.optim.NAdam, decoupled_weight_decay=True), True),
}


def betas_of(group):
    return group["betas"] if "betas" in group else (group["beta1"], group["beta2"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rule", ["sqrt", slow("linear"), slow("sqrt-no-eps")])
def test_all_groups_of_adam_follow_the_rule(name, rule):
    make, decoupled = OPTIMIZERS[name]
    optimizer = make()
    rescale(optimizer, KAPPA, rule)
    for group, lr, decay in zip(optimizer.param_groups, (1e-3, 5e-4), (0.1, 0.0), strict=True):
        wanted = AdamHyperparameters(lr, 0.9, 0.99, 1e-6, decay, decoupled).scaled(KAPPA, rule)
        assert group["lr"] == pytest.approx(wanted.lr, rel=1e-12)
        assert betas_of(group) == pytest.approx((wanted.beta1, wanted.beta2), rel=1e-12)
        assert (group["eps"], group["weight_decay"]) == pytest.approx((wanted.eps, wanted.weight_decay), rel=1e-12)
    if "NAdam" in name:
        assert optimizer.param_groups[0]["momentum_decay"] == pytest.approx(4e-3 * (1 if rule == "linear" else KAPPA))
    rescale(optimizer, 1 / KAPPA, rule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3, rel=1e-12)
    assert betas_of(optimizer.param_groups[1]) == pytest.approx((0.9, 0.99), rel=1e-12)


@pytest.mark.parametrize(
    "kind",
    [lambda p: torch.optim.RMSprop(p, 1e-3, alpha=0.9, eps=1e-6), lambda p: optimizers.RMSprop(p, 1e-3, 0.9, 1e-6)],
)
def test_rmsprop_follows_the_rule(kind):
    optimizer = kind(weights())
    rescale(optimizer, KAPPA)
    (group,) = optimizer.param_groups
    wanted = RMSpropHyperparameters(1e-3, 0.9, 1e-6).scaled(KAPPA)
    assert (group["lr"], group["eps"]) == pytest.approx((wanted.lr, wanted.eps))
    assert group.get("alpha", group.get("beta")) == pytest.approx(wanted.beta)


def test_adam_without_momentum_is_rmsprop():
    optimizer = torch.optim.AdamW(weights(), lr=1e-3, betas=(0.0, 0.99), weight_decay=0.1)
    rescale(optimizer, KAPPA)
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.0, 0.96))
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.2)


def step(optimizer, gradient):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, gradient)
    optimizer.step()


def test_kept_averages_are_untouched_and_their_correction_goes_on_where_it_was():
    (weight,) = params = weights()[:1]
    optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.99, 0.999), eps=1e-8)
    for count in range(20):
        step(optimizer, 1.0 + 0.1 * count)
    state = {name: value.clone() for name, value in optimizer.state[weight].items()}
    rescale(optimizer, KAPPA, second_moment="keep")
    kept = optimizer.state[weight]
    assert torch.equal(kept["exp_avg"], state["exp_avg"])
    assert torch.equal(kept["exp_avg_sq"], state["exp_avg_sq"])
    # What torch divides the averages by is what it was, up to the rule's own accuracy.
    for old, new in zip((0.99, 0.999), optimizer.param_groups[0]["betas"], strict=True):
        assert 1 - new ** kept["step"].item() == pytest.approx(1 - old**20, rel=0.03)


def test_what_the_rule_does_not_cover_is_refused_and_nothing_is_changed():
    with pytest.raises(InputError, match="optimizer = SGD: must be torch's Adam, AdamW, NAdam or RMSprop"):
        rescale(torch.optim.SGD(weights(), 0.1), KAPPA)
    for optimizer, words in (
        (torch.optim.Adam(weights(), amsgrad=True), "amsgrad = True: the rule is for Adam without"),
        (torch.optim.RMSprop(weights(), momentum=0.9), "momentum = 0.9: the rule is for RMSprop without"),
        (torch.optim.RMSprop(weights(), centered=True), "centered = True: the rule is for RMSprop without"),
    ):
        with pytest.raises(InputError, match=words):
            rescale(optimizer, KAPPA)
    first, second = groups()
    optimizer = torch.optim.Adam([first, {**second, "betas": (0.5, 0.99)}], betas=(0.9, 0.99))
    before = [{**group} for group in optimizer.param_groups]
    with pytest.raises(InputError, match="kappa = 4: too large for beta1 = 0.5"):
        rescale(optimizer, KAPPA)
    assert optimizer.param_groups == before
    for rate, words in (
        (1e308, r"kappa = 4: takes lr = 1e\+308 to inf"),
        (float("nan"), "lr = nan: must be a finite number >= 0"),
        (torch.tensor(-1.0), "lr = -1: must be a finite number >= 0"),
    ):
        optimizer = torch.optim.Adam([first, {**second, "lr": 1e-3}], betas=(0.9, 0.99))
        optimizer.param_groups[1]["lr"] = rate
        step(optimizer, 1.0)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(InputError, match=words):
            rescale(optimizer, KAPPA)
        assert str(optimizer.state_dict()) == str(before)
    with pytest.raises(InputError, match="rule = 'cubic'"):
        rescale(optimizer, KAPPA, "cubic")
    with pytest.raises(InputError, match="kappa = '4': must be a finite number > 0"):
        rescale(optimizer, kappa="4")
    with pytest.warns(ScalingWarning, match="leaves beta1 = 0.4"):
        rescale(torch.optim.Adam(weights(), betas=(0.9, 0.99)), 6)


def test_invariant_adam_takes_more_micro_batches_and_keeps_all_else():
    optimizer = optimizers.InvariantAdam(weights(), lr=1e-3, micro_batches=2)
    rescale(optimizer, 4, "invariant")
    assert (optimizer.micro_batches, optimizer.param_groups[0]["lr"]) == (8, 1e-3)
    for kappa, rule, words in (
        (4, "sqrt", "InvariantAdam is rescaled by rule = 'invariant'"),
        (1 / 3, "invariant", "kappa"),
    ):
        with pytest.raises(InputError, match=words):
            rescale(optimizer, kappa, rule)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.accumulate()
    with pytest.raises(InputError, match="in the middle of an accumulation"):
        rescale(optimizer, 2, "invariant")
    with pytest.raises(InputError, match="rule = 'invariant': needs adasde.InvariantAdam, not Adam"):
        rescale(torch.optim.Adam(weights()), 4, "invariant")
    assert optimizer.micro_batches == 8


@pytest.mark.parametrize("name", ["Lion", "AdamW8bit", "Adafactor"])
def test_other_optimizers_are_refused_with_what_to_do(name):
    kind = type(name, (torch.optim.Optimizer,), {})
    with pytest.raises(
        InputError, match=f"optimizer = {name}: must be torch's .*; .*rescale (torch's AdamW|that Adam)"
    ):
        rescale(kind(weights(), {"lr": 1.0, "weight_decay": 0.0, "eps": 0.0}), 4)


@pytest.mark.slow
def test_a_compiled_step_goes_on_with_the_new_values():
    def trained(compiled):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(20, 20))
        optimizer = torch.optim.AdamW([weight], lr=torch.tensor(1e-3), betas=(0.9, 0.99))
        take = torch.compile(optimizer.step) if compiled else optimizer.step
        for count in range(20):
            if count == 10:
                rescale(optimizer, KAPPA)
            weight.grad = torch.randn(20, 20)
            take()
        return weight.detach()

    assert torch.allclose(trained(compiled=True), trained(compiled=False), rtol=0, atol=1e-6)  # float32's rounding
