"""Counts of steps: whole steps of SDE time, and how many steps a run at another batch size or SVAG level takes."""

import math
from typing import TypeVar

from adasde.common import InputError, positive, whole

_Steps = TypeVar("_Steps", int, float, int | None)


def scaled_steps(steps: int, kappa: float) -> int:
    """Return a number of optimizer steps, such as a warm-up's, for a batch ``kappa`` times as large.

    Args:
        steps: Number of steps at the old batch size, >= 0.
        kappa: Batch multiplier, > 0.

    Returns:
        steps / kappa, as a whole number of at least 1; 0 stays 0.

    Raises:
        InputError: If ``steps`` is not a whole number, or ``kappa`` is not a finite number above 0, or is so small that
            a float does not hold the result.

    Source: the paper's square-root scaling rule keeps the number of samples.
    """
    return shortened(whole("steps", steps, least=0), positive("kappa", kappa))


def shortened(steps: _Steps, kappa: float) -> _Steps:
    """Return steps / kappa as a whole number of at least 1; 0 and None stay what they are. InputError if it is inf."""
    if not steps:
        return steps
    if math.isinf(count := steps / kappa):
        raise InputError(f"kappa = {kappa:g}: {steps:g} steps would become more than a float holds")
    return max(1, round(count))


def steps_until(name: str, value: float, step: float, start: float = 0.0) -> int:
    """Return the number of steps from ``start`` to ``value``.

    InputError, which names the next possible value, unless it is a whole number.
    """
    count = (value - start) / step
    nearest = round(count) if math.isfinite(count) else 0
    if not math.isfinite(count) or abs(count - nearest) > 1e-6 * max(1.0, abs(count)) or nearest < 0:
        following = start + step * max(0, math.ceil(count)) if math.isfinite(count) else start + step
        since = f" from {start:g}" if start else ""
        raise InputError(
            f"{name} = {value:g}: must be a whole number of steps of {step:g}{since}; the next is {following:.10g}"
        )
    return nearest


def step_count(samples: int, batch_size: int, ell: float = 1) -> int:
    """Return the steps in which a run at SVAG level ``ell`` covers the SDE time of a plain run with ``samples``.

    A step at level ell is ell^2 times as short in SDE time, so ell^2 of them make a plain one. InputError unless the
    number is whole.
    """
    count = ell**2 * samples / batch_size
    if not math.isclose(count, round(count), rel_tol=1e-9):
        near = math.sqrt(max(1, round(count)) * batch_size / samples)
        raise InputError(
            f"ell = {ell:g}: {samples} samples of the plain run at batch size {batch_size} would become {count:.10g} "
            f"steps, ell^2 for each of its steps; that must be a whole number (nearest ell: {near:.12g})"
        )
    return round(count)
