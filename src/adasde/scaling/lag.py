"""How far behind the baseline a larger batch falls: predicted from the baseline alone, and observed.

A run scaled by kappa is at time t where the baseline was at time tau(t); its *lag* is 1 - tau / t, a share. The
prediction follows the speed rho_kappa that the baseline recorded (noise.py): d tau / dt = rho_kappa(tau), tau(0) = 0.
It knows nothing of any run at kappa. The observed tau is where the baseline had the train loss that the scaled run has
at t. Both presume a constant learning rate: when that drops, the loss falls for another reason than progress.
"""

import numpy as np

from adasde.common import InputError

SPEED = "speed_k"  # start of the metrics that hold a run's speeds
TOLERATED = 0.1  # lag at the end of a run up to which `adasde predict` calls a batch size safe


def warp(time, speed):
    """Return tau at each ``time``, where d tau / dt = rho(tau), linear between the values ``speed`` at ``time``.

    ``time`` (points,) starts at 0; ``speed`` is (points,) or (replicates, points), not negative. Exact: on a stretch
    where rho = r + a (tau - tau0), tau grows by (r / a) (exp(a t) - 1).
    """
    speed = np.maximum(np.asarray(speed, float), 1e-6)  # a speed of 0 would never be left again
    first, second, steps = speed[..., :-1], speed[..., 1:], np.diff(time)
    curved = np.abs(second - first) > 1e-9 * second
    slopes = np.where(curved, (second - first) / steps, 1.0)
    needed = np.where(curved, np.log(second / first) / slopes, steps / first)  # time to cross each stretch
    reached = np.cumsum(needed, axis=-1)  # the time at which tau is at the end of each
    at = (reached[..., None, :-1] <= time[:, None]).sum(axis=-1)  # the stretch in which each time finds tau
    first, curved, slopes, crossed = (
        np.take_along_axis(part, at, axis=-1) for part in (first, curved, slopes, reached - needed)
    )
    passed = time - crossed
    grown = np.where(curved, first * np.expm1(slopes * passed) / slopes, first * passed)
    return np.minimum(time[at] + grown, time[-1])


def predicted(time, speed):
    """Predicted lag at each ``time``, from the baseline's ``speed`` there; at time 0 its limit, 1 - speed."""
    tau = warp(time, speed)
    return 1.0 - np.concatenate([np.asarray(speed)[..., :1], tau[..., 1:] / time[1:]], axis=-1)


def observed(time, baseline, losses):
    """Observed lag: 1 - tau / t, where the ``baseline``'s running minimum at tau equals ``losses`` at t; all positive.

    NaN where the baseline never had that loss, and at the first two times: at 0 there is no lag, and before the next
    measurement the loss falls by more than can be interpolated. Between measurements the loss is taken to fall
    geometrically.
    """
    depth, depths = (-np.log(np.maximum(curve, np.finfo(float).tiny)) for curve in (losses, baseline))
    tau = np.interp(depth, np.maximum.accumulate(depths), time, left=np.nan, right=np.nan)
    tau[:2] = np.nan
    return 1.0 - tau / np.where(time > 0, time, 1.0)


def speed_between(speeds: dict, kappa: float):
    """Speed at a kappa between those of ``speeds`` (kappa -> array), linear in log kappa; at kappa = 1 it is 1."""
    has_lags = sorted(speeds)
    if not 1 <= kappa <= has_lags[-1]:
        raise InputError(f"kappa = {kappa:g}: a run records its speeds for kappa from 1 to {has_lags[-1]:g}")
    above = next(k for k in has_lags if k >= kappa)
    below = max((k for k in has_lags if k < above), default=1)
    weight = np.log(kappa / below) / np.log(above / below)
    return weight * speeds[above] + (1.0 - weight) * speeds.get(below, np.ones_like(speeds[above]))


def safe_kappa(lags: dict) -> float:
    """Largest kappa at which the lag at the end stays tolerable, linear in log kappa between those of ``lags``."""
    kappas, ends = [1.0], [0.0]
    for kappa in sorted(lags):
        kappas.append(kappa)
        ends.append(lags[kappa][-1])
        if ends[-1] > TOLERATED:
            return float(2 ** np.interp(TOLERATED, ends[-2:], np.log2(kappas[-2:])))
    return kappas[-1]
