"""Run an algorithm or its SDE on many paths. Paths are taken in portions that fit the processor's cache."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Generator, Tensor

from adasde.common import InputError, positive
from adasde.scaling.clock import steps_until
from adasde.scaling.hyperparameters import Hyperparameters, SDEConstants
from adasde.sde.integrators import Algorithm, EulerMaruyama, Process, State, initial_state
from adasde.sde.oracles import NoisyGradientOracle, check_oracle

PORTION = 1 << 16  # numbers of one portion of paths; with what a step needs of them, 3 to 4 MB of float64


def simulate_algorithm(
    oracle: NoisyGradientOracle,
    hyperparameters: Hyperparameters,
    sigma: float,
    *,
    theta: Tensor,
    horizon: float,
    generator: Generator | None,
    start: float = 0.0,
    u: Tensor | None = None,
    m: Tensor | None = None,
    record: Sequence[float] = (),
    variant: str = "paper",
) -> State:
    """Run SGD, RMSprop or Adam on ``oracle`` until SDE time ``horizon``, and return the final state.

    Args:
        oracle: The problem; its `sample` gives the noisy gradients.
        hyperparameters: Hyperparameters of the optimizer.
        sigma: Noise scale of the gradients, > 0.
        theta: Starting points, (paths, dim), floating-point; left unchanged.
        horizon: SDE time at the end.
        generator: torch generator of the noise, or None for torch's own.
        start: SDE time at the start; default 0.
        u: Second moment v / sigma^2 at the start, (paths, dim) and >= 0; default diag Sigma, for Adam and the
            variant ``authors`` times 1 - exp(-c2 start).
        m: Momentum at the start, (paths, dim); default grad f times 1 - exp(-c1 start).
        record: SDE times at which the state is recorded, in ``records`` of the result; default none.
        variant: Implementation, one of `adasde.scaling.hyperparameters.VARIANTS`; default the paper's.

    Returns:
        The state at ``horizon``, with tensors of shape (paths, dim), and the states at the times of ``record`` in its
        ``records``.

    Raises:
        InputError: If a value is out of its range or a shape does not fit; if a time is not a whole number of steps; if
            the oracle returns numbers that are not finite (the message has the path and the time).

    Source: the paper's definitions of RMSprop and Adam.
    """
    positive("sigma", sigma)
    if not hasattr(hyperparameters, "sde_constants"):
        raise InputError(
            f"hyperparameters is of type {type(hyperparameters).__name__}: must be SGDHyperparameters, "
            "RMSpropHyperparameters or AdamHyperparameters"
        )
    process = Algorithm(oracle, hyperparameters, sigma, generator, variant)
    return _simulate(process, theta, start, horizon, u, m, record)


def simulate_sde(
    oracle: NoisyGradientOracle,
    constants: SDEConstants,
    *,
    theta: Tensor,
    horizon: float,
    step: float,
    generator: Generator | None,
    start: float | None = None,
    u: Tensor | None = None,
    m: Tensor | None = None,
    record: Sequence[float] = (),
    draws: int = 1,
) -> State:
    """Integrate an SDE by Euler-Maruyama until SDE time ``horizon``, and return the final state.

    Args:
        oracle: The problem: drift and diffusion.
        constants: Constants of the SDE, from ``hyperparameters.sde_constants(sigma)``.
        theta: Starting points, (paths, dim), floating-point; left unchanged.
        horizon: SDE time at the end.
        step: SDE time of a step, at most 1 / c1 and 1 / c2.
        generator: torch generator of the normals, or None for torch's own.
        start: SDE time at the start. Default 0; for Adam, whose SDE is singular at 0, the whole number of steps nearest
            to a tenth of the momentum's memory 1 / c1.
        u: Second moment v / sigma^2 at the start, (paths, dim) and >= 0; default diag Sigma, for Adam times
            1 - exp(-c2 start).
        m: Momentum at the start, (paths, dim); default grad f times 1 - exp(-c1 start).
        record: SDE times at which the state is recorded, in ``records`` of the result; default none.
        draws: Number of normals whose normalised sum drives a step; default 1. With the same seed, steps of step / k
            and draws / k follow the same Brownian paths, so the difference of the two integrations has little noise.

    Returns:
        The state at ``horizon``, as `simulate_algorithm` returns it.

    Raises:
        InputError: As in `simulate_algorithm`; if ``step`` is too long for the rates of ``constants``.

    Source: the paper's SDEs, as in `adasde.sde.integrators`.
    """
    if not isinstance(constants, SDEConstants):
        raise InputError(
            f"constants is of type {type(constants).__name__}: must be SDEConstants, from "
            "hyperparameters.sde_constants(sigma)"
        )
    process = EulerMaruyama(oracle, constants, step, generator, draws)
    if start is None:
        start = step * max(1, round(0.1 / constants.c1 / step)) if constants.c1 else 0.0
    if constants.c1 and start <= 0:
        raise InputError(f"start = {start:g}: must be > 0, since Adam's equation is singular at 0")
    return _simulate(process, theta, start, horizon, u, m, record)


def _simulate(
    process: Process, theta: Tensor, start: float, horizon: float, u: Any, m: Any, record: Sequence[float]
) -> State:
    _check_start(process, theta, u, m)
    first = steps_until("start", start, process.step)
    last = first + steps_until("horizon", horizon, process.step, start)
    stops = [first + steps_until("record", time, process.step, start) for time in record]
    if any(stop > last for stop in stops):
        raise InputError(f"record = {max(record):g}: must not exceed horizon = {horizon:g}")
    check_oracle(process.oracle, theta[:2])
    if u is None or m is None:
        initial_u, initial_m = initial_state(process, theta, start)
        u, m = initial_u if u is None else u, initial_m if m is None else m
    whole = State(start, theta, u, m).mapped(torch.clone, start)
    whole.records = [whole.mapped(torch.empty_like, time) for time in record]
    rows = max(1, PORTION // process.oracle.width)
    for begin in range(0, len(theta), rows):
        portion = slice(begin, begin + rows)
        state = whole.mapped(itemgetter(portion), start, first=begin)
        for count in range(first, last + 1):
            state.time = count * process.step
            for stop, kept in zip(stops, whole.records, strict=True):
                if stop == count:
                    for source, target in zip(state.tensors, kept.tensors, strict=True):
                        if source is not None and target is not None:
                            target[portion] = source
            if count < last:
                process.advance(state, count)
    whole.time = last * process.step
    return whole


def _check_start(process: Process, theta: Tensor, u: Any, m: Any) -> None:
    dim = process.oracle.dim
    if not isinstance(theta, Tensor):
        raise InputError(f"theta is a {type(theta).__name__}: must be a tensor (paths, {dim})")
    if theta.ndim != 2 or theta.shape[1] != dim:
        raise InputError(f"theta has shape {tuple(theta.shape)}: must be (paths, {dim})")
    if not theta.is_floating_point():
        raise InputError(f"theta has dtype {theta.dtype}: must be a floating-point type")
    for name, part, rate in (("u", u, process.constants.c2), ("m", m, process.constants.c1)):
        if part is not None and rate is None:
            raise InputError(f"{name} has shape {tuple(part.shape)}: this process has no {name}; leave it out")
        if part is not None and part.shape != theta.shape:
            raise InputError(f"{name} has shape {tuple(part.shape)}: must be that of theta, {tuple(theta.shape)}")
    if u is not None and (u < 0).any():
        path = int((u < 0).any(1).nonzero()[0])
        raise InputError(f"u = {u[path].min():g} at path {path}: must be >= 0")
