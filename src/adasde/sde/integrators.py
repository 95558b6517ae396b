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

from adasde.common import InputError, positive
from adasde.scaling.hyperparameters import VARIANTS


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


class BrownianIncrements:
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
        name = h.name
        if name != "sgd" and variant not in VARIANTS[name]:
            raise InputError(f"variant = {variant!r}: {name} has {', '.join(VARIANTS[name])}")
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


class EulerMaruyama:
    """Euler-Maruyama of the SDE as a process: `advance` takes paths one time step further, in place."""

    def __init__(self, oracle, constants, step, generator=None, draws=1):
        self.oracle, self.constants, self.normals = oracle, constants, BrownianIncrements(generator, draws)
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


def parts(state):
    return state.theta, state.u, state.m
