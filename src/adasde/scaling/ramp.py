"""Raise the batch in training where a schedule would lower the learning rate."""

import copy
import math
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from adasde.common import InputError, positive, whole
from adasde.scaling.rescale import rescale, scaled_group
from adasde.scaling.rules import scaled_batch_size
from adasde.scaling.schedulers import schedulers_of

if TYPE_CHECKING:
    from adasde.scaling.noise_report import NoiseReport


class BatchRamp:
    """A schedule that doubles the batch wherever the learning rate would have fallen to half.

    Where a schedule halves the rate, the ramp halves it and applies the square-root rule at kappa = 2, with the state
    carried over. So the rate falls by sqrt(2) only, and the run keeps the SDE, and the SDE time per example, of the run
    that decays. What is left of the schedule between two doublings scales the rate. Call ``ramp.step()`` after every
    optimizer step, and take the next batch of ``ramp.batch_size`` examples. To resume, make the ramp before the
    optimizer and the ramp load their states.

    Args:
        optimizer: An optimizer that `rescale` covers.
        batch_size: Examples per step at the start, at least 1.
        schedule: Milestones, in examples, at each of which the rate would be halved; or a torch scheduler of the
            optimizer, which is read for ``steps`` steps and must not be stepped any more.
        steps: Length of the schedule in steps of ``batch_size`` examples; for a scheduler, which needs it.
        largest: Largest batch in examples; default no limit. Once it is reached, the rate falls as the schedule says.
        noise: A `MicroBatchNoise` or `NoiseMonitor` of the training; default none. Then the batch is doubled only up to
            its ``critical_batch()``, and its ``rescaled`` is called at every doubling.
        betas: ``linear`` (default) or ``half-life``, as in `rescale`.

    Raises:
        InputError: If a value is out of its range, a schedule raises the rate after lowering it by half, or the largest
            batch of the ramp is too large for a beta.

    Source: Seesaw (arXiv 2510.14717) doubles the batch and divides the rate by sqrt(2). Moving betas, eps and the
        second moment with it is ours, from the paper's rule.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        schedule: Sequence[int] | LRScheduler,
        steps: int | None = None,
        largest: int | None = None,
        noise: "NoiseReport | None" = None,
        betas: str = "linear",
    ) -> None:
        self.optimizer, self.betas, self.largest, self.noise = optimizer, betas, largest, noise
        self.base, self.examples, self.kappa = int(whole("batch_size", batch_size, least=1)), 0, 1
        self._scheduler = schedule if isinstance(schedule, LRScheduler) else None
        schedulers_of(optimizer, self._scheduler)  # refuses another optimizer's, and one that is left out
        self._milestones: list[int] = []
        self._factors: list[float] = []  # of the schedule, over its largest rate, by step of the first batch size
        if isinstance(schedule, LRScheduler):
            if steps is None:
                raise InputError("steps: missing; how many steps the schedule takes at the first batch size")
            self._factors = _factors_of(optimizer, schedule, whole("steps", steps, least=1))
        else:
            if steps is not None:
                raise InputError(f"steps = {steps}: goes with a scheduler, not with milestones")
            self._milestones = [int(whole("milestones", milestone, least=1)) for milestone in schedule]
            if self._milestones != sorted(set(self._milestones)):
                raise InputError(f"milestones = {self._milestones}: must increase")
        self._ceilings = list(accumulate(self._factors[::-1], max))[::-1]  # the largest factor from here on
        self._most, self._factor = self._largest_kappa(), self._factor_at(0)

    @property
    def batch_size(self) -> int:
        """Examples of the next step."""
        return scaled_batch_size(self.base, self.kappa)

    def step(self) -> None:
        """Count the examples of the step that was taken, and change the rate, and the batch, for the next one.

        Raises:
            InputError: If the schedule has ended, if the batch may grow before ``noise`` has measured anything, or if
                `rescale` or ``noise.rescaled`` refuses the doubling.
        """
        examples = self.examples + self.batch_size
        factor, critical = self._factor_at(examples), math.inf
        if factor <= 0:
            raise InputError(f"schedule: ends after {examples} examples")
        if self.noise is not None and self._grows(examples):
            critical = self.noise.critical_batch()
        self.examples = examples
        if factor != self._factor:
            for group in self.optimizer.param_groups:
                _multiply(group, factor / self._factor)
            self._factor = factor
        while self._grows(examples) and 2 * self.batch_size <= critical:
            rescale(self.optimizer, 2, scheduler=self._scheduler, betas=self.betas)
            self.kappa *= 2
            if self.noise is not None:
                self.noise.rescaled(2)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the optimizer's own state.

        Returns:
            Plain numbers by name.
        """
        return {"examples": self.examples, "kappa": self.kappa, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; the optimizer loads its own state.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: If it is something else.
        """
        if missing := [name for name in self.state_dict() if name not in state]:
            raise InputError(f"state_dict: holds no {missing[0]}; it must be a ramp's")
        self.examples, self.kappa, self._factor = (
            whole("examples", state["examples"], least=0),
            whole("kappa", state["kappa"], least=1),
            positive("factor", state["factor"]),
        )

    def _grows(self, examples: int) -> bool:
        """Whether the schedule has fallen far enough for a batch twice as large."""
        return self.kappa < self._most and self._ceiling_at(examples) <= 0.5 / self.kappa * (1 + 1e-9)

    def _largest_kappa(self) -> int:
        """Return the largest kappa of the ramp. InputError if a beta does not allow it."""
        end = self._ceilings[-1] if self._factors else 0.5 ** len(self._milestones)
        if self.largest is None and self.noise is None and end < 2.0**-30:
            raise InputError("largest: missing; the rate falls to 0, and the batch would grow without end")
        most = 2 ** int(-math.log2(max(end, 2.0**-30)) + 1e-9)
        if self.largest is not None:
            most = min(most, 2 ** int(math.log2(whole("largest", self.largest, least=self.base) / self.base)))
        while True:
            try:
                for group in self.optimizer.param_groups:
                    scaled_group(self.optimizer, group, most, "sqrt", self.betas)
                return most
            except InputError as error:
                if self.noise is None or most == 1:  # the noise may not let it come so far
                    grown = f"the schedule would take the batch to {most * self.base}; give a limit, or noise"
                    raise InputError(f"largest: {grown} ({error})") from error
                most //= 2

    def _factor_at(self, examples: int) -> float:
        """Return what the schedule makes of its largest rate after ``examples``."""
        if not self._factors:
            return 0.5 ** sum(examples >= milestone for milestone in self._milestones)
        return self._factors[min(examples // self.base, len(self._factors) - 1)]

    def _ceiling_at(self, examples: int) -> float:
        """Return the largest factor from ``examples`` on: a batch is doubled for good."""
        if not self._factors:
            return self._factor_at(examples)
        return self._ceilings[min(examples // self.base, len(self._ceilings) - 1)]


def _factors_of(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
    """Return the rates of ``steps`` steps of a scheduler over the largest; scheduler and optimizer are left alone."""
    weights = [{**group, "params": [torch.zeros(1)]} for group in optimizer.param_groups]
    stand_in = torch.optim.SGD(copy.deepcopy(weights), lr=1.0)
    own, rates = copy.deepcopy(scheduler, {id(optimizer): stand_in}), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the stand-in's steps are not counted
        for _ in range(steps):
            rates.append([float(group["lr"]) for group in stand_in.param_groups])
            own.step()
    if not all(rate > 0 for rate in rates[0]):
        raise InputError(f"schedule: starts at a rate of {min(rates[0]):g}; make the ramp after the first step")
    factors = [[rate / first for rate, first in zip(row, rates[0], strict=True)] for row in rates]
    if any(not math.isclose(factor, row[0], rel_tol=1e-6, abs_tol=1e-9) for row in factors for factor in row):
        raise InputError("schedule: differs between parameter groups; the ramp has one batch size for all")
    return [row[0] / max(row[0] for row in factors) for row in factors]


def _multiply(group: dict[str, Any], factor: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].mul_(factor)
    else:
        group["lr"] *= factor
