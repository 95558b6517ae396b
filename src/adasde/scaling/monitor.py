"""A monitor that measures the gradient's noise while any loop trains, and estimates how large its batch may become."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from adasde.common import InputError, whole
from adasde.scaling import gradient_noise, lag
from adasde.scaling.callbacks import after_each_step
from adasde.scaling.rescale import betas_of, scaled_group

if TYPE_CHECKING:
    from transformers import TrainerCallback


class NoiseMonitor:
    """Measures the gradient's noise during training, and estimates the largest usable batch.

    It measures once when it is made. Then call it after every optimizer step with the number of steps so far; it
    measures again every ``every`` steps. The model is in eval mode while it measures. After `rescale`, make a new one.

    Args:
        model: The model that is trained, a torch module.
        optimizer: Its optimizer: torch's Adam, AdamW, NAdam or RMSprop.
        batch_size: Examples per optimizer step, at least 1. The gradient's noise scale is 1 / sqrt(batch_size).
        loss: ``loss(model, *chunk)`` returns a chunk's mean loss, a scalar tensor.
        chunks: At least two independent samples of the training data, better twenty of fifty examples; each is a tuple
            of tensors of shape (examples, ...).
        every: Optimizer steps between two measurements, at least 1.

    Raises:
        InputError: If the rule does not cover the optimizer, or a value is out of its range.

    Source: section 4.1 of the paper asks that noise dominates the gradient. The predicted lag is ours.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        loss: Callable[..., torch.Tensor],
        chunks: Iterable[tuple[torch.Tensor, ...]],
        every: int,
    ) -> None:
        for group in optimizer.param_groups:
            scaled_group(optimizer, group, 1.0, "sqrt")  # refuses what the rule does not cover
        self.model, self.optimizer, self.loss, self._memory = model, optimizer, loss, _memory(optimizer)
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.every, self.chunks = whole("every", every, least=1), list(chunks)
        self.step, self.times, self.speeds = 0, list[float](), list[dict[float, float]]()
        self._measure(0.0)

    def __call__(self, step: int) -> None:
        """Measure if ``every`` steps have passed since the last measurement.

        Args:
            step: Optimizer steps taken so far, counted from 1.

        Raises:
            InputError: If the optimizer was rescaled since the monitor was made.
        """
        if step >= self.step + self.every:
            if _memory(self.optimizer) != self._memory:
                raise InputError("NoiseMonitor: the optimizer was rescaled; make a new one with the new batch_size")
            rate = self.optimizer.param_groups[0]["lr"]
            # A step takes lr^2 of SDE time. The rate is taken to be constant since the last measurement.
            self._measure(self.times[-1] + (step - self.step) * float(rate) ** 2)
            self.step = step

    def lags(self) -> dict[float, float]:
        """Return how far larger batches would have fallen behind by now, as a share of the time so far.

        Returns:
            kappa -> lag from 0 to 1, for every kappa in `adasde.scaling.gradient_noise.KAPPAS`.

        Raises:
            InputError: Before the first measurement after the start.
        """
        if len(self.times) < 2:
            raise InputError("NoiseMonitor: has measured the start alone; train for more steps, or measure more often")
        times = torch.tensor(self.times).numpy()
        return {
            kappa: float(lag.predicted(times, torch.tensor([speeds[kappa] for speeds in self.speeds]).numpy())[-1])
            for kappa in gradient_noise.KAPPAS
        }

    def largest_kappa(self) -> float:
        """Return the largest kappa that would have kept the lag within 10 %.

        The estimate covers training up to this step and keeps every beta at or above 0.5. Round the batch down.

        Raises:
            InputError: Before the first measurement after the start.
        """
        safe = lag.safe_kappa({kappa: [value] for kappa, value in self.lags().items()})
        betas = [float(beta) for group in self.optimizer.param_groups for beta in betas_of(group)]
        return min([safe, *(0.5 / (1.0 - beta) for beta in betas if beta > 0)])

    def callback(self) -> "TrainerCallback":
        """Return this monitor as a callback for transformers' Trainer."""
        return after_each_step(self)

    def _measure(self, time: float) -> None:
        training, eps = self.model.training, self.optimizer.param_groups[0]["eps"]
        self.model.eval()
        try:
            _, gradient = gradient_noise.measure(self.model, self.loss, self.chunks)
        finally:
            self.model.train(training)
        self.speeds.append(gradient.speeds(gradient_noise.KAPPAS, self.batch_size**-0.5, eps))
        self.times.append(time)


def _memory(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    """Return the hyperparameters that only a rescaling changes; a scheduler may cycle beta1."""
    return [(float(betas_of(group)[-1]), float(group["eps"])) for group in optimizer.param_groups]
