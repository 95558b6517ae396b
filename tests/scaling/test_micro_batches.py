"""Noise from micro-batches: exact on one step, unbiased over many, blind to clipping; what it refuses."""

import io
import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW, RMSprop

from adasde.common import InputError
from adasde.scaling import gradient_noise
from adasde.scaling.micro_batches import MicroBatchNoise
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.optimizers import InvariantAdam
from adasde.scaling.rescale import rescale
from adasde.scaling.rules import RULES, ScalingWarning


def regression(seed=0):
    """A model, and a function that returns the loss of fresh examples."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    generator = torch.Generator().manual_seed(1)

    def loss(size):
        x = torch.randn(size, 5, generator=generator, dtype=torch.float64)
        y = x.sum(1, keepdim=True) + torch.randn(size, 1, generator=generator, dtype=torch.float64)
        return F.mse_loss(model(x), y)

    return model, loss


def train(loss, optimizer, noise, steps, count=4, size=3, clip=None):
    """The usual loop of accumulation."""
    for _ in range(steps):
        for _ in range(count):
            (loss(size) / count).backward()
            noise.accumulate()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        optimizer.zero_grad()


class Given:
    """Weights whose micro-batch gradients are written by hand."""

    def __init__(self, shape, count, size, every=1, **options):
        self.weight, self.count, self.size = nn.Parameter(torch.zeros(shape, dtype=torch.float64)), count, size
        self.optimizer = Adam([self.weight], lr=1e-3, betas=(0.99, 0.999), **options)
        self.noise = MicroBatchNoise(self.optimizer, size, every)

    def step(self, gradients):
        total = torch.zeros_like(self.weight)
        for gradient in gradients:
            total += gradient / self.count
            self.weight.grad = total.clone()
            self.noise.accumulate()
        self.optimizer.step()

    def sample(self, mean, deviation, steps, generator):
        """Steps with gradients of known mean and deviation of one example."""
        for _ in range(steps):
            drawn = torch.randn(self.count, *self.weight.shape, generator=generator, dtype=torch.float64)
            self.step(mean + deviation / math.sqrt(self.size) * drawn)
        return self


@pytest.mark.parametrize("count", [2, 5])
def test_one_step_equals_the_moments_of_its_micro_batches(count):
    model, _ = regression()
    x, y = torch.randn(4 * count, 5, dtype=torch.float64), torch.randn(4 * count, 1, dtype=torch.float64)
    chunks = list(zip(x.split(4), y.split(4), strict=True))
    _, wanted = gradient_noise.measure(model, lambda m, a, b: F.mse_loss(m(a), b), chunks)
    optimizer = Adam(model.parameters())
    noise = MicroBatchNoise(optimizer, micro_batch_size=4)
    for a, b in chunks:
        (F.mse_loss(model(a), b) / count).backward()
        noise.accumulate()
    optimizer.step()
    variances, squares = noise.per_weight()
    assert noise.batch_size == 4 * count
    for variance, square, mean, exact in zip(variances, squares, wanted.mean, wanted.variance, strict=True):
        assert torch.allclose(variance, exact, rtol=1e-10)
        assert torch.allclose(square, mean.square() - exact / (4 * count), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 4)])
def test_the_estimates_are_unbiased(count, size):
    """20,000 weights of equal mean and noise give the standard error."""
    generator = torch.Generator().manual_seed(0)
    given = Given(20_000, count, size).sample(0.3, 2.0, steps=6, generator=generator)
    for values, wanted in zip(given.noise.per_weight(), (4.0, 0.09), strict=True):
        values = values[0]
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - wanted) < 4 * error
        assert error < 0.04
    trace, squared = (float(parts[0].sum()) for parts in given.noise.per_weight())
    assert given.noise.gradient_noise_scale() == pytest.approx(trace / squared)
    assert given.noise.gradient_noise_scale() == pytest.approx(4 / 0.09, rel=0.2)


def test_the_average_forgets_exponentially_and_weighs_fully():
    """Of a variance that doubles, the estimate moves from the first to the last; it never leaves them."""
    generator = torch.Generator().manual_seed(0)
    given, found = Given(5_000, 3, 1), []
    for variance in (1.0, 4.0):
        for _ in range(4):
            given.sample(0.0, math.sqrt(variance), 10, generator)
            found.append(float(given.noise.per_weight()[0][0].mean()))
    assert found[:4] == pytest.approx([1.0] * 4, rel=0.03)
    assert all(a < b for a, b in zip(found[3:], found[4:], strict=False))
    assert found[-1] == pytest.approx(4.0, rel=0.1)  # the second half of the run: (1/2)^4 of the first is left


def test_speeds_critical_batch_and_noise_scale_of_equal_weights_have_closed_forms():
    variance, squared, batch = 4.0, 0.03, 8
    given = Given(1000, 4, 2)
    d = math.sqrt(variance / 2 * 3 / 4)  # four micro-batches at mean +- d have the variance d^2 4 / 3
    mean = math.sqrt(squared + variance / batch)
    given.step([torch.full((1000,), mean + sign * d, dtype=torch.float64) for sign in (1, -1, 1, -1)])
    s = squared * batch / variance
    noise = given.noise
    assert noise.gradient_noise_scale() == pytest.approx(variance / squared)
    for kappa, speed in noise.speeds([0.25, 1, 3, 256]).items():
        assert speed == pytest.approx(math.sqrt((1 + s) / (1 + kappa * s)), rel=1e-6)
    for tolerance in (0.1, 0.3, 0.01):
        kappa = ((1 + s) / (1 - tolerance) ** 2 - 1) / s
        assert noise.critical_batch(tolerance) == pytest.approx(batch * kappa, rel=2e-3)
    assert noise.critical_batch(0.99) == 256 * batch  # that is, at least
    for tolerance in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="tolerance = .*: must be between 0 and 1"):
            noise.critical_batch(tolerance)
    with pytest.raises(InputError, match="kappa = -1: must be a finite number > 0"):
        noise.speeds([-1])


def test_where_nothing_but_noise_is_seen_no_number_is_invented():
    generator = torch.Generator().manual_seed(3)
    given = Given(2, 2, 1).sample(0.0, 1.0, steps=1, generator=generator)
    given.noise._squares[0].zero_()  # an estimate of the squared gradient below 0
    assert given.noise.speeds([256]) == {256: 1.0}
    assert given.noise.critical_batch() == 256 * 2
    with pytest.raises(InputError, match="gradient_noise_scale: noise still hides the gradient"):
        given.noise.gradient_noise_scale()
    fresh = Given(2, 2, 1).noise
    for ask in (fresh.gradient_noise_scale, fresh.critical_batch, fresh.per_weight, lambda: fresh.rescaled(2)):
        with pytest.raises(InputError, match="nothing measured yet; the first step is measured"):
            ask()
    for ask in (fresh.lags, fresh.largest_kappa, fresh.plot):
        with pytest.raises(InputError, match="nothing (measured after the start|to plot) yet"):
            ask()


def test_identical_micro_batches_are_signal_only():
    given = Given(3, 4, 2)
    given.step([torch.ones(3, dtype=torch.float64)] * 4)
    assert given.noise.speeds([16])[16] == pytest.approx(0.25)
    assert given.noise.gradient_noise_scale() == pytest.approx(0.0, abs=1e-12)


def test_speeds_are_near_the_truth_though_single_squares_are_lost_in_noise():
    """4,000 weights of uneven signal over noise, 0.05 on average; after 600 steps each square is known to 4 of it."""
    generator = torch.Generator().manual_seed(1)
    deviation = torch.rand(4000, generator=generator, dtype=torch.float64) + 0.1
    mean = 0.08 * deviation * torch.randn(4000, generator=generator, dtype=torch.float64)
    exact = gradient_noise.Gradient([mean], [deviation**2], 10**12).speeds(gradient_noise.KAPPAS, 8**-0.5)
    given = Given(4000, 2, 4).sample(mean, deviation, 600, generator)
    found = given.noise.speeds(gradient_noise.KAPPAS)
    assert max(abs(found[kappa] - exact[kappa]) for kappa in exact) < 0.04


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop])
def test_training_is_left_alone_and_clipping_is_not_seen(kind):
    weights = []
    for measured in (True, False):
        model, loss = regression()
        optimizer = kind(model.parameters(), lr=1e-2)
        noise = MicroBatchNoise(optimizer, 3, every=2)
        if not measured:
            noise.remove()
            noise.accumulate = lambda: None
        train(loss, optimizer, noise, 20, clip=0.1)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
    found = []
    for clip in (None, 1e-3):
        model, loss = regression()
        optimizer = kind(model.parameters(), lr=0.0)
        noise = MicroBatchNoise(optimizer, 3, every=1)
        train(loss, optimizer, noise, 5, clip=clip)
        found.append(torch.cat([part.flatten() for parts in noise.per_weight() for part in parts]))
    assert torch.equal(*found)


def test_the_history_is_a_table_and_the_plot_has_units():
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("matplotlib")
    model, loss = regression()
    optimizer = Adam(model.parameters(), lr=1e-2, betas=(0.95, 0.99))
    noise = MicroBatchNoise(optimizer, 3, every=2)
    train(loss, optimizer, noise, 65)
    table = pd.DataFrame(noise.history)
    assert list(table["step"]) == [19, 39, 59]  # steps 1, 3, ... are measured, and every tenth of these is a row
    assert list(table["examples"]) == [19 * 12, 39 * 12, 59 * 12]
    assert list(table["time"]) == pytest.approx([19e-4, 39e-4, 59e-4])
    assert set(table["batch_size"]) == {12}
    assert (table["noise_trace"] > 0).all()
    assert table["critical_batch"].between(12, 256 * 12).all()
    assert 1 <= noise.largest_kappa() <= 10 + 1e-9
    lags = list(noise.lags().values())
    assert all(0 <= a <= b + 1e-9 <= 1 for a, b in zip(lags, lags[1:], strict=False))
    axes = noise.plot().axes[0]
    assert axes.get_xlabel() == "examples seen"
    assert axes.get_ylabel() == "batch size (examples)"
    assert len(axes.get_lines()) == 3


def test_a_checkpoint_goes_on_as_if_nothing_had_happened():
    def start():
        model, loss = regression()
        optimizer = Adam(model.parameters(), lr=1e-2)
        return model, loss, optimizer, MicroBatchNoise(optimizer, 3, every=1)

    model, loss, optimizer, noise = start()
    train(loss, optimizer, noise, 33)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), noise.state_dict()], file)
    other, _, resumed, restored = start()
    file.seek(0)
    for part, state in zip((other, resumed, restored), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for _ in range(30):
        x = torch.randn(4, 3, 5, dtype=torch.float64)
        for trained, stepped, measured in ((model, optimizer, noise), (other, resumed, restored)):
            batches = iter(x)
            train(lambda _, m=trained, b=batches: m(next(b)).square().mean(), stepped, measured, 1)
    assert restored.history == noise.history
    assert restored.speeds([4, 16]) == noise.speeds([4, 16])
    assert restored.lags() == noise.lags()
    state = noise.state_dict()
    for change, words in (
        ({"micro_batch_size": 8}, "micro_batch_size = 8; this one has 3"),
        ({"squares": state["squares"][:-1]}, "squares: must be one tensor per trained parameter"),
        ({"batch_size": 6}, "of batch size 6, not 12"),
    ):
        with pytest.raises(InputError, match=words):
            restored.load_state_dict(state | change)
    with pytest.raises(InputError, match="micro_batch_size = None"):
        restored.load_state_dict({})
    assert restored.history == noise.history


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "invariant"])
def test_after_a_rescaling_by_any_rule_it_must_be_told(rule):
    model, loss = regression()
    optimizer = Adam(model.parameters(), lr=1e-3, betas=(0.99, 0.999))
    noise = MicroBatchNoise(optimizer, 3, every=1)
    train(loss, optimizer, noise, 20)
    variances, squares = noise.per_weight()
    rescale(optimizer, 2, rule)
    with pytest.raises(InputError, match=r"the optimizer was rescaled; call .rescaled\(kappa\), or make a new one"):
        train(loss, optimizer, noise, 1)
    optimizer.zero_grad()
    with pytest.raises(InputError, match="micro_batch_size = 5: batch size 24 must be 2 or more of them"):
        noise.rescaled(2, micro_batch_size=5)
    with pytest.raises(InputError, match="kappa = 0.3: the optimizer was rescaled by 2"):
        noise.rescaled(0.3)
    before, critical = noise.speeds([2, 4]), noise.critical_batch()
    noise.rescaled(2)
    assert noise.batch_size == 24
    for old, new in ((variances, noise.per_weight()[0]), (squares, noise.per_weight()[1])):
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(old, new, strict=True))
    assert noise.speeds([2])[2] == pytest.approx(before[4] / before[2], rel=1e-6)
    assert noise.critical_batch() == pytest.approx(critical, rel=1e-6)
    assert noise.history[-1]["critical_batch"] == noise.critical_batch()
    with pytest.raises(InputError, match="nothing measured after the start yet"):
        noise.lags()
    with pytest.raises(InputError, match="4 micro-batches before this step, but 8 before others"):
        train(loss, optimizer, noise, 1)
    optimizer.zero_grad()
    train(loss, optimizer, noise, 10, count=8)
    assert noise.lags()
    assert noise.history[-1]["examples"] == 20 * 12 + 10 * 24


def test_micro_batches_that_are_left_over_can_be_dropped():
    model, loss = regression()
    optimizer = Adam(model.parameters(), lr=1e-3, betas=(0.99, 0.999))
    noise = MicroBatchNoise(optimizer, 3, every=1)
    train(loss, optimizer, noise, 2)
    for _ in range(4):
        loss(3).backward()
        noise.accumulate()
    with pytest.raises(InputError, match=r"already called for the 4 micro-batches of this step; take it, or .drop\(\)"):
        noise.accumulate()
    optimizer.zero_grad()
    noise.drop()
    before = [tensor.clone() for tensor in noise.per_weight()[0]]
    train(loss, optimizer, noise, 1)
    assert noise.batch_size == 12
    changes = [float((new - old).abs().max()) for new, old in zip(noise.per_weight()[0], before, strict=True)]
    assert all(0 < change < 100 for change in changes)


def test_schedulers_and_rates_set_by_hand_are_no_rescaling():
    model, loss = regression()
    optimizer = Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)
    noise, time = MicroBatchNoise(optimizer, 3, every=1), 0.0
    for _ in range(20):
        time += optimizer.param_groups[0]["lr"] ** 2
        train(loss, optimizer, noise, 1)
        scheduler.step()
    assert noise.history[-1]["time"] == pytest.approx(time)


def test_wrong_numbers_of_micro_batches_are_refused_before_the_step():
    model, loss = regression()
    optimizer = Adam(model.parameters())
    noise = MicroBatchNoise(optimizer, 3, every=1)
    with pytest.raises(InputError, match="1 micro-batches before this step; there must be 2 or more"):
        train(loss, optimizer, noise, 1, count=1)
    with pytest.raises(InputError, match="0 micro-batches before this step"):
        optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad()
    train(loss, optimizer, noise, 3)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(InputError, match="3 micro-batches before this step, but 4 before others"):
        train(loss, optimizer, noise, 1, count=3)
    optimizer.zero_grad()
    with pytest.raises(InputError, match="accumulate: already called for the 4 micro-batches of this step"):
        train(loss, optimizer, noise, 1, count=5)
    assert all(map(torch.equal, before, model.parameters()))
    assert optimizer.state[next(model.parameters())]["step"] == 3
    noise._count = 0
    optimizer.zero_grad()
    train(loss, optimizer, noise, 3)
    assert noise.gradient_noise_scale() > 0


def test_gradients_that_are_not_finite_are_refused_and_never_averaged():
    model, loss = regression()
    optimizer = Adam(model.parameters())
    noise = MicroBatchNoise(optimizer, 3, every=1)
    train(loss, optimizer, noise, 3)
    before = noise.per_weight()
    for bad in (float("nan"), float("inf")):
        loss(3).backward()
        model[2].weight.grad[0, 3] = bad
        with pytest.raises(InputError, match=r"gradient of parameter 2, of shape \(1, 8\): not finite"):
            noise.accumulate()
        optimizer.zero_grad()
    for old, new in zip(before, noise.per_weight(), strict=True):
        assert all(map(torch.equal, old, new))


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
def test_a_gradient_scaler_changes_nothing_and_the_steps_that_it_skips_are_left_out():
    found = []
    for scaled, bad in ((False, ()), (True, ()), (True, (0, 3, 4, 9))):
        model, loss = regression()
        optimizer = Adam(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5, enabled=scaled)
        noise = MicroBatchNoise(optimizer, 3, every=2, scaler=scaler if scaled else None)
        for step in range(10 + len(bad)):
            for part in range(4):
                factor = float("inf") if step in bad and part == 1 else 0.25
                value = loss(3) if factor == 0.25 else model(torch.ones(1, 5).double()).sum()
                scaler.scale(factor * value).backward()
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    noise.accumulate()
                assert all("left out a step" in str(warning.message) for warning in caught)
                assert len(caught) == (part == 0 and step - 1 in bad)
                if factor != 0.25:  # the other parts of this step belong to it, but draw no examples
                    for _ in range(2):
                        noise.accumulate()
                    break
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        found.append(noise)
    plain, same, skipping = found
    assert plain.speeds([4]) == pytest.approx(same.speeds([4]), rel=1e-9)
    assert plain.gradient_noise_scale() == pytest.approx(same.gradient_noise_scale(), rel=1e-9)
    assert skipping._step == 10
    assert all(bool(part.isfinite().all()) for parts in skipping.per_weight() for part in parts)
    assert skipping.gradient_noise_scale() > 0


def test_a_scaler_must_skip_the_step_itself():
    model, _ = regression()
    optimizer = Adam(model.parameters())
    for options, words in (
        ({"enabled": False}, "gradient of parameter 0, .* not finite"),
        ({}, "not finite, and the scaler does not skip this step; use scaler.step"),
    ):
        noise = MicroBatchNoise(optimizer, 3, scaler=torch.amp.GradScaler("cpu", **options))
        (math.inf * model(torch.ones(1, 5).double()).sum()).backward()
        with pytest.raises(InputError, match=words):
            noise.accumulate()
            noise.accumulate()
            optimizer.step()
        noise.remove()
    fused, scaler = Adam(model.parameters(), fused=True), torch.amp.GradScaler("cpu")  # it is stepped, but told to skip
    noise = MicroBatchNoise(fused, 3, scaler=scaler)
    scaler.scale(math.inf * model(torch.ones(1, 5).double()).sum()).backward()
    noise.accumulate()
    with pytest.warns(RuntimeWarning, match="left out a step after step 0"):
        scaler.step(fused)
    assert noise._step == 0
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_what_cannot_be_measured_is_refused_in_a_line():
    model, loss = regression()
    adam = Adam(model.parameters())
    for make, words in (
        (lambda: MicroBatchNoise(torch.optim.SGD(model.parameters(), 1.0), 3), "optimizer = SGD: must be torch's Adam"),
        (lambda: MicroBatchNoise(adam, 0), "micro_batch_size = 0: must be a whole number >= 1"),
        (lambda: MicroBatchNoise(adam, 3, every=0), "every = 0: must be a whole number >= 1"),
        (lambda: MicroBatchNoise(adam, 3, ddp=model), "ddp = Sequential: must be a DistributedDataParallel model"),
        (lambda: MicroBatchNoise(Adam([torch.zeros(2)]), 3), "optimizer: trains no parameters"),
    ):
        with pytest.raises(InputError, match=words):
            make()
    assert not adam._optimizer_step_pre_hooks
    embedding = nn.Embedding(5, 2, sparse=True)
    noise = MicroBatchNoise(Adam(embedding.parameters()), 3)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="gradient: sparse; its noise needs dense ones"):
        noise.accumulate()
    noise = MicroBatchNoise(adam, 3)
    adam.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    noise._hyperparameters = noise._read_hyperparameters()
    with pytest.raises(InputError, match="the optimizer trains other parameters than before; make a new one"):
        noise.accumulate()


def test_weights_count_as_they_move():
    """A group at rate 0 does not count, one at half the rate counts half, a parameter without gradient not at all."""
    model, loss = regression()
    spare = nn.Parameter(torch.zeros(3))
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}, {"params": [spare]}]
    optimizer = Adam(groups, lr=1e-2)
    noise = MicroBatchNoise(optimizer, 3, every=1)
    train(loss, optimizer, noise, 12)
    assert noise.history[-1]["time"] == pytest.approx(10e-4)
    traces, squares = ([float(part.sum()) for part in parts] for parts in noise.per_weight())
    assert noise.gradient_noise_scale() == pytest.approx(sum(traces[2:]) / sum(squares[2:]))
    optimizer.param_groups[0]["lr"] = 5e-3
    assert noise.gradient_noise_scale() == pytest.approx(
        (sum(traces[:2]) / 2 + sum(traces[2:])) / (sum(squares[:2]) / 2 + sum(squares[2:]))
    )
    for group in optimizer.param_groups:  # before a warm-up from 0 all count alike
        group["lr"] = 0.0
    assert noise.gradient_noise_scale() == pytest.approx(sum(traces) / sum(squares))


def test_invariant_adam_gives_the_same_noise():
    """It has the squares anyway. Kappas multiply its micro-batch, and a step takes k lr^2 of time."""
    found = []
    for invariant in (False, True):
        model, loss = regression()
        if invariant:
            optimizer = InvariantAdam(model.parameters(), lr=1e-30, micro_batches=4)
            noise = MicroBatchNoise(optimizer, 3, every=3)
            for _ in range(40):
                for _ in range(4):
                    loss(3).backward()
                    optimizer.accumulate()
                optimizer.step()
        else:
            optimizer = Adam(model.parameters(), lr=1e-30)
            noise = MicroBatchNoise(optimizer, 3, every=3)
            train(loss, optimizer, noise, 40)
        found.append(noise)
    plain, same = found
    for ours, wanted in zip(same.per_weight(), plain.per_weight(), strict=True):
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, wanted, strict=True))
    assert same.batch_size == plain.batch_size == 12
    assert same.history[0]["time"] == pytest.approx(4 * plain.history[0]["time"])
    small = plain.speeds([0.25, 1, 4])  # from a batch of 12 to one of 3, and so on
    assert same.speeds([4, 16]) == pytest.approx({4: 1 / small[0.25], 16: small[4] / small[0.25]})
    with pytest.raises(InputError, match="InvariantAdam gathers the gradients; call only its own accumulate"):
        same.accumulate()
    rescale(same.optimizer, 2, "invariant")
    for _ in range(8):
        loss(3).backward()
        same.optimizer.accumulate()
    with pytest.raises(InputError, match="the optimizer was rescaled"):
        same.optimizer.step()
    same.rescaled(2)
    same.optimizer.step()
    assert same.batch_size == 24
    with pytest.raises(InputError, match="micro_batches = 1: must be a whole number >= 2"):
        MicroBatchNoise(InvariantAdam(model.parameters()), 3)
    with pytest.raises(InputError, match="optimizer = InvariantAdam: must be"):
        NoiseMonitor(model, same.optimizer, 3, loss, [], 1)


def test_accelerate_accumulates_the_same():
    accelerate = pytest.importorskip("accelerate")
    found = []
    for accelerated in (False, True):
        model, loss = regression()
        optimizer = Adam(model.parameters(), lr=1e-2)
        if accelerated:
            accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
            model, optimizer = accelerator.prepare(model, optimizer)
            noise = MicroBatchNoise(optimizer, 3, every=1, scaler=accelerator.scaler)
            for _ in range(48):
                with accelerator.accumulate(model):
                    accelerator.backward(loss(3))
                    noise.accumulate()
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
        else:
            noise = MicroBatchNoise(optimizer, 3, every=1)
            train(loss, optimizer, noise, 12, clip=1.0)
        found.append(noise)
    assert found[0].history == found[1].history
    assert len(found[0].history) == 1


RANKS = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from adasde.common import InputError
from adasde.scaling.micro_batches import MicroBatchNoise
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
torch.manual_seed(0)
model = DDP(torch.nn.Linear(5, 1).double())
x = torch.randn(60, 2, 2, 3, 5, dtype=torch.float64)  # step, pass, rank, example
states = []
for passes in (1, 2):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    try:
        MicroBatchNoise(optimizer, 3)
    except InputError as error:
        assert "several ranks train; give the DistributedDataParallel model" in str(error)
    noise = MicroBatchNoise(optimizer, 3, every=3, ddp=model)
    for batch in x:
        for part in batch[1:passes]:
            with model.no_sync():
                (model(part[rank]).square().mean() / passes).backward()
                noise.accumulate()
        (model(batch[0, rank]).square().mean() / passes).backward()
        noise.accumulate()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    noise.remove()
    states.append((noise.per_weight(), noise.history, noise.batch_size))
torch.save((x, model.module.state_dict(), states), f"{out}{rank}")
dist.destroy_process_group()
"""


