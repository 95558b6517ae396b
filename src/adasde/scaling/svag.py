"""SVAG: runs whose gradient noise is ell times as large and whose steps are ell times as short, and so nearer the SDE.

A step at level ell combines two independent minibatch gradients into r1 g1 + r2 g2, which keeps their mean and
multiplies their covariance by ell^2. With the hyperparameters of ``Adam.svag(ell)`` and ell^2 times as many steps, the
run has the SDE of the plain one, and approaches it as ell grows: where ell = 1 agrees with larger ell, the SDE
describes the plain run.
"""

import math
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
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


class SVAGLoss:
    """A training loss whose gradient is that of SVAG at level ``ell``.

    ``loss(model, *batch, weights=None)`` is a task's, see tasks. Called with a batch of two minibatches of equal size,
    one after the other, it returns r1 (mean loss of the first) + r2 (mean loss of the second) at the cost of a single
    forward and backward pass. Batch norm keeps the minibatches apart; a model that mixes examples in another way needs
    two passes.
    """

    def __init__(self, loss, ell: float):
        self.loss, self.coefficients = loss, coefficients(ell)

    def __call__(self, model, *batch):
        """Return the loss, a scalar tensor; ``batch`` is a tuple of tensors of shape (2 * minibatch, ...)."""
        half, odd = divmod(len(batch[0]), 2)
        if odd:
            raise InputError(f"batch = {len(batch[0])} examples: must be two minibatches of equal size")
        with minibatches_apart(model):
            return self.loss(model, *batch, weights=_weights(self.coefficients, half, batch[0].device))


@contextmanager
def minibatches_apart(model):
    """Let every batch norm in training mode take the two halves of its input as two batches, one after the other.

    Each half is normalised by its own mean and variance, and running statistics are updated twice, as in two passes.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    patches = [norm.__dict__.get("forward") for norm in norms]  # those of several processes, see there
    for norm in norms:
        # Patched for the call alone: who uses the model elsewhere finds it as it was. Against two passes of the whole
        # model, whose outputs are not copied together, a step of fashion-resnet takes 0.84 (B = 32) of the time.
        norm.forward = partial(_one_after_the_other, norm.forward)
    try:
        yield
    finally:
        for norm, patch in zip(norms, patches, strict=True):
            del norm.forward
            if patch is not None:
                norm.forward = patch


@lru_cache(maxsize=8)  # 0.02 of a step of fashion-cnn at B = 32
def _weights(coefficients, half, device):
    """Weights of the examples, r1 / half and then r2 / half, float64 of shape (2 * half,)."""
    return torch.tensor(coefficients, dtype=torch.float64, device=device).repeat_interleave(half) / half


def _one_after_the_other(forward, x):
    return torch.cat([forward(half) for half in x.chunk(2)])


def svag_loss(losses: torch.Tensor, ell: float) -> torch.Tensor:
    """Return the loss, a scalar, whose gradient is that of SVAG at level ``ell``.

    ``losses`` are those of single examples, shape (2 * minibatch,): two independent minibatches, one after the other.
    The optimizer takes steps of SVAG with the hyperparameters ``Adam(...).svag(ell)``, ell^2 for one of a plain run. A
    model with batch norm must see the minibatches apart: call it within ``svag.minibatches_apart(model)``.
    """
    half, odd = divmod(len(losses), 2)
    if odd or not half or losses.dim() != 1:
        raise InputError(f"losses = {tuple(losses.shape)}: must be two minibatches of equal size, in one dimension")
    first, second = coefficients(ell)
    return first * losses[:half].mean() + second * losses[half:].mean()
