"""Simulations: moments against closed forms, algorithms against their definitions, one clock, clear errors."""

import math

import pytest
import torch

from adasde.common import InputError
from adasde.scaling.hyperparameters import (
    VARIANTS,
    AdamHyperparameters,
    RMSpropHyperparameters,
    SDEConstants,
    SGDHyperparameters,
)
from adasde.sde import simulate
from adasde.sde.oracles import DoubleWell, Linear, NoisyGradientOracle, Quadratic
from adasde.sde.simulate import PORTION, simulate_algorithm, simulate_sde
from scaling.plain_optimizers import plain_adam, plain_authors_rmsprop, plain_rmsprop, plain_torch_rmsprop

PATHS = 40_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ones(dim=1, paths=PATHS, value=1.0):
    return torch.full((paths, dim), value, dtype=torch.float64)


def within(sample, mean, variance, errors=5.0):
    """Whether the mean and variance of (paths,) Gaussian numbers are those given, to ``errors`` standard errors."""
    n = len(sample)
    mean_error, variance_error = math.sqrt(variance / n), variance * math.sqrt(2 / (n - 1))
    found = abs(sample.mean().item() - mean) / mean_error, abs(sample.var().item() - variance) / variance_error
    return max(found) < errors


def test_rmsprop_sde_on_the_linear_problem_is_a_drifting_brownian_motion():
    c = SDEConstants(sigma0=0.5, eps0=0.1, c2=2.0)
    oracle, scale = Linear([0.8], [1.5]), 1.5
    state = simulate_sde(oracle, c, theta=ones(), horizon=1.0, step=1 / 64, generator=seeded())
    p = 0.5 * scale + 0.1
    assert within(state.theta[:, 0], 1.0 - 0.8 / p, (0.5 * scale / p) ** 2)
    assert torch.allclose(state.u, torch.tensor(scale**2, dtype=torch.float64))


def test_rmsprop_sde_on_the_quadratic_is_an_ornstein_uhlenbeck_process():
    c = SDEConstants(sigma0=0.5, eps0=0.1, c2=2.0)
    steps, dt = 128, 1 / 128
    state = simulate_sde(Quadratic([2.0]), c, theta=ones(), horizon=1.0, step=dt, generator=seeded(1))
    p = 0.5 + 0.1
    factor = 1.0 - 2.0 * dt / p  # Euler-Maruyama's own recursion, of which the moments are exact
    noise = 0.25 * dt / p**2
    assert within(state.theta[:, 0], factor**steps, noise * (1 - factor ** (2 * steps)) / (1 - factor**2))


def test_sgd_sde_on_the_quadratic():
    dt, steps = 1 / 64, 64
    state = simulate_sde(Quadratic([1.0]), SDEConstants(0.7), theta=ones(), horizon=1.0, step=dt, generator=seeded(2))
    factor = 1.0 - dt
    assert within(state.theta[:, 0], factor**steps, 0.49 * dt * (1 - factor ** (2 * steps)) / (1 - factor**2))


def test_adam_sde_on_the_linear_problem_integrates_the_averaged_gradient():
    c = SDEConstants(sigma0=0.5, eps0=0.0, c1=1.5, c2=1.0)
    start, dt = 0.25, 1 / 256
    oracle = Linear([0.8])
    state = simulate_sde(oracle, c, theta=ones(), horizon=1.25, step=dt, start=start, generator=seeded(3))
    # E m = gamma1 g at all times and u = gamma2, so E theta falls by sqrt(gamma2) / P = 1 / sigma0 times g per time.
    assert abs(state.theta.mean().item() - (1.0 - 0.8 / 0.5)) < 5 * state.theta.std().item() / math.sqrt(PATHS) + 5e-3
    gamma = -math.expm1(-1.5 * 1.25)
    keep, push = 1.0 - 1.5 * dt, (0.5 * 1.5) ** 2 * dt
    assert within(state.m[:, 0], gamma * 0.8, push * (1 - keep**512) / (1 - keep**2), errors=6.0)
    assert torch.allclose(state.u, torch.tensor(-math.expm1(-1.25), dtype=torch.float64), atol=2e-3)


def test_u_follows_the_noise_variance():
    class Still(Quadratic):  # flat, so that only u moves
        def gradient(self, theta):
            return torch.zeros_like(theta)

    c = SDEConstants(sigma0=1e-9, eps0=1.0, c2=3.0)
    u = ones(paths=2, value=5.0)
    state = simulate_sde(Still([1.0]), c, theta=ones(paths=2), horizon=1.0, step=1 / 512, generator=seeded(), u=u)
    assert torch.allclose(state.u, torch.tensor(1.0 + 4.0 * (1 - 3 / 512) ** 512, dtype=torch.float64))