def test_ranks_are_micro_batches(tmp_path):
    """Two processes with one or two passes each, against one process that accumulates the same micro-batches."""
    places = [tmp_path / "store", tmp_path / "out"]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), *places],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for job in jobs:
        text, _ = job.communicate(timeout=120)
        assert job.returncode == 0, text
    (x, weights, states), (_, _, others) = (torch.load(tmp_path / f"out{rank}", weights_only=True) for rank in range(2))
    for passes, (moments, history, batch_size), (_, same, _) in zip((1, 2), states, others, strict=True):
        assert history == same
        model = nn.Linear(5, 1).double()
        model.load_state_dict(weights)
        optimizer = Adam(model.parameters(), lr=0.0)
        noise = MicroBatchNoise(optimizer, 3, every=3)
        for batch in x:
            for part in batch[:passes].flatten(0, 1):
                (model(part).square().mean() / (2 * passes)).backward()
                noise.accumulate()
            optimizer.step()
            optimizer.zero_grad()
        assert batch_size == noise.batch_size == 6 * passes
        for ours, wanted in zip(moments, noise.per_weight(), strict=True):
            assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, wanted, strict=True))
        for row, wanted in zip(history, noise.history, strict=True):
            assert row == pytest.approx(wanted, rel=1e-9)


def test_a_suggested_kappa_is_taken_without_a_warning():
    generator = torch.Generator().manual_seed(0)
    given = Given(1000, 2, 1).sample(0.0, 1.0, 20, generator)
    kappa = given.noise.largest_kappa()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScalingWarning)
        rescale(given.optimizer, kappa)
    assert kappa > 1
    assert given.optimizer.param_groups[0]["betas"] == pytest.approx((1 - 0.01 * kappa, 1 - 0.001 * kappa))
