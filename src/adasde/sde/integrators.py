"""The SDEs of the paper and the algorithms that they approximate, as processes on one clock.

Time is the SDE's: a step of RMSprop or Adam takes lr^2, a step of SGD takes lr. With sigma0 = sigma lr, eps0 = eps lr,
c_i = (1 - beta_i) / lr^2, gamma_i(t) = 1 - exp(-c_i t) and u = v / sigma^2, the equations are

  RMSprop  d theta = -(grad f dt + sigma0 Sigma^{1/2} dW) / P             P = sigma0 sqrt(u) + eps0
  Adam     d theta = -(sqrt(gamma2) / gamma1) (m / P) dt                  P = sigma0 sqrt(u) + eps0 sqrt(gamma2)
           d m = c1 (grad f - m) dt + sigma0 c1 Sigma^{1/2} dW
  both     d u = c2 (diag Sigma - u) dt
  SGD      d theta = -grad f dt - sigma0 Sigma^{1/2} dW                   sigma0 = sigma sqrt(lr)

The oracle has drift and diffusion, `BrownianIncrements` the normals, `EulerMaruyama` the method. Everything works on
many paths at once, with tensors of shape (paths, dim), and keeps their dtype.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from adasde.common import InputError, positive
from adasde.scaling.hyperparameters import VARIANTS, Hyperparameters, SDEConstants
from adasde.sde.oracles import NoisyGradientOracle

_Tensors = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass
class State:
    """Paths at one time.

    Args:
        time: SDE time.
        theta: Parameters, (paths, dim).
        u: Second moment v / sigma^2, (paths, dim); None (default) for SGD.
        m: Momentum, (paths, dim); None (default) for RMSprop and SGD.
        records: The states at the times that were to be recorded; default none.
        first: Number of the first path, where these are a portion of more paths; default 0.

    Source: the paper's SDEs.
    """

    time: float
    theta: Tensor
    u: Tensor | None = None
    m: Tensor | None = None
    records: list["State"] = field(default_factory=list)
    first: int = 0

    @property
    def tensors(self) -> _Tensors:
        """theta, u and m."""
        return self.theta, self.u, self.m

    def mapped(self, function: Callable[[Tensor], Tensor], time: float, first: int = 0) -> "State":
        """Return a state with ``function`` of each tensor.

        Args:
            function: Takes a tensor (paths, dim), and returns that of the new state.
            time: SDE time of the new state.
            first: Number of its first path; default 0.

        Returns:
            The new state, without records.
        """
        u, m = (None if part is None else function(part) for part in (self.u, self.m))
        return State(time, function(self.theta), u, m, first=first)


class BrownianIncrements:
    """Standard normals for the steps of a simulation.

    Drawing them is most of the cost of a simulation. For float64 on a CPU they come from numpy's ziggurat over SFC64,
    seeded by ``generator``, since torch's Box-Muller takes more than twice the time. Otherwise they are torch's.

    Args:
        generator: torch generator, or None for torch's own.
        draws: Number of normals whose normalised sum is one increment; default 1. Simulations with steps in the ratio
            1 : k and draws in the ratio k : 1 follow the same Brownian path if their seeds agree.

    Raises:
        InputError: If ``draws`` is below 1.

    Source: ours.
    """

    def __init__(self, generator: Generator | None, draws: int = 1) -> None:
        if draws < 1:
            raise InputError(f"draws = {draws}: must be at least 1")
        self.generator, self.draws = generator, draws
        self._ziggurat: np.random.Generator | None = None

    def fill(self, buffer: Tensor) -> Tensor:
        """Fill a tensor in place.

        Args:
            buffer: The tensor, contiguous, of any shape.

        Returns:
            The same tensor, full of independent standard normals.
        """
        self._draw(buffer)
        if self.draws > 1:
            more = torch.empty_like(buffer)
            for _ in range(self.draws - 1):
                buffer.add_(self._draw(more))
            buffer.mul_(self.draws**-0.5)
        return buffer

    def _draw(self, buffer: Tensor) -> Tensor:
        if buffer.dtype != torch.float64 or buffer.device.type != "cpu":
            return buffer.normal_(generator=self.generator)
        if self._ziggurat is None:
            seed = torch.randint(2**63 - 1, (1,), generator=self.generator).item()
            self._ziggurat = np.random.Generator(np.random.SFC64(int(seed)))
        self._ziggurat.standard_normal(out=buffer.numpy())
        return buffer


class Algorithm:
    """The discrete algorithm as a process; arguments as for `adasde.sde.simulate_algorithm`.

    ``corrected`` says whether the running averages start from nothing and their bias is corrected.
    """

    def __init__(
        self,
        oracle: NoisyGradientOracle,
        hyperparameters: Hyperparameters,
        sigma: float,
        generator: Generator | None = None,
        variant: str = "paper",
    ) -> None:
        h = hyperparameters
        if h.name != "sgd" and variant not in VARIANTS[h.name]:
            raise InputError(f"variant = {variant!r}: {h.name} has {', '.join(VARIANTS[h.name])}")
        self.oracle, self.sigma, self.generator, self.variant = oracle, sigma, generator, variant
        self.lr, self.step, self.constants = h.lr, h.time_step, h.sde_constants(sigma)
        self.beta1: Any = getattr(h, "beta1", None)
        self.beta2: Any = getattr(h, "beta2", getattr(h, "beta", None))
        self.eps: Any = getattr(h, "eps", None)
        self.corrected = self.beta1 is not None or variant == "authors"

    def advance(self, state: State, count: int, xi: Tensor | None = None) -> None:
        """Take all paths from step ``count`` to the next, in place, by normals ``xi`` (paths, noise_dim) or new."""
        theta, u, m = state.tensors
        if xi is None:
            g = self.oracle.sample(theta, self.sigma, self.generator)
        else:
            g = torch.add(self.oracle.gradient(theta), self.oracle.noise(theta, xi), alpha=self.sigma)
        _refuse_infinite(state, gradient=g)
        if u is None:
            theta.add_(g, alpha=-self.lr)
            return
        after = self.variant == "paper" and m is None  # the paper's RMSprop divides by u from before the gradient
        if not after:
            self._average(u, g)
        scale = self.sigma
        if self.corrected:
            scale /= math.sqrt(1.0 - self.beta2 ** (count + 1))
        denominator = u.sqrt().mul_(scale).add_(self.eps)
        if m is None:
            theta.addcdiv_(g, denominator, value=-self.lr)
        else:
            m.lerp_(g, 1.0 - self.beta1)
            theta.addcdiv_(m, denominator, value=-self.lr / (1.0 - self.beta1 ** (count + 1)))
        if after:
            self._average(u, g)

    def _average(self, u: Tensor, g: Tensor) -> None:
        u.mul_(self.beta2).addcmul_(g, g, value=(1.0 - self.beta2) / self.sigma**2)


class EulerMaruyama:
    """The SDE as a process, integrated by the Euler-Maruyama method.

    Args:
        oracle: Drift and diffusion.
        constants: Constants of the SDE, from ``hyperparameters.sde_constants(sigma)``.
        step: SDE time of a step, at most 1 / c1 and 1 / c2.
        generator: torch generator of the normals; default None, torch's own.
        draws: Number of normals whose normalised sum drives a step, as for `BrownianIncrements`; default 1.

    Raises:
        InputError: If ``step`` or ``draws`` is out of its range.

    Source: the paper's SDEs, as in this module's docstring.
    """

    def __init__(
        self,
        oracle: NoisyGradientOracle,
        constants: SDEConstants,
        step: float,
        generator: Generator | None = None,
        draws: int = 1,
    ) -> None:
        self.oracle, self.constants, self.normals = oracle, constants, BrownianIncrements(generator, draws)
        self.step = positive("step", step)
        self.corrected = constants.c1 is not None
        for name in ("c1", "c2"):
            rate = getattr(constants, name)
            if rate is not None and rate * step > 1.0:
                raise InputError(f"step = {step:g}: must be at most 1 / {name} = {1.0 / rate:g}")
        self._buffers: dict[str, Tensor] = {}

    def advance(self, state: State, count: int, xi: Tensor | None = None) -> None:
        """Take a step of all paths, in place.

        Args:
            state: The state, at SDE time count * step. Its time is left to the caller.
            count: Number of steps from SDE time 0 to the state, above 0 for Adam.
            xi: Standard normals of the step, (paths, noise_dim); default new ones.

        Raises:
            InputError: If the oracle returns numbers that are not finite; the message has the path and the time.

        Source: the paper's SDEs, by the Euler-Maruyama method.
        """
        dt, (theta, u, m) = self.step, state.tensors
        c: Any = self.constants  # None is only what is not used
        if xi is None:
            xi = self.normals.fill(self._buffer("xi", theta, self.oracle.noise_dim))
        gradient, noise, variance = self.oracle.terms(theta, xi)
        # What drives the paths over dt: grad f + sigma0 Sigma^{1/2} xi / sqrt(dt).
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

    def _buffer(self, name: str, theta: Tensor, width: int | None = None) -> Tensor:
        """Return memory that every step writes anew."""
        shape = (len(theta), width or theta.shape[1])
        found = self._buffers.get(name)
        if found is None or found.shape != shape or found.dtype != theta.dtype:
            found = self._buffers[name] = theta.new_empty(shape)
        return found


Process = Algorithm | EulerMaruyama


def initial_state(process: Process, theta: Tensor, time: float) -> tuple[Tensor | None, Tensor | None]:
    """Return u and m of a process that starts at ``theta`` and ``time``; None for one that the process does not have.

    If the process corrects its averages, they are what they would be after standing still at ``theta`` from time 0:
    u = gamma2 diag Sigma and m = gamma1 grad f. Otherwise u = diag Sigma.
    """
    c, time = process.constants, time if process.corrected else math.inf
    if c.c2 is None:
        return None, None
    u = -math.expm1(-c.c2 * time) * process.oracle.noise_variance(theta).expand_as(theta)
    return u, None if c.c1 is None else -math.expm1(-c.c1 * time) * process.oracle.gradient(theta)


def _refuse_infinite(state: State, **tensors: Tensor) -> None:
    """Raise an InputError with path and time if an oracle returned numbers that are not finite."""
    for name, tensor in tensors.items():
        # A sum is finite unless a term is not, or is so large that the next step would overflow.
        if not math.isfinite(tensor.sum()):
            bad = tensor.expand_as(state.theta).isfinite().logical_not().any(1)
            path = state.first + (int(bad.nonzero()[0]) if bad.any() else 0)
            if state.u is not None and (state.u < 0).any():  # its root has spoilt theta
                path = state.first + int((state.u < 0).any(1).nonzero()[0])
                raise InputError(f"the oracle's noise_variance is negative: path {path}, before time {state.time:g}")
            raise InputError(f"the oracle's {name} is not finite: path {path}, time {state.time:g}")
