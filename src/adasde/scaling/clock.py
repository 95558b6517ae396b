"""TO DESCRIBE."""

import math

from adasde.common import InputError, positive, whole


def shortened(steps, kappa: float):
    """Return steps / kappa as a whole number of at least 1; none, or None, stay what they are."""
    return max(1, round(steps / kappa)) if steps else steps


def steps_until(name, value, step, start=0.0) -> int:
    """Whole number of steps from ``start`` to ``value``; otherwise an InputError that names the next possible value."""
    count = (value - start) / step
    whole = round(count) if math.isfinite(count) else 0
    if not math.isfinite(count) or abs(count - whole) > 1e-6 * max(1.0, abs(count)) or whole < 0:
        following = start + step * max(0, math.ceil(count)) if math.isfinite(count) else start + step
        since = f" from {start:g}" if start else ""
        raise InputError(
            f"{name} = {value:g}: must be a whole number of steps of {step:g}{since}; the next is {following:.10g}"
        )
    return whole


def scaled_steps(steps: int, kappa: float) -> int:
    """Return what becomes of a count of optimizer steps, such as a warm-up's: steps / kappa, at least 1 if not 0."""
    return shortened(whole("steps", steps, least=0), positive("kappa", kappa))


def step_count(samples: int, batch_size: int, ell: float = 1) -> int:
    """Return the optimizer steps in which a run at SVAG level ``ell`` comes as far as a plain run with ``samples``.

    A step at level ell is ell^2 times as short in SDE time, so ell^2 of them make a plain one. InputError unless whole.
    """
    count = ell**2 * samples / batch_size
    if not math.isclose(count, round(count), rel_tol=1e-9):
        near = math.sqrt(max(1, round(count)) * batch_size / samples)
        raise InputError(
            f"ell = {ell:g}: {samples} samples of the plain run at batch size {batch_size} would become {count:.10g} "
            f"steps, ell^2 for each of its steps; that must be a whole number (nearest ell: {near:.12g})"
        )
    return round(count)
