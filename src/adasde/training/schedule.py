"""The clock: a learning-rate schedule that does not know the batch size, and whole steps of SDE time."""

import math
from dataclasses import dataclass

from adasde.common import InputError


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor over a run, as a function of progress = samples seen / samples in the run.

    With the ``shape`` steps: a geometric warm-up from ``warmup_from`` to 1 over the first ``warmup`` of the run, then a
    multiplication by ``decay_factor`` at each progress in ``decays``. With linear: a linear warm-up from 0, then a
    linear decay to 0 at the end. Progress does not know the batch size, so one schedule serves every kappa.
    """

    warmup: float = 0.0
    warmup_from: float = 1e-3
    decays: tuple[float, ...] = ()
    decay_factor: float = 0.1
    shape: str = "steps"

    def __post_init__(self):
        if not 0.0 <= self.warmup < 1.0:
            raise InputError(f"warmup = {self.warmup:g}: must be in [0, 1), a part of the run")
        for name in ("warmup_from", "decay_factor"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(f"{name} = {getattr(self, name):g}: must be in (0, 1)")
        if self.shape not in ("steps", "linear"):
            raise InputError(f"shape = {self.shape!r}: must be steps or linear")
        if self.shape == "linear":
            for name in ("decays", "warmup_from", "decay_factor"):
                if getattr(self, name) != getattr(type(self), name):
                    raise InputError(f"{name} = {getattr(self, name)}: a linear schedule has none")
        points = (self.warmup, *self.decays, 1.0)
        if any(later <= earlier for earlier, later in zip(points, points[1:], strict=False)):
            raise InputError(f"decays = {list(self.decays)}: must increase and lie between the warm-up's end and 1")

    @property
    def constant(self) -> bool:
        """Whether the factor is 1 throughout."""
        return not self.warmup and not self.decays and self.shape == "steps"

    def elapsed(self, progress: float) -> float:
        """Integral of the squared factor from 0 to ``progress``: the SDE time passed, where 1 is a constant run."""
        if self.shape == "linear":
            up, rest = min(progress, self.warmup), 1.0 - self.warmup
            left = (1.0 - max(min(progress, 1.0), self.warmup)) / rest
            return (up**3 / self.warmup**2 if up else 0.0) / 3.0 + rest * (1.0 - left**3) / 3.0
        total, start = 0.0, 0.0
        if self.warmup:
            start = min(progress, self.warmup)
            rate = 2.0 * math.log(1.0 / self.warmup_from)
            total = self.warmup / rate * self.warmup_from**2 * math.expm1(rate * start / self.warmup)
        factor = 1.0
        for end in (*self.decays, 1.0):
            if progress <= start:
                break
            total += (min(progress, end) - start) * factor**2
            start, factor = end, factor * self.decay_factor
        return total

    def factor(self, start: float, end: float) -> float:
        """Root mean square of the factor over a step from progress ``start`` to ``end``.

        With it, the sum of the squared learning rates of any steps that cover [0, p] is proportional to
        ``elapsed(p)``: runs of every batch size are at the same SDE time after the same number of samples.
        """
        return math.sqrt((self.elapsed(end) - self.elapsed(start)) / (end - start))
