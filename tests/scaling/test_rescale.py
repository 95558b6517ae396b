"""practice.py: what people use in training of their own, against the library's reference and torch."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import adasde
from adasde.common import InputError
from adasde.scaling import gradient_noise, optimizers
from adasde.scaling.callbacks import rescale_arguments
from adasde.scaling.clock import scaled_steps
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rescale import rescale
from adasde.scaling.rules import ScalingWarning
from adasde.scaling.svag import SVAGLoss, svag_loss

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
    "our Adam": (lambda: optimizers.Adam(groups(), 1e-3, 0.9, 0.99, 1e-6, 0.1, decoupled=True), True),
}


def betas_of(group):
    return group["betas"] if "betas" in group else (group["beta1"], group["beta2"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rule", ["sqrt", "linear", "sqrt-no-eps"])
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
        assert optimizer.param_groups[0]["momentum_decay"] == pytest.approx(4e-3 * KAPPA)
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


def test_the_averages_are_kept_and_their_correction_goes_on_where_it_was():
    (weight,) = params = weights()[:1]
    optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.99, 0.999), eps=1e-8)
    for count in range(20):
        step(optimizer, 1.0 + 0.1 * count)
    state = {name: value.clone() for name, value in optimizer.state[weight].items()}
    before = weight.detach().clone()
    rescale(optimizer, KAPPA)
    kept = optimizer.state[weight]
    assert torch.equal(kept["exp_avg"], state["exp_avg"])
    assert torch.equal(kept["exp_avg_sq"], state["exp_avg_sq"])
    # What torch divides the averages by is what it was, up to the rule's own accuracy.
    for old, new in zip((0.99, 0.999), optimizer.param_groups[0]["betas"], strict=True):
        assert 1 - new ** kept["step"].item() == pytest.approx(1 - old**20, rel=0.03)
    step(optimizer, 2.0)
    count, m, v = 20 / KAPPA + 1, 0.96 * state["exp_avg"] + 0.04 * 2, 0.996 * state["exp_avg_sq"] + 0.004 * 4
    moved = 2e-3 * m / (1 - 0.96**count) / ((v / (1 - 0.996**count)).sqrt() + 5e-9)
    assert torch.allclose(weight, before - moved, rtol=0, atol=1e-7)


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
    with pytest.raises(InputError, match="rule = 'cubic'"):
        rescale(optimizer, KAPPA, "cubic")
    with pytest.warns(ScalingWarning, match="leaves beta1 = 0.4"):
        rescale(torch.optim.Adam(weights(), betas=(0.9, 0.99)), 6)


def test_a_scheduler_must_be_given_and_goes_on_with_the_new_rates():
    def rates(kappa, kind):
        optimizer = torch.optim.Adam(weights(), lr=1e-3)
        scheduler = kind(optimizer)
        if kappa != 1:
            with pytest.raises(InputError, match="scheduler: one holds rates of this optimizer"):
                rescale(optimizer, kappa)
            rescale(optimizer, kappa, scheduler=scheduler)
        found = []
        for _ in range(6):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    schedules = torch.optim.lr_scheduler
    for kind in (
        lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)),
        lambda o: schedules.MultiStepLR(o, [2, 4]),
        lambda o: schedules.CosineAnnealingLR(o, 6, eta_min=1e-5),
        lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=8),
        lambda o: schedules.SequentialLR(
            o, [schedules.LinearLR(o, 0.1, total_iters=2), schedules.ExponentialLR(o, 0.9)], [2]
        ),
    ):
        assert rates(2, kind) == pytest.approx([2**0.5 * rate for rate in rates(1, kind)], rel=1e-9)


def test_counts_of_steps():
    assert [scaled_steps(count, 4) for count in (0, 1, 1000, 1002)] == [0, 1, 250, 250]
    with pytest.raises(InputError, match="steps = 2.5: must be a whole number"):
        scaled_steps(2.5, 4)


def test_training_arguments(tmp_path):
    from transformers import TrainingArguments

    old = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, adam_beta1=0.9, adam_beta2=0.98, weight_decay=0.1,
        max_steps=1000, warmup_steps=100, gradient_accumulation_steps=2, max_grad_norm=1.0, report_to=[],
    )  # fmt: skip
    new = rescale_arguments(old, 4)
    wanted = AdamHyperparameters(1e-3, 0.9, 0.98, 1e-8, 0.1, decoupled=True).scaled(4)
    found = (new.learning_rate, new.adam_beta1, new.adam_beta2, new.adam_epsilon, new.weight_decay)
    assert found == pytest.approx((wanted.lr, wanted.beta1, wanted.beta2, wanted.eps, wanted.weight_decay))
    assert (new.max_steps, new.warmup_steps, new.gradient_accumulation_steps, new.max_grad_norm) == (250, 25, 8, 0.5)
    assert new.per_device_train_batch_size == old.per_device_train_batch_size
    assert old.learning_rate == 1e-3
    with pytest.raises(InputError, match="optim = 'adafactor': must be one of transformers' adamw"):
        rescale_arguments(TrainingArguments(output_dir=str(tmp_path), optim="adafactor", report_to=[]), 4)
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 2 would become 0.6"):
        rescale_arguments(old, 0.3)


def test_the_loss_of_svag_is_the_reference_s():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(8, 3), torch.randn(8, 1)

    def losses(model, x, y):
        return ((model(x) - y) ** 2)[:, 0]

    def weighted(model, x, y, weights):
        return losses(model, x, y).double() @ weights

    ours = torch.autograd.grad(svag_loss(losses(model, x, y), 3), list(model.parameters()))
    reference = torch.autograd.grad(SVAGLoss(weighted, 3)(model, x, y), list(model.parameters()))
    for a, b in zip(ours, reference, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for wrong in (torch.zeros(3), torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(InputError, match="losses = .* two minibatches of equal size"):
            svag_loss(wrong, 2)


@pytest.fixture
def loop():
    """A regression, its loss, and chunks of its data."""
    torch.manual_seed(1)
    x = torch.randn(400, 5)
    y = x @ torch.arange(5.0)[:, None] + torch.randn(400, 1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    return model, x, y, lambda model, x, y: ((model(x) - y) ** 2).mean()


def test_the_monitor_measures_when_due_and_leaves_the_training_alone(loop):
    model, x, y, loss = loop
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    chunks = list(zip(x.split(20), y.split(20), strict=True))
    model.train()
    state = torch.get_rng_state()
    monitor = adasde.NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError, match="has measured the start alone"):
        monitor.largest_kappa()
    for number in range(1, 26):
        drawn = torch.randint(400, (16,))
        optimizer.zero_grad()
        loss(model, x[drawn], y[drawn]).backward()
        optimizer.step()
        monitor(number)
    assert monitor.times == pytest.approx([0.0, 10e-4, 20e-4])
    lags = monitor.lags()
    assert list(lags) == list(gradient_noise.KAPPAS)
    assert all(0 <= a <= b + 1e-9 <= 1 for a, b in zip(list(lags.values()), list(lags.values())[1:], strict=False))
    assert 1 <= monitor.largest_kappa() <= 5 + 1e-9  # where beta1 would be 0.5
    model.eval()
    _, gradient = gradient_noise.measure(model, loss, chunks)
    wanted = gradient.speeds((4,), 0.25, 1e-8)[4]
    fresh = adasde.NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    assert fresh.speeds[0][4] == pytest.approx(wanted)
    assert not model.training


def test_where_noise_dominates_the_betas_are_the_limit(loop):
    model, x, _, loss = loop
    y = 100 * torch.randn(400, 1)  # nothing to learn
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    monitor = adasde.NoiseMonitor(model, optimizer, 1, loss, zip(x.split(20), y.split(20), strict=True), every=1)
    monitor(1)
    assert monitor.largest_kappa() == pytest.approx(5)
    adasde.rescale(optimizer, monitor.largest_kappa())  # without a warning
    with pytest.raises(InputError, match="was rescaled; make a new one with the new batch_size"):
        monitor(2)


def test_what_a_monitor_cannot_measure_is_refused(loop):
    model, x, y, loss = loop
    adam, chunks = torch.optim.Adam(model.parameters()), list(zip(x.split(20), y.split(20), strict=True))
    for optimizer, words in (
        (torch.optim.SGD(model.parameters(), lr=1.0), "optimizer = SGD: must be torch's Adam"),
        (torch.optim.RMSprop(model.parameters(), momentum=0.9), "momentum = 0.9: the rule is for RMSprop without"),
    ):
        with pytest.raises(InputError, match=words):
            adasde.NoiseMonitor(model, optimizer, 16, loss, chunks, every=1)
    with pytest.raises(InputError, match="chunks: each must be a tuple of tensors, .* not Tensor"):
        adasde.NoiseMonitor(model, adam, 16, loss, x.split(20), every=1)
    with pytest.raises(InputError, match=r"loss: of shape \(20,\); must be a scalar"):
        adasde.NoiseMonitor(model, adam, 16, lambda m, a, b: (m(a) - b).square()[:, 0], chunks, every=1)
    with pytest.raises(InputError, match="kappa = '4': must be a finite number > 0"):
        adasde.rescale(adam, kappa="4")


def test_the_package_imports_torch_only_for_what_needs_it():
    code = "import sys, adasde; assert 'torch' not in sys.modules; adasde.rescale; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adasde.nothing  # noqa: B018
    assert math.isfinite(adasde.Adam(1e-3, 0.9, 0.99, 1e-8).scaled(2).lr)