@pytest.mark.parametrize(
    ("h", "variant"),
    [
        (RMSpropHyperparameters(0.1, 0.9, 1e-3), "paper"),
        (RMSpropHyperparameters(0.1, 0.9, 1e-3), "torch"),
        (RMSpropHyperparameters(0.1, 0.9, 1e-3), "authors"),
        (AdamHyperparameters(0.1, 0.8, 0.9, 1e-3), "paper"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_algorithm_is_its_definition(h, variant):
    """With the gradients that it met, the plain definition takes the same steps to 1e-12."""
    gradients = []

    class Recording(DoubleWell):
        def sample(self, theta, sigma, generator):
            gradients.append(super().sample(theta, sigma, generator))
            return gradients[-1].clone()

    theta, sigma = ones(3, paths=2), 2.0
    zero = torch.zeros_like(theta)
    start = {"torch": {"u": zero}}.get(variant, {})
    state = simulate_algorithm(
        Recording(3), h, sigma, theta=theta, horizon=50 * h.lr**2, generator=seeded(), variant=variant, **start
    )
    if isinstance(h, AdamHyperparameters):
        *_, expected = plain_adam(theta, gradients, h)
    elif variant == "paper":
        *_, expected = plain_rmsprop(theta, gradients, h, v=sigma**2 * DoubleWell(3).noise_variance(theta))
    else:
        definition = plain_torch_rmsprop if variant == "torch" else plain_authors_rmsprop
        *_, expected = definition(theta, gradients, h)
    torch.testing.assert_close(state.theta, expected, rtol=0, atol=1e-12)
    assert len(gradients) == 50


def test_algorithm_and_sde_share_the_clock():
    h, sigma = RMSpropHyperparameters(lr=0.25, beta=0.875, eps=0.1), 4.0
    record = (0.25, 0.5)
    common = {"theta": ones(2), "horizon": 0.5, "record": record}
    found = simulate_algorithm(Quadratic([1.0, 0.5]), h, sigma, generator=seeded(), **common)
    limit = simulate_sde(Quadratic([1.0, 0.5]), h.sde_constants(sigma), step=1 / 256, generator=seeded(1), **common)
    assert [r.time for r in found.records] == [r.time for r in limit.records] == list(record)
    assert found.time == limit.time == 0.5
    for ours, theirs in zip(found.records, limit.records, strict=True):
        assert (ours.theta.mean(0) - theirs.theta.mean(0)).abs().max() < 0.03
    assert torch.equal(found.records[-1].theta, found.theta)


@pytest.mark.parametrize(
    "h",
    [SGDHyperparameters(0.1), RMSpropHyperparameters(0.1, 0.9, 1e-3), AdamHyperparameters(0.1, 0.9, 0.9, 1e-3)],
    ids=lambda h: type(h).__name__,
)
def test_svag_keeps_the_sde_and_its_clock(h):
    c, finer = h.sde_constants(2.0), h.svag(3).sde_constants(2.0 * 3)
    for name in ("sigma0", "eps0", "c1", "c2"):
        ours, theirs = getattr(c, name), getattr(finer, name)
        assert ours == theirs or math.isclose(ours, theirs)
    assert math.isclose(h.svag(3).time_step * 9, h.time_step)


def test_dtype_is_kept_inputs_are_left_and_seeds_decide():
    c = SDEConstants(0.5, 0.1, 2.0)
    theta = torch.ones(5, 1)
    run = [
        simulate_sde(Quadratic([1.0]), c, theta=theta, horizon=1.0, step=0.25, generator=seeded(s)).theta
        for s in (0, 0, 1)
    ]
    assert run[0].dtype == torch.float32
    assert torch.equal(theta, torch.ones(5, 1))
    assert torch.equal(run[0], run[1])
    assert not torch.equal(run[0], run[2])


def test_portions_of_paths_do_not_change_the_law(monkeypatch):
    monkeypatch.setattr(simulate, "PORTION", 8)
    c = SDEConstants(0.5, 0.1, 2.0)
    state = simulate_sde(Linear([0.8]), c, theta=ones(paths=2000), horizon=1.0, step=0.25, generator=seeded())
    assert within(state.theta[:, 0], 1.0 - 0.8 / 0.6, (0.5 / 0.6) ** 2)


class Broken(Quadratic):
    """Returns NaN, or another value, at one path as soon as it has moved."""

    def __init__(self, method, value=math.nan):
        super().__init__([1.0])
        self.method, self.value = method, value

    def _spoil(self, name, theta, value):
        value = value.expand_as(theta).clone()
        if name == self.method and (theta != 1.0).all():
            value[3] = self.value
        return value

    def gradient(self, theta):
        return self._spoil("gradient", theta, super().gradient(theta))

    def noise_variance(self, theta):
        return self._spoil("noise_variance", theta, super().noise_variance(theta))

    terms = NoisyGradientOracle.terms


class Shaped(Quadratic):
    """Returns one number in a wrong shape or dtype from one method."""

    def __init__(self, method, shape, dtype=torch.float32, value=1.0):
        super().__init__([1.0])
        setattr(self, method, lambda *_: torch.full(shape, value, dtype=dtype))


C = SDEConstants(0.5, 0.1, 2.0)
H = RMSpropHyperparameters(0.5, 0.9, 0.1)
BAD = [
    ({"sigma": 0.0}, "sigma = 0: must be a finite number > 0"),
    ({"horizon": 0.3}, r"horizon = 0.3: must be a whole number of steps of 0.25; the next is 0.5"),
    ({"record": (0.1,)}, r"record = 0.1: must be a whole number of steps of 0.25; the next is 0.25"),
    ({"record": (2.0,)}, "record = 2: must not exceed horizon = 1"),
    ({"theta": torch.ones(4)}, r"theta has shape \(4,\): must be \(paths, 1\)"),
    ({"theta": torch.ones(4, 2)}, r"theta has shape \(4, 2\): must be \(paths, 1\)"),
    ({"theta": torch.ones(4, 1, dtype=torch.int64)}, "theta has dtype torch.int64: must be a floating-point type"),
    ({"u": torch.ones(3, 1)}, r"u has shape \(3, 1\): must be that of theta, \(4, 1\)"),
    ({"horizon": math.nan}, "horizon = nan"),
    ({"m": torch.ones(4, 1)}, "this process has no m; leave it out"),
    ({"u": torch.full((4, 1), -1.0)}, "u = -1 at path 0: must be >= 0"),
    ({"theta": [1.0]}, r"theta is a list: must be a tensor \(paths, 1\)"),
    (
        {"h": C},
        "hyperparameters is of type SDEConstants: must be SGDHyperparameters, "
        "RMSpropHyperparameters or AdamHyperparameters",
    ),
    ({"oracle": Shaped("gradient", (1,))}, r"the oracle's gradient has shape \(1,\): must be that of theta, \(2, 1\)"),
    ({"oracle": Shaped("noise", (2, 3))}, r"the oracle's noise has shape \(2, 3\): must be that of theta, \(2, 1\)"),
    ({"oracle": Shaped("noise_variance", (3,))}, r"noise_variance has shape \(3,\): must be that of theta"),
    ({"oracle": Shaped("gradient", (2, 1), torch.float64)}, "gradient has dtype torch.float64: must be that of"),
    ({"oracle": Shaped("noise_variance", (1,), value=-2.0)}, "the oracle's noise_variance is -2 at the start: must be"),
    ({"oracle": Broken("gradient")}, "the oracle's gradient is not finite: path 3, time 0.25"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m[:30] for _, m in BAD])
def test_bad_input_is_one_clear_error(change, message):
    values = {"oracle": Quadratic([1.0]), "sigma": 1.0, "theta": torch.ones(4, 1), "horizon": 1.0} | change
    values = {"h": H} | values
    with pytest.raises(InputError, match=message):
        simulate_algorithm(values.pop("oracle"), values.pop("h"), values.pop("sigma"), generator=seeded(), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 0.3}, "horizon = 1: must be a whole number of steps of 0.3; the next is 1.2"),
        ({"step": -1.0}, "step = -1: must be a finite number > 0"),
        ({"step": 1.0}, "step = 1: must be at most 1 / c2 = 0.5"),
        ({"step": 0.25, "oracle": Broken("noise_variance")}, "noise_variance is not finite: path 3, time 0.25"),
        (
            {"step": 0.25, "oracle": Broken("noise_variance", -1e3)},
            "the oracle's noise_variance is negative: path 3, before time 0.75",
        ),
        ({"step": 0.25, "constants": H}, "constants is of type RMSpropHyperparameters: must be SDEConstants"),
        ({"step": 0.25, "constants": SDEConstants(0.5, 0.1, 2.0, 1.0), "start": 0.0}, "start = 0: must be > 0"),
    ],
    ids=["horizon", "negative", "unstable", "variance", "negative variance", "constants", "singular"],
)
def test_bad_integration_is_one_clear_error(values, message):
    values = {"oracle": Quadratic([1.0]), "constants": C} | values
    with pytest.raises(InputError, match=message):
        simulate_sde(
            values.pop("oracle"),
            values.pop("constants"),
            theta=torch.ones(4, 1),
            horizon=1.0,
            generator=seeded(),
            **values,
        )


