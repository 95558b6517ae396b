"""SVAG: training with ell times the gradient noise and steps ell times as short, which comes nearer to the SDE.

A step at level ell combines two independent minibatch gradients into r1 g1 + r2 g2. That keeps their mean and
multiplies their covariance by ell^2. With the hyperparameters of ``h.svag(ell)`` and ell^2 times the steps, the run has
the SDE of the plain run and approaches it as ell grows. So if ell = 1 agrees with larger ell, the SDE describes the
plain run.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from adasde.common import InputError, positive
from adasde.scaling.rules import ROUNDING


def coefficients(ell: float) -> tuple[float, float]:
    """Return (r1, r2) = (1 -+ sqrt(2 ell^2 - 1)) / 2, for which r1 + r2 = 1 and r1^2 + r2^2 = ell^2."""
    excess = 2.0 * positive("ell", ell) * ell - 1.0
    if not -ROUNDING <= excess < math.inf:
        raise InputError(f"ell = {ell:g}: must be from 1 / sqrt(2) = 0.707107, since 2 ell^2 >= 1, to 1e150")
    root = math.sqrt(max(0.0, excess))
    return (1.0 - root) / 2.0, (1.0 + root) / 2.0


def svag_loss(losses: torch.Tensor, ell: float, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss whose gradient is that of SVAG at level ``ell``.

    Train with the hyperparameters ``AdamHyperparameters(...).svag(ell)``, and take ell^2 steps for each step of the
    plain run. A model with batch norm must be called within `minibatches_apart`.

    A loss with class weights or ``ignore_index`` divides the sum over a minibatch by the sum of its weights, not by its
    size. Its losses of single examples are multiplied by these weights already, so give the weights as well::

        classes = torch.tensor([1.0, 5.0])
        losses = F.cross_entropy(logits, labels, weight=classes, ignore_index=-100, reduction="none")
        weights = torch.where(labels == -100, 0.0, classes[labels.clamp(min=0)])
        svag_loss(losses, ell, weights).backward()

    With labels 0, 1, 1, -100 the weights are 1, 5, 5, 0. So the first minibatch is divided by 6, and the second by 5.

    Args:
        losses: Losses of single examples, shape (2 * minibatch,): two independent minibatches, one after the other.
        ell: SVAG level, at least 1 / sqrt(2); 1 is plain training on the second minibatch.
        weights: Weights by which the losses were multiplied, >= 0, of the same shape; default all 1.

    Returns:
        The scalar r1 (mean of the first half) + r2 (mean of the second half), weighted means with ``weights``.

    Raises:
        InputError: If ``losses`` or ``weights`` has another shape, the weights of a minibatch do not have a finite sum
            above 0, or ``ell`` is out of its range.

    Source: the paper's SVAG for adaptive algorithms.
    """
    if losses.dim() != 1 or not len(losses) or len(losses) % 2:
        raise InputError(f"losses = {tuple(losses.shape)}: must be two minibatches of equal size, in one dimension")
    first, second = coefficients(ell)
    one, two = losses.chunk(2)
    if weights is None:
        return first * one.mean() + second * two.mean()
    if weights.shape != losses.shape:
        raise InputError(f"weights = {tuple(weights.shape)}: must have the shape of losses, {tuple(losses.shape)}")
    weights = weights.detach().to(losses.dtype)
    totals = weights.reshape(2, -1).sum(1)
    if not (weights.min() >= 0 and totals.min() > 0 and totals.isfinite().all()):
        raise InputError(f"weights: must be >= 0, with a finite sum > 0 in each minibatch, not {totals.tolist()}")
    return first * one.sum() / totals[0] + second * two.sum() / totals[1]


@contextmanager
def minibatches_apart(model: nn.Module) -> Iterator[None]:
    """Let batch norm treat the two halves of a batch as two minibatches, as SVAG needs it.

    In this context every batch norm in training mode normalises each half of its input by that half's own mean and
    variance, and updates its running statistics twice, as two passes would.

    Args:
        model: The model. Its batch norms are as before when the context ends.

    Raises:
        InputError: If a part of the model that torch.jit compiled holds a batch norm in training mode, or if the model
            is within such a context already; in a pass, if a batch has no two halves of equal size.

    Source: the authors' code runs SVAG with a pass of its own for each minibatch.
    """
    for module in model.modules():
        # Compiled code calls no ``forward`` that could be replaced.
        if isinstance(module, torch.jit.ScriptModule) and module.training and "aten::batch_norm" in _graph(module):
            raise InputError(
                "model: torch.jit compiled its batch norm, which cannot keep two minibatches apart; give the model as "
                "it was before torch.jit.script or trace"
            )
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    if any(getattr(norm.forward, "func", None) is _one_after_the_other for norm in norms):
        raise InputError("model: is within minibatches_apart already, which would make quarters of its halves")
    patches = [vars(norm).get("forward") for norm in norms]  # training over several processes patches them as well
    for norm in norms:
        # One pass with patched norms takes 0.84 of the time of two passes of the model (fashion-resnet, B = 32).
        vars(norm)["forward"] = partial(_one_after_the_other, norm.forward)
    try:
        yield
    finally:
        for norm, patch in zip(norms, patches, strict=True):
            del norm.forward
            if patch is not None:
                vars(norm)["forward"] = patch


class SVAGLoss:
    """A training loss whose gradient is that of SVAG at level ``ell``, at the cost of one forward and backward pass.

    ``loss(model, *batch, weights=None)`` is a workload's. Batch norm keeps the two minibatches apart. A model that
    mixes examples in another way needs two passes.
    """

    def __init__(self, loss: Callable[..., torch.Tensor], ell: float) -> None:
        self.loss, self.coefficients = loss, coefficients(ell)

    def __call__(self, model: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar; ``batch`` are tensors of shape (2 * minibatch, ...)."""
        half, odd = divmod(len(batch[0]), 2)
        if odd:
            raise InputError(f"batch = {len(batch[0])} examples: must be two minibatches of equal size")
        with minibatches_apart(model):
            return self.loss(model, *batch, weights=_weights(self.coefficients, half, batch[0].device))


@lru_cache(maxsize=8)  # saves 2 % of a step of fashion-cnn at B = 32
def _weights(coefficients: tuple[float, float], half: int, device: torch.device) -> torch.Tensor:
    """Return the examples' weights, r1 / half and then r2 / half, of shape (2 * half,): float64 where there is such."""
    weights = torch.tensor(coefficients, dtype=torch.float64).repeat_interleave(half) / half
    return weights.to(device, torch.float32 if device.type == "mps" else torch.float64)


def _one_after_the_other(forward: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor) -> torch.Tensor:
    # The argument has torch's name, since norms may be called as norm(input=x).
    if len(input) % 2:
        raise InputError(f"batch = {len(input)} examples: must be two minibatches of equal size")
    return torch.cat([forward(half) for half in input.chunk(2)])


def _graph(module: torch.jit.ScriptModule) -> str:
    """Return the code of a compiled module with all that it calls; nothing for a container, which has none."""
    return str(getattr(module, "inlined_graph", ""))
