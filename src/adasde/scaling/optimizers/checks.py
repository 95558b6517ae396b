"""What our optimizers share: checks of their arguments and gradients, and the loss of a closure."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from adasde.common import InputError

Parameters = Iterable[Any]  # parameters, or dictionaries of parameter groups


def check_group(group: dict[str, Any], **betas: Any) -> None:
    """InputError unless the numbers of a parameter group, and its ``betas``, are in their ranges."""
    for name in ("lr", "eps", "weight_decay"):
        check_number(name, group[name])
    for name, beta in betas.items():
        check_number(name, beta, below=1.0)


def check_number(name: str, value: Any, below: float = math.inf) -> None:
    """InputError unless ``value`` is a number in [0, ``below``), or a tensor with one. torch takes lr = 0 as well."""
    number = isinstance(value, int | float) or isinstance(value, torch.Tensor) and value.numel() == 1
    if not (number and 0.0 <= float(value) < below):
        shown = f"{float(value):g}" if number else repr(value)
        raise InputError(f"{name} = {shown}: must be {'in [0, 1)' if below == 1.0 else 'a finite number >= 0'}")


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
