"""noise.py: unbiased moments of the gradient, against brute force and known covariances; speeds against the truth."""

import math

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from adasde.scaling import gradient_noise
from adasde.scaling.lag import KAPPAS


class Linear(torch.nn.Module):
    """A loss whose gradient on an example is the example: the mean of weight . x."""

    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight


def mean_output(model, x):
    return model(x).mean()


def test_the_moments_are_those_of_the_single_examples_gradients():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    inputs, labels = torch.randn(64, 6, dtype=torch.float64), torch.randint(0, 3, (64,))
    weights = dict(model.named_parameters())

    def one(weights, x, y):
        return F.cross_entropy(functional_call(model, weights, (x[None],)), y[None])

    single = vmap(grad(one), (None, 0, 0))({k: v.detach() for k, v in weights.items()}, inputs, labels)
    for sizes in ([1] * 64, [8] * 8, [10, 30, 4, 20]):
        chunks = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
        loss, found = gradient_noise.measure(model, lambda m, x, y: F.cross_entropy(m(x), y), chunks)
        assert math.isclose(loss, F.cross_entropy(model(inputs), labels).item(), rel_tol=1e-12)
        assert found.examples == 64
        for name, mean, variance, halves in zip(weights, found.mean, found.variance, found.halves(), strict=True):
            parts = [part.mean(dim=0) for part in single[name].split(sizes)]
            for place, half in enumerate(halves):
                wanted = torch.cat(single[name].split(sizes)[place::2]).mean(dim=0)
                assert torch.allclose(half, wanted, rtol=0, atol=1e-10)
            wanted = sum(
                size * (part - single[name].mean(dim=0)) ** 2 for size, part in zip(sizes, parts, strict=True)
            ) / (len(sizes) - 1)
            assert torch.allclose(mean, single[name].mean(dim=0), rtol=0, atol=1e-10)
            assert torch.allclose(variance, wanted, rtol=0, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("sizes", [[10] * 6, [5, 25, 10, 20]])
def test_the_estimates_are_unbiased(sizes):
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.3, 0.0, -0.1, 0.02], dtype=torch.float64)
    deviation = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    model, squares, traces = Linear(4), [], []
    for _ in range(3000):
        x = mean + deviation * torch.randn(60, 4, generator=generator, dtype=torch.float64)
        found = gradient_noise.measure(model, mean_output, [(part,) for part in x.split(sizes)])[1]
        squares.append(found.squared)
        traces.append(found.trace)
    for values, wanted in ((squares, mean.square().sum()), (traces, deviation.square().sum())):
        values = torch.tensor(values)
        standard_error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - wanted) < 4 * standard_error
        assert standard_error < 0.02 * deviation.square().sum()


def test_equal_weights_slow_down_by_the_closed_form():
    gradient = gradient_noise.Gradient([torch.full((7,), 0.3)], [torch.full((7,), 4.0)], examples=10**12)
    s = 0.3**2 / (0.1**2 * 4.0)
    for kappa, speed in gradient.speeds((2, 16), sigma=0.1).items():
        assert math.isclose(speed, math.sqrt((1 + s) / (1 + kappa * s)), rel_tol=1e-6)
    # With eps = 0.2, which is 1 / sqrt(kappa) of it at kappa: (sqrt(g^2 + v) + eps) / (sqrt(kappa g^2 + v) + eps).
    speed = gradient.speeds((4,), sigma=0.1, eps=0.2)[4]
    assert math.isclose(speed, (math.sqrt(0.09 + 0.04) + 0.2) / (math.sqrt(4 * 0.09 + 0.04) + 0.2), rel_tol=1e-6)


def test_speeds_from_a_sample_are_near_the_truth_where_plain_squares_are_not():
    """4,000 weights of very different signal; 1,000 examples in 20 chunks against the exact means and variances."""
    generator = torch.Generator().manual_seed(1)
    deviation = torch.rand(4000, generator=generator, dtype=torch.float64) + 0.1
    mean = 0.06 * deviation * torch.randn(4000, generator=generator, dtype=torch.float64)
    sigma = 32**-0.5
    exact = gradient_noise.Gradient([mean], [deviation**2], 10**12).speeds(KAPPAS, sigma)
    model, errors, plain = Linear(4000), [], []
    for _ in range(5):
        x = mean + deviation * torch.randn(1000, 4000, generator=generator, dtype=torch.float64)
        found = gradient_noise.measure(model, mean_output, [(part,) for part in x.split(50)])[1]
        errors.append([v - exact[k] for k, v in found.speeds(KAPPAS, sigma).items()])
        naive = gradient_noise.Gradient(found.mean, found.variance, 10**12).speeds(KAPPAS, sigma)
        plain.append([v - exact[k] for k, v in naive.items()])
    assert torch.tensor(errors).mean(dim=0).abs().max() < 0.015
    assert torch.tensor(plain).mean(dim=0).min() < -0.03


def test_where_no_gradient_is_seen_nothing_slows_down():
    silent = gradient_noise.Gradient(
        [torch.zeros(3), torch.full((3,), 1e-3)], [torch.zeros(3), torch.ones(3)], examples=100
    )
    assert silent.squared < 0
    assert silent.speeds((2, 256), sigma=0.1) == {2: 1.0, 256: 1.0}


