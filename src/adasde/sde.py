"""The SDEs of the paper and the algorithms that they approximate, side by side on one clock.

Time is the SDE's: a step of RMSprop or Adam takes lr^2, a step of SGD takes lr. With sigma0 = sigma lr, eps0 = eps lr,
c_i = (1 - beta_i) / lr^2, gamma_i(t) = 1 - exp(-c_i t) and u = v / sigma^2, the equations are

  RMSprop  d theta = -(grad f dt + sigma0 Sigma^{1/2} dW) / P             P = sigma0 sqrt(u) + eps0
  Adam     d theta = -(sqrt(gamma2) / gamma1) (m / P) dt                  P = sigma0 sqrt(u) + eps0 sqrt(gamma2)
           d m = c1 (grad f - m) dt + sigma0 c1 Sigma^{1/2} dW
  both     d u = c2 (diag Sigma - u) dt
  SGD      d theta = -grad f dt - sigma0 Sigma^{1/2} dW                   sigma0 = sigma sqrt(lr)

and are integrated by Euler-Maruyama. Everything works on many paths at once, theta of shape (paths, dim), and keeps the
dtype it is given. Paths are taken in portions that fit the processor's cache.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from . import oracles, scaling
from .errors import InputError
from .scaling import SDEConstants, positive
from .schedule import steps_until

PORTION = 1 << 16  # numbers of one portion of paths; with what a step needs of them, 3 to 4 MB of float64


@dataclass
class State:
    """Paths at one time: ``theta``, ``u`` = v / sigma^2 and ``m``, each (paths, dim); None where there is none.

    ``records`` are the states at the times that were asked for; ``first`` is the number of the first path.
    """

    time: float
    theta: torch.Tensor
    u: torch.Tensor | None = None
    m: torch.Tensor | None = None
    records: list["State"] = field(default_factory=list)
    first: int = 0


def simulate_algorithm(
    oracle, hyperparameters, sigma, *, theta, horizon, generator, start=0.0, u=None, m=None, record=(), variant="paper"
) -> State:
    """Run SGD, RMSprop or Adam with noise of scale ``sigma`` until SDE time ``horizon``.

    ``hyperparameters`` is scaling.SGD, RMSprop or Adam; ``variant`` one of scaling.VARIANTS, explained in optim.py.
    ``theta`` is (paths, dim) and is left as it is; ``u`` and ``m`` start as `initial_state` says unless given. The
    state is recorded at the times in ``record``. The noise is the oracle's `sample`.

    InputError if sigma <= 0, if a shape does not fit (both are named), if ``horizon``, ``start`` or a time to record is
    not a whole number of steps, or if the oracle returns numbers that are not finite (which path, at which time).
    """
    positive("sigma", sigma)
    if not hasattr(hyperparameters, "sde_constants"):
        raise InputError(f"hyperparameters is {_kind(hyperparameters)}: must be scaling.SGD, RMSprop or Adam")
    process = Algorithm(oracle, hyperparameters, sigma, generator, variant)
    return _simulate(process, theta, start, horizon, u, m, record)


def simulate_sde(
    oracle, constants: SDEConstants, *, theta, horizon, step, generator, start=None, u=None, m=None, record=(), draws=1
) -> State:
    """Integrate the SDE with ``constants`` (``hyperparameters.sde_constants(sigma)``) until time ``horizon``.

    ``step`` is the time step of Euler-Maruyama. ``u`` and ``m`` start as `initial_state` says unless given. Adam's
    equation is singular at time 0 and starts at ``start`` > 0, by default the whole number of steps nearest to a tenth
    of the momentum's memory 1 / c1. Errors as in `simulate_algorithm`.

    The normals of a step are the normalised sum of ``draws`` draws: with the same seed, steps of step / k and draws / k
    follow the same Brownian paths, so that the difference of both integrations has little noise.
    """
    if not isinstance(constants, SDEConstants):
        raise InputError(
            f"constants is {_kind(constants)}: must be SDEConstants, from hyperparameters.sde_constants(sigma)"
        )
    process = Equation(oracle, constants, step, generator, draws)
    if start is None:
        start = step * max(1, round(0.1 / constants.c1 / step)) if constants.c1 else 0.0
    if constants.c1 and start <= 0:
        raise InputError(f"start = {start:g}: must be > 0, since Adam's equation is singular at 0")
    return _simulate(process, theta, start, horizon, u, m, record)


def initial_state(process, theta, time) -> tuple:
    """Return (u, m) with which an `Algorithm` or `Equation` starts at ``theta`` and ``time``; None where it has none.

    Where it corrects its averages for a start from nothing: gamma2 diag Sigma and gamma1 grad f, what they are after
    standing still at ``theta`` until ``time``. Elsewhere u = diag Sigma.
    """
    constants, time = process.constants, time if process.corrected else math.inf
    if constants.c2 is None:
        return None, None
    u = -math.expm1(-constants.c2 * time) * process.oracle.noise_variance(theta).expand_as(theta)
    return u, None if constants.c1 is None else -math.expm1(-constants.c1 * time) * process.oracle.gradient(theta)


class Normals:
    """Standard normals from the stream of a torch generator.

    Drawing them is most of the cost of a simulation. In float64 on a CPU they come from numpy's ziggurat over SFC64,
    which the generator seeds: torch draws them by Box-Muller, in more than twice the time. Else they are torch's.
    Each is the normalised sum of ``draws`` of the stream.
    """

    def __init__(self, generator, draws: int = 1):
        if draws < 1:
            raise InputError(f"draws = {draws}: must be at least 1")
        self.generator, self.draws, self.ziggurat = generator, draws, None

    def fill(self, buffer: torch.Tensor) -> torch.Tensor:
        """Fill a contiguous tensor in place, and return it."""
        self._draw(buffer)
        if self.draws > 1:
            more = torch.empty_like(buffer)
            for _ in range(self.draws - 1):
                buffer.add_(self._draw(more))
            buffer.mul_(self.draws**-0.5)
        return buffer

    def _draw(self, buffer):
        if buffer.dtype != torch.float64 or buffer.device.type != "cpu":
            return buffer.normal_(generator=self.generator)
        if self.ziggurat is None:
            seed = torch.randint(2**63 - 1, (1,), generator=self.generator).item()
            self.ziggurat = np.random.Generator(np.random.SFC64(seed))
        self.ziggurat.standard_normal(out=buffer.numpy())
        return buffer


class Algorithm:
    """The discrete algorithm as a process: `advance` takes paths one step further, in place."""

    def __init__(self, oracle, hyperparameters, sigma, generator=None, variant="paper"):
        h = hyperparameters
        name = type(h).__name__.lower()
        if name != "sgd" and variant not in scaling.VARIANTS[name]:
            raise InputError(f"variant = {variant!r}: {name} has {', '.join(scaling.VARIANTS[name])}")
        self.oracle, self.sigma, self.generator, self.variant = oracle, sigma, generator, variant
        self.lr, self.eps, self.step = h.lr, getattr(h, "eps", None), h.time_step
        self.beta1 = getattr(h, "beta1", None)
        self.beta2 = getattr(h, "beta2", getattr(h, "beta", None))
        self.corrected = self.beta1 is not None or variant == "authors"
        self.constants = h.sde_constants(sigma)

    def advance(self, state: State, count: int, xi=None):
        """Take the step from ``count`` to count + 1; ``xi`` (paths, noise_dim) are its normals, else drawn."""
        theta, u, m = state.theta, state.u, state.m
        if xi is None:
            g = self.oracle.sample(theta, self.sigma, self.generator)
        else:
            g = torch.add(self.oracle.gradient(theta), self.oracle.noise(theta, xi), alpha=self.sigma)
        _refuse_infinite(state, gradient=g)
        if u is None:
            theta.add_(g, alpha=-self.lr)
            return
        if self.variant != "paper" or m is not None:
            self._average(u, g)
        scale = self.sigma
        if self.corrected:
            scale /= math.sqrt(1.0 - self.beta2 ** (count + 1))
        denominator = u.sqrt().mul_(scale).add_(self.eps)
        if m is None:
            theta.addcdiv_(g, denominator, value=-self.lr)
            if self.variant == "paper":
                self._average(u, g)
        else:
            m.lerp_(g, 1.0 - self.beta1)
            theta.addcdiv_(m, denominator, value=-self.lr / (1.0 - self.beta1 ** (count + 1)))

    def _average(self, u, g):
        u.mul_(self.beta2).addcmul_(g, g, value=(1.0 - self.beta2) / self.sigma**2)


class Equation:
    """Euler-Maruyama of the SDE as a process: `advance` takes paths one time step further, in place."""

    def __init__(self, oracle, constants, step, generator=None, draws=1):
        self.oracle, self.constants, self.normals = oracle, constants, Normals(generator, draws)
        self.step = positive("step", step)
        self.corrected = constants.c1 is not None
        for name in ("c1", "c2"):
            rate = getattr(constants, name)
            if rate is not None and rate * step > 1.0:
                raise InputError(f"step = {step:g}: must be at most 1 / {name} = {1.0 / rate:g}")
        self.buffers = {}

    def advance(self, state: State, count: int, xi=None):
        """Take the step from time count * step on; ``xi`` (paths, noise_dim) are its normals, else drawn."""
        c, dt = self.constants, self.step
        theta, u, m = state.theta, state.u, state.m
        if xi is None:
            xi = self.normals.fill(self._buffer("xi", theta, self.oracle.noise_dim))
        gradient, noise, variance = self.oracle.terms(theta, xi)
        # grad f + sigma0 Sigma^{1/2} xi / sqrt(dt): what drives the paths over dt.
        force = torch.add(gradient, noise, alpha=c.sigma0 / math.sqrt(dt), out=self._buffer("force", theta))
        _refuse_infinite(state, gradient=force, noise_variance=variance)
        if u is None:
            theta.add_(force, alpha=-dt)
            return
        p = torch.sqrt(u, out=self._buffer("p", theta)).mul_(c.sigma0)
        if m is None:
            theta.addcdiv_(force, p.add_(c.eps0), value=-dt)
        else:
            gamma1, gamma2 = (-math.expm1(-rate * count * dt) for rate in (c.c1, c.c2))
            theta.addcdiv_(m, p.add_(c.eps0 * math.sqrt(gamma2)), value=-dt * math.sqrt(gamma2) / gamma1)
            m.lerp_(force, c.c1 * dt)
        u.lerp_(variance.expand_as(u), c.c2 * dt)

    def _buffer(self, name, theta, width=None):
        """Memory that is written anew in every step."""
        shape = (len(theta), width or theta.shape[1])
        found = self.buffers.get(name)
        if found is None or found.shape != shape or found.dtype != theta.dtype:
            found = self.buffers[name] = theta.new_empty(shape)
        return found


def _simulate(process, theta, start, horizon, u, m, record):
    oracle = process.oracle
    if not isinstance(theta, torch.Tensor):
        raise InputError(f"theta is a {type(theta).__name__}: must be a tensor (paths, {oracle.dim})")
    if theta.ndim != 2 or theta.shape[1] != oracle.dim:
        raise InputError(f"theta has shape {tuple(theta.shape)}: must be (paths, {oracle.dim})")
    if not theta.is_floating_point():
        raise InputError(f"theta has dtype {theta.dtype}: must be a floating-point type")
    for name, part, rate in (("u", u, process.constants.c2), ("m", m, process.constants.c1)):
        if part is not None and rate is None:
            raise InputError(f"{name} has shape {tuple(part.shape)}: this process has no {name}; leave it out")
        if part is not None and part.shape != theta.shape:
            raise InputError(f"{name} has shape {tuple(part.shape)}: must be that of theta, {tuple(theta.shape)}")
    first = steps_until("start", start, process.step)
    last = first + steps_until("horizon", horizon, process.step, start)
    stops = [first + steps_until("record", time, process.step, start) for time in record]
    if any(stop > last for stop in stops):
        raise InputError(f"record = {max(record):g}: must not exceed horizon = {horizon:g}")

    if u is not None and (u < 0).any():
        path = int((u < 0).any(1).nonzero()[0])
        raise InputError(f"u = {u[path].min():g} at path {path}: must be >= 0")
    oracles.check(oracle, theta[:2])
    held = initial_state(process, theta, start) if u is None or m is None else (None, None)
    u, m = (there if part is None else part for there, part in zip(held, (u, m), strict=True))
    whole = State(start, *(None if part is None else part.clone() for part in (theta, u, m)))
    whole.records = [_like(whole, time) for time in record]
    rows = max(1, PORTION // oracle.width)
    for begin in range(0, len(theta), rows):
        portion = slice(begin, begin + rows)
        state = State(start, *(None if part is None else part[portion] for part in _parts(whole)), first=begin)
        for count in range(first, last + 1):
            state.time = count * process.step
            for stop, kept in zip(stops, whole.records, strict=True):
                if stop == count:
                    _copy(state, kept, portion)
            if count < last:
                process.advance(state, count)
    whole.time = last * process.step
    return whole


def _kind(value):
    return f"of type {type(value).__name__}"


def _refuse_infinite(state, **tensors):
    """InputError if an oracle returned numbers that are not finite, naming the path and the time."""
    for name, tensor in tensors.items():
        # A sum is finite unless a term is not, or is so large that the next step would overflow.
        if not math.isfinite(tensor.sum()):
            bad = tensor.expand_as(state.theta).isfinite().logical_not().any(1)
            path = state.first + (int(bad.nonzero()[0]) if bad.any() else 0)
            if state.u is not None and (state.u < 0).any():  # whose root has spoilt theta
                path = state.first + int((state.u < 0).any(1).nonzero()[0])
                raise InputError(f"the oracle's noise_variance is negative: path {path}, before time {state.time:g}")
            raise InputError(f"the oracle's {name} is not finite: path {path}, time {state.time:g}")


def _parts(state):
    return state.theta, state.u, state.m


def _like(state, time):
    return State(time, *(None if part is None else torch.empty_like(part) for part in _parts(state)))


def _copy(state, kept, portion):
    for source, target in zip(_parts(state), _parts(kept), strict=True):
        if source is not None:
            target[portion] = source
