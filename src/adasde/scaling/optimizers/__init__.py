"""RMSprop and Adam as the paper defines them, beside what people run under the same names.

=======  =========  ==================================================================================================
Adam     paper      `FusedAdam`, as torch.optim.Adam: update both averages, correct their bias, then take the step
Adam     invariant  `InvariantAdam`: square the gradients of micro-batches, then average them
RMSprop  paper      `RMSprop`: divide by sqrt(v) from BEFORE the current gradient; no bias correction
RMSprop  torch      torch.optim.RMSprop: divide by sqrt(v) AFTER the current gradient; v starts at 0
RMSprop  authors    `FusedAdam` with beta1 = 0, as the authors' code: after the current gradient, bias-corrected
=======  =========  ==================================================================================================

All variants of an optimizer have the same limit for lr -> 0 at fixed lr^2 / (1 - beta). `build` and `build_invariant`
choose the implementation of a run: torch's where torch has the same algorithm, ours elsewhere.
"""

from typing import Any

import torch
from torch.optim import Optimizer

from adasde.common import InputError
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.optimizers.checks import Parameters
from adasde.scaling.optimizers.fused import FusedAdam
from adasde.scaling.optimizers.invariant import InvariantAdam
from adasde.scaling.optimizers.rmsprop import RMSprop

__all__ = ["InvariantAdam", "RMSprop", "as_torch", "build", "build_invariant"]


def build(
    params: Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, variant: str = "paper"
) -> Optimizer | FusedAdam:
    """Return the optimizer that runs ``hyperparameters`` on ``params``, by the implementation called ``variant``."""
    h = hyperparameters
    if variant not in VARIANTS[h.name]:
        raise InputError(f"variant = {variant!r}: {h.name} has {', '.join(VARIANTS[h.name])}")
    shared: dict[str, Any] = {"lr": h.lr, "eps": h.eps, "weight_decay": h.weight_decay}
    if isinstance(h, AdamHyperparameters):
        return FusedAdam(params, betas=(h.beta1, h.beta2), decoupled=h.decoupled, **shared)
    if variant == "authors":
        return FusedAdam(params, betas=(0.0, h.beta), **shared)
    if variant == "torch":
        return torch.optim.RMSprop(params, alpha=h.beta, **shared)
    return RMSprop(params, alpha=h.beta, **shared)


def build_invariant(
    params: Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, micro_batches: int
) -> InvariantAdam:
    """Return the optimizer that runs the baseline's ``hyperparameters`` on ``micro_batches`` of its batches at a time.

    RMSprop is the authors' variant, Adam with beta1 = 0. The others have no invariant form here.
    """
    h = hyperparameters
    betas = (h.beta1, h.beta2) if isinstance(h, AdamHyperparameters) else (0.0, h.beta)
    decoupled = isinstance(h, AdamHyperparameters) and h.decoupled
    return InvariantAdam(params, h.lr, betas, h.eps, h.weight_decay, decoupled, micro_batches)


def as_torch(optimizer: Optimizer | FusedAdam) -> Optimizer:
    """Return torch's own optimizer with the same parameters and state, for what knows torch's classes only."""
    return optimizer.as_torch() if isinstance(optimizer, FusedAdam) else optimizer
