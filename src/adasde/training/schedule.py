"""Learning-rate schedules that do not depend on the batch size."""

import math
from dataclasses import dataclass

from adasde.common import InputError


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor over a run, as a function of progress = samples seen / samples in the run.

    Progress does not depend on the batch size, so one schedule serves every kappa.

    Args:
        warmup: Share of the run, in [0, 1), in which the factor rises to 1; default 0.
        warmup_from: Factor at the start of a geometric warm-up, in (0, 1); default 0.001. A linear shape starts at 0.
        decays: Progress at which the factor drops, increasing and after the warm-up; default none.
        decay_factor: What the factor is multiplied by at each of ``decays``, in (0, 1); default 0.1.
        shape: ``steps`` (default) is constant between the drops. ``linear`` falls to 0 at the end of the run.

    Raises:
        InputError: If a value is out of its range or does not belong to the shape.

    Source: the authors' code for images (steps), and a public BERT recipe (linear).
    """

    warmup: float = 0.0
    warmup_from: float = 1e-3
    decays: tuple[float, ...] = ()
    decay_factor: float = 0.1
    shape: str = "steps"

    def __post_init__(self) -> None:
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
        for name, user in (("warmup_from", "warmup"), ("decay_factor", "decays")):
            if getattr(self, name) != getattr(type(self), name) and not getattr(self, user):
                raise InputError(f"{name} = {getattr(self, name):g}: goes with {user}, which the schedule has none of")
        points = (self.warmup, *self.decays, 1.0)
        if any(later <= earlier for earlier, later in zip(points, points[1:], strict=False)):
            raise InputError(f"decays = {list(self.decays)}: must increase and lie between the warm-up's end and 1")

    @property
    def constant(self) -> bool:
        """Whether the factor is 1 throughout."""
        return not self.warmup and not self.decays and self.shape == "steps"

    def elapsed(self, progress: float) -> float:
        """Return the SDE time from the start to ``progress``: the integral of the squared factor.

        Args:
            progress: Samples seen / samples in the run, from 0 to 1.

        Returns:
            The time, in units of that of a whole run at a constant rate.

        Source: ours, from the paper's time, the sum of squared learning rates.
        """
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
        """Return the root mean square of the factor over a step from progress ``start`` to ``end``.

        So the sum of the squared learning rates of any steps that cover [0, p] is proportional to ``elapsed(p)``. Runs
        of every batch size are at the same SDE time after the same number of samples.

        Args:
            start: Samples seen before the step / samples in the run, at least 0.
            end: Samples seen after the step / samples in the run, above ``start`` and at most 1.

        Returns:
            The factor, from 0 to 1.

        Source: ours.
        """
        return math.sqrt((self.elapsed(end) - self.elapsed(start)) / (end - start))