def test_clipped_squares_keep_the_descent_and_precise_ones_are_untouched():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(100_000, generator=generator, dtype=torch.float64) + 0.1
    signal = 0.02 * noise * torch.randn(100_000, generator=generator, dtype=torch.float64).square()
    estimates = signal + 0.3 * noise * torch.randn(100_000, generator=generator, dtype=torch.float64)
    found = gradient_noise.clipped(estimates, noise)
    assert (found >= 0).all()
    deviation = noise.sqrt()
    assert torch.isclose((found / deviation).sum(), (estimates / deviation).sum())
    assert abs((found / deviation).sum() / (signal / deviation).sum() - 1) < 4 * 0.3 / 0.02 / math.sqrt(100_000)
    assert torch.allclose(gradient_noise.clipped(signal, noise), signal)
    # Without any signal nothing is left; a weight without noise keeps its square.
    assert (gradient_noise.clipped(-noise, noise) == 0).all()
    assert gradient_noise.clipped(torch.ones(2), torch.tensor([0.0, 1.0])).tolist() == [1.0, 1.0]
    assert gradient_noise.clipped(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.0]


def test_the_examples_of_a_chunk_are_the_rows_of_its_first_tensor():
    part = torch.ones(7, 2)
    assert list(gradient_noise.lengths((part, part[:3]))) == [7, 3]
    assert list(
        gradient_noise.lengths(({"mask": None, "x": part, "n": torch.tensor(1)}, ["a", [part[:3].numpy()]]))
    ) == [7, 3]
    assert list(gradient_noise.lengths((3, "text", torch.tensor(1.0)))) == []


def test_tensors_of_a_device_without_float64_are_summed_on_the_cpu():
    """Apple's MPS, as a stand-in that refuses float64."""

    class Tensor:
        device = torch.device("mps")

        def cpu(self):
            return torch.tensor([1.0, 2.0])

    assert gradient_noise.sums([Tensor(), Tensor()]) == [3.0, 3.0]
    assert gradient_noise.doubled(Tensor()).dtype == torch.float64


def gradient(one, other, noise, examples):
    """A gradient from two halves of equal size."""
    return gradient_noise.Gradient([(one + other) / 2], [noise], examples, [one], examples // 2)


def persisting(generator, jitter, examples=10**12, size=40_000, sigma=0.1):
    """Two gradients along a run: a part that both have, and one of the weights' own motion that is new in each.

    Both are measured on the same examples, whose noise is the same each time.
    """
    noise = torch.ones(size, dtype=torch.float64)
    draw = lambda scale: scale * torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
    path, *halves = draw(0.05), *(draw((2 / examples) ** 0.5) for _ in range(2))
    found = [gradient(*(path + own + half for half in halves), noise, examples) for own in (draw(jitter), draw(jitter))]
    return *found, gradient(path, path, noise, 10**12).speeds(KAPPAS, sigma)


@pytest.mark.parametrize("examples", [1000, 10**12])
@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_persistent_speeds_are_those_of_the_path(jitter, examples):
    """Over 40,000 weights their standard error is below 0.01. Jitter makes the whole gradient's far lower."""
    before, now, exact = persisting(torch.Generator().manual_seed(0), jitter, examples)
    found, whole = now.speeds(KAPPAS, 0.1, before=before), now.speeds(KAPPAS, 0.1)
    tolerance = 0.01 if jitter == 0.0 and examples > 1000 else 0.05  # a clipped scatter is as uneven as a Gaussian's
    for kappa in KAPPAS:
        assert abs(found[kappa] - exact[kappa]) < tolerance, kappa
    if jitter:
        assert whole[16] < exact[16] - 0.1


def test_gradients_that_have_nothing_in_common_slow_nothing_down():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1000, generator=generator)
    before, now = (gradient(sign * one, sign * one, torch.ones(1000), 1000) for sign in (1, -1))
    assert now.speeds(KAPPAS, 0.1, before=before) == dict.fromkeys(KAPPAS, 1.0)


def test_a_meter_remembers_the_last_gradient_and_goes_on_from_a_checkpoint():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    chunks = [(torch.randn(20, 5), torch.randint(0, 3, (20,))) for _ in range(4)]

    def loss(model, x, y):
        return F.cross_entropy(model(x), y)

    meter = gradient_noise.SpeedMeter(0.25, 1e-8)
    first = meter.measure(model, loss, chunks)
    saved = meter.state_dict()
    assert {"gradient_norm", "noise_trace", "squared_gradient", "speed_k256"} <= first.keys()
    assert not any(name.startswith("persistent") for name in first)
    with torch.no_grad():
        model.weight.add_(0.1)
    second = meter.measure(model, loss, chunks)
    assert {f"persistent_speed_k{kappa}" for kappa in KAPPAS} == second.keys() - first.keys()
    other = gradient_noise.SpeedMeter(0.25, 1e-8)
    other.load_state_dict(saved)
    assert other.measure(model, loss, chunks) == second
    other.load_state_dict({})
    assert other.measure(model, loss, chunks).keys() == first.keys()
