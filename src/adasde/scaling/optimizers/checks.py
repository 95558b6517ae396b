"""What our optimizers share: checks of their arguments and gradients, and the loss of a closure."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from adasde.common import InputError
from adasde.scaling.hyperparameters import check_number

Parameters = Iterable[Any]  # parameters, or dictionaries of parameter groups


def check_group(group: dict[str, Any], **betas: Any) -> None:
    """InputError unless the numbers of a parameter group, and its ``betas``, are in their ranges.

    As in torch, lr may be 0.
    """
    for name in ("lr", "eps", "weight_decay"):
        check_number(name, group[name])
    for name, beta in betas.items():
        check_number(name, beta, below=1.0)


def closure_loss(closure: Callable[[], float] | None) -> float | None:
    """Return the loss of a step's closure, which computes the gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def refuse_sparse(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the gradients of the optimizer's parameters. InputError if one is sparse."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for g in grads:
        if g.layout != torch.strided:
            raise InputError(
                f"gradient: one of shape {tuple(g.shape)} is sparse; use dense ones (nn.Embedding with sparse=False)"
            )
    return grads