def test_unknown_variant_is_named():
    with pytest.raises(InputError, match="variant = 'tensorflow': rmsprop has paper, torch, authors"):
        simulate_algorithm(
            Quadratic([1.0]), H, 1.0, theta=ones(), horizon=1.0, generator=seeded(), variant="tensorflow"
        )
    assert VARIANTS["rmsprop"] == ("paper", "torch", "authors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_the_step_follows_the_same_brownian_path(dtype):
    """On a linear problem theta is the Brownian motion itself, whatever the step; portions must not matter."""
    c, paths = SDEConstants(sigma0=0.5, eps0=0.1, c2=2.0), 2 * PORTION + 3
    theta = torch.ones(paths, 1, dtype=dtype)
    ends = [
        simulate_sde(Linear([0.8]), c, theta=theta, horizon=1.0, step=step, draws=draws, generator=seeded()).theta
        for step, draws in ((1 / 4, 4), (1 / 8, 2), (1 / 16, 1))
    ]
    for end in ends[:2]:
        assert torch.allclose(end, ends[-1], atol=1e-5)
    with pytest.raises(InputError, match="draws = 0: must be at least 1"):
        simulate_sde(Linear([0.8]), c, theta=theta, horizon=1.0, step=0.25, draws=0, generator=seeded())
