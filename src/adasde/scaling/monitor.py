"""A monitor that measures the gradient's noise while any loop trains, and estimates how large its batch may become."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel

from adasde.common import InputError, whole
from adasde.scaling.callbacks import after_each_step
from adasde.scaling.gradient_noise import Gradient, Signal, doubled, lengths, measure
from adasde.scaling.noise_report import NoiseReport, refuse_sharded
from adasde.scaling.rules import ScalingWarning

if TYPE_CHECKING:
    from transformers import TrainerCallback

LEAST = 512  # examples in the chunks


class NoiseMonitor(NoiseReport):
    """Measures the gradient's noise on held-out chunks of data, for loops that do not accumulate gradients.

    It measures once when it is made. Then call it after every optimizer step with the number of steps so far; it
    measures again every ``every`` steps. The model is in eval mode while it measures. Afterwards every module's mode
    and torch's random state are as before. Each measurement is a row of the history. Two tensors per weight are kept.

    Args:
        model: The model that is trained, a torch module; DDP is unwrapped.
        optimizer: Its optimizer: torch's Adam, AdamW, NAdam or RMSprop, or one of these wrapped.
        batch_size: Examples per optimizer step, at least 1. The gradient's noise scale is 1 / sqrt(batch_size).
        loss: ``loss(model, *chunk)`` returns a chunk's mean loss, a scalar tensor.
        chunks: At least two independent samples of the training data, together at least 512 examples, or there is a
            ScalingWarning; better twenty of fifty. Each is a tuple of tensors of shape (examples, ...), or of
            dictionaries of such.
        every: Optimizer steps between two measurements, at least 1.

    Raises:
        InputError: If the rule does not cover the optimizer, a value is out of its range, the number of a chunk's
            examples is not clear, parameters are sharded, or the weights, the loss or its gradient are not finite.

    Source: section 4.1 of the paper asks that noise dominates the gradient. The predicted lag is ours.
    """

    _saved: ClassVar[tuple[str, ...]] = (*NoiseReport._saved, "_called")

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        loss: Callable[..., torch.Tensor],
        chunks: Iterable[tuple[Any, ...]],
        every: int,
    ) -> None:
        super().__init__(optimizer, whole("batch_size", batch_size, least=1))
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        refuse_sharded([*self.model.parameters(), *(weight for weight, _, _ in self._weights())])
        self.loss, self.chunks, self.every = loss, list(chunks), whole("every", every, least=1)
        for chunk in self.chunks:
            sizes = set(lengths(chunk))
            if len(sizes) > 1:
                raise InputError(
                    f"chunks: one holds tensors of {' and '.join(map(str, sorted(sizes)))} rows, so its number of "
                    "examples is not clear; give tensors of shape (examples, ...) only"
                )
        self._called = False
        self._measure()
        if (count := self._gradient.examples) < LEAST:
            message = f"noise: measured on {count} examples, too few to be certain; give at least {LEAST}"
            warnings.warn(message, ScalingWarning, stacklevel=2)

    @property
    def times(self) -> list[float]:
        """SDE time of each measurement."""
        return [row["time"] for row in self.history]

    def __call__(self, step: int) -> None:
        """Measure if ``every`` steps have passed since the last measurement.

        Args:
            step: Optimizer steps taken so far, counted from 1. Time counts from the first call: a step number above
                ``every`` there means that training began before the monitor was made.

        Raises:
            InputError: If the step is before the last one, the optimizer was rescaled without `rescaled`, or the
                weights, the loss or its gradient are not finite.
        """
        self._refuse_rescaled()
        step = whole("step", step, least=0)
        if step < self._step:
            raise self._error(f"step = {step}: before the last one, {self._step}")
        if not self._called and step > self.every:
            self._step = step - 1
        since = step - self._step
        # A step takes lr^2 of SDE time.
        self._time += since * self._rate() ** 2
        self._examples += since * self.batch_size
        first, self._called, self._step = not self._called, True, step
        if step >= (0 if first else self.history[-1]["step"]) + self.every:
            self._measure()

    def callback(self) -> "TrainerCallback":
        """Return this monitor as a callback for transformers' Trainer.

        Returns:
            The callback, which calls the monitor after every optimizer step.
        """
        return after_each_step(self)

    def _moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for mean, variance in zip(self._gradient.mean, self._gradient.variance, strict=True):
            yield variance, mean.square().sub(variance, alpha=1.0 / self._gradient.examples)

    def _signals(self) -> Iterator[Signal]:
        gradient = self._gradient
        for (squares, noise), mean, variance in zip(gradient.signals(), gradient.mean, gradient.variance, strict=True):
            certain = doubled(mean[variance <= 0]).square()  # of weights that have a gradient without noise
            yield torch.cat([squares, certain]), torch.cat([noise, torch.zeros_like(certain)])

    def _measure(self) -> None:
        modes = {module: module.training for module in self.model.modules()}
        weights = [weight for weight, _, _ in self._weights()]
        kind = weights[0].device.type
        devices = {w.device.index for w in weights if w.device.index is not None} if kind != "cpu" else set()
        with (
            torch.random.fork_rng(sorted(devices), **({"device_type": kind} if devices else {})),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            self.model.eval()
            try:
                loss, gradient = measure(self.model, self.loss, self.chunks, weights)
            finally:
                for module, mode in modes.items():
                    module.training = mode
        for name, finite in (
            ("weights", all(bool(weight.isfinite().all()) for weight in self.model.parameters())),
            ("loss", math.isfinite(loss)),
            ("gradient", math.isfinite(gradient.norm + gradient.trace)),
        ):
            if not finite:
                raise self._error(f"{name}: not finite at step {self._step}; training has diverged, nothing measured")
        if gradient.norm + gradient.trace == 0.0:
            raise self._error("loss: depends on none of the optimizer's parameters; they must be the model's")
        self._gradient: Gradient = gradient
        self._record()
