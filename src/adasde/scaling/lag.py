"""Lag: how far a larger batch falls behind the baseline, predicted from the baseline only, and observed.

At time t a run scaled by kappa is where the baseline was at time tau(t). Its *lag* is 1 - tau / t, a share. The
prediction follows the speed rho_kappa that the baseline recorded (gradient_noise.py): d tau / dt = rho_kappa(tau),
tau(0) = 0. It uses no run at kappa. The observed tau is the time at which the baseline had the train loss that the
scaled run has at t. Both presume a constant learning rate, since a drop of the rate lowers the loss without progress.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adasde.common import InputError

KAPPAS = (2, 4, 8, 16, 32, 64, 128, 256)  # at which predicted speeds are recorded
SPEED = "speed_k"  # prefix of the metrics that hold a run's speeds
PERSISTENT = "persistent_speed_k"  # the same, from the part of the gradient that persists since the last measurement
TOLERATED = 0.1  # largest lag at the end of a run at which `adasde predict` calls a batch size safe

_Floats = NDArray[np.floating[Any]]


def at_ends(stretches: ArrayLike) -> _Floats:
    """Return speeds at successive times from those of the stretches between them: the mean of both neighbours.

    Args:
        stretches: Speeds, (..., stretches).

    Returns:
        Speeds, (..., stretches + 1); at the first and last time that of the only neighbour.
    """
    speed = np.asarray(stretches, float)
    return np.concatenate([speed[..., :1], (speed[..., 1:] + speed[..., :-1]) / 2, speed[..., -1:]], axis=-1)


def warp(time: _Floats, speed: ArrayLike) -> _Floats:
    """Return tau at each ``time``, where d tau / dt = rho(tau), linear between the values ``speed`` at ``time``.

    ``time`` (points,) starts at 0; ``speed`` (points,) or (replicates, points) is not negative. The solution is exact:
    on a stretch where rho = r + a (tau - tau0), tau grows by (r / a) (exp(a t) - 1).
    """
    rho = np.maximum(np.asarray(speed, float), 1e-6)  # from a speed of 0 tau would never move again
    first, second, steps = rho[..., :-1], rho[..., 1:], np.diff(time)
    curved = np.abs(second - first) > 1e-9 * second
    slopes = np.where(curved, (second - first) / steps, 1.0)
    needed = np.where(curved, np.log(second / first) / slopes, steps / first)  # time to cross each stretch
    reached = np.cumsum(needed, axis=-1)  # time at which tau is at the end of each stretch
    at = (reached[..., None, :-1] <= time[:, None]).sum(axis=-1)  # stretch in which tau is at each time
    first, curved, slopes, crossed = (
        np.take_along_axis(part, at, axis=-1) for part in (first, curved, slopes, reached - needed)
    )
    passed = time - crossed
    grown = np.where(curved, first * np.expm1(slopes * passed) / slopes, first * passed)
    return np.minimum(time[at] + grown, time[-1])


def predicted(time: _Floats, speed: ArrayLike) -> _Floats:
    """Return the predicted lag at each ``time`` from the baseline's ``speed`` there; at time 0 its limit, 1 - speed."""
    tau = warp(time, speed)
    return 1.0 - np.concatenate([np.asarray(speed)[..., :1], tau[..., 1:] / time[1:]], axis=-1)


def observed(time: _Floats, baseline: ArrayLike, losses: ArrayLike) -> _Floats:
    """Return the observed lag, 1 - tau / t, where the ``baseline``'s running minimum at tau equals ``losses`` at t.

    All losses are positive; between measurements they are taken to fall geometrically. The lag is NaN where the
    baseline never had that loss, and at the first two times: at 0 there is no lag, and up to the next measurement the
    loss falls too far to be interpolated.
    """
    depth, depths = (-np.log(np.maximum(curve, np.finfo(float).tiny)) for curve in (losses, baseline))
    tau = np.interp(depth, np.maximum.accumulate(depths), time, left=np.nan, right=np.nan)
    tau[:2] = np.nan
    return 1.0 - tau / np.where(time > 0, time, 1.0)


def speed_between(speeds: Mapping[float, _Floats], kappa: float) -> _Floats:
    """Return the speed at a kappa between those of ``speeds``, linear in log kappa. At kappa = 1 it is 1."""
    recorded = sorted(speeds)
    if not 1 <= kappa <= recorded[-1]:
        raise InputError(f"kappa = {kappa:g}: a run records its speeds for kappa from 1 to {recorded[-1]:g}")
    above = next(k for k in recorded if k >= kappa)
    below = max((k for k in recorded if k < above), default=1)
    weight = np.log(kappa / below) / np.log(above / below)
    return weight * speeds[above] + (1.0 - weight) * speeds.get(below, np.ones_like(speeds[above]))


def safe_kappa(lags: Mapping[float, Sequence[float] | _Floats]) -> float:
    """Return the largest kappa whose lag at the end is tolerated, linear in log kappa between those of ``lags``."""
    kappas, ends = [1.0], [0.0]
    for kappa in sorted(lags):
        kappas.append(kappa)
        ends.append(lags[kappa][-1])
        if ends[-1] > TOLERATED:
            return float(2 ** np.interp(TOLERATED, ends[-2:], np.log2(kappas[-2:])))
    return kappas[-1]


def largest_kappa(lags: Mapping[float, Sequence[float] | _Floats], betas: Iterable[float]) -> float:
    """Return the largest kappa whose lag at the end is tolerated and that leaves every beta at 0.5 or above.

    Args:
        lags: Predicted lag at successive times for each kappa.
        betas: The optimizer's betas at the batch size of today; a beta of 0 sets no limit.

    Source: ours. Below a beta of 0.5 the rule was not seen to hold.
    """
    return min([safe_kappa(lags), *(0.5 / (1.0 - beta) for beta in betas if beta > 0)])
