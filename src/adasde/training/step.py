"""One optimizer step's gradient, computed in micro-batches and shared by processes."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import nn

from adasde.common import InputError
from adasde.scaling.svag import SVAGLoss, coefficients
from adasde.training import distributed

Batch = tuple[torch.Tensor, ...]


class Objective(nn.Module):
    """A loss as a module around the model, so that wrappers of modules see every pass."""

    def __init__(self, model: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        """Return the loss of ``batch``, a scalar."""
        return self.loss(self.model, *batch)


class StepGradient:
    """The gradient of an optimizer step, which draws one minibatch, or two for SVAG.

    Each process takes its shard of every minibatch, and makes one forward and backward pass over all of its examples or
    one over each micro-batch. A pass has ``examples`` of them. The losses of the passes are multiplied by ``weights``,
    so that their gradients add up to the step's.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., torch.Tensor],
        batch_size: int,
        ell: float = 1,
        micro_batch: int | None = None,
        precision: str = "float32",
    ) -> None:
        self.micro_batch, self.bf16 = micro_batch, precision == "bf16"
        factors = (1.0,) if ell == 1 else coefficients(ell)  # of the minibatches
        shard = batch_size // distributed.world_size()
        if micro_batch is None:
            self.examples, self.weights = shard * len(factors), [1.0]
            loss = loss if ell == 1 else SVAGLoss(loss, ell)
        else:
            passes = shard // micro_batch  # of a minibatch
            self.examples, self.weights = micro_batch, [factor / passes for factor in factors for _ in range(passes)]
        self.objective = distributed.data_parallel(Objective(model, loss))

    def backward(self, batches: Iterable[Batch]) -> torch.Tensor:
        """Add a step's gradient to the parameters' ``grad``; return its loss, a scalar without gradient.

        ``batches`` are those of the step's passes. The processes average their gradients once, in the last pass.
        """
        total = 0.0
        for number, (weight, batch) in enumerate(zip(self.weights, batches, strict=True), start=1):
            last = number == len(self.weights)
            with nullcontext() if last or distributed.world_size() == 1 else self.objective.no_sync():
                total += self._pass(batch, weight)
        return total

    def _pass(self, batch: Batch, weight: float) -> torch.Tensor:
        try:
            with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.objective(*batch)
            loss = loss * weight
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"micro_batch = {self.micro_batch}: the device's memory is too small for {len(batch[0])} examples "
                "at once; try a smaller micro_batch"
            ) from error
        return loss.detach()
