"""TO DESCRIBE."""

import torch

from adasde.common import InputError, positive
from adasde.scaling.clock import steps_until
from adasde.scaling.hyperparameters import SDEConstants
from adasde.sde.integrators import Algorithm, EulerMaruyama, State, initial_state, parts
from adasde.sde.oracles import check_oracle

PORTION = 1 << 16  # numbers of one portion of paths; with what a step needs of them, 3 to 4 MB of float64


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
    process = EulerMaruyama(oracle, constants, step, generator, draws)
    if start is None:
        start = step * max(1, round(0.1 / constants.c1 / step)) if constants.c1 else 0.0
    if constants.c1 and start <= 0:
        raise InputError(f"start = {start:g}: must be > 0, since Adam's equation is singular at 0")
    return _simulate(process, theta, start, horizon, u, m, record)


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
    check_oracle(oracle, theta[:2])
    held = initial_state(process, theta, start) if u is None or m is None else (None, None)
    u, m = (there if part is None else part for there, part in zip(held, (u, m), strict=True))
    whole = State(start, *(None if part is None else part.clone() for part in (theta, u, m)))
    whole.records = [_like(whole, time) for time in record]
    rows = max(1, PORTION // oracle.width)
    for begin in range(0, len(theta), rows):
        portion = slice(begin, begin + rows)
        state = State(start, *(None if part is None else part[portion] for part in parts(whole)), first=begin)
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


def _like(state, time):
    return State(time, *(None if part is None else torch.empty_like(part) for part in parts(state)))


def _copy(state, kept, portion):
    for source, target in zip(parts(state), parts(kept), strict=True):
        if source is not None:
            target[portion] = source
