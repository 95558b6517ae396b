"""RMSprop as the paper defines it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from adasde.scaling.hyperparameters import check_number
from adasde.scaling.optimizers.checks import Parameters, check_group, closure_loss, refuse_sparse


class RMSprop(Optimizer):
    """RMSprop of the paper: theta -= lr g / (sqrt(v) + eps), and only then v = alpha v + (1 - alpha) g^2.

    Its arguments are torch's, and it works where torch.optim.RMSprop does: schedulers, GradScaler, hooks, checkpoints.

    The paper does not give v at step 0. Starting from 0 would divide the first gradient by eps. So ``v`` is the
    starting value. A coordinate whose gradient was always zero keeps v = 0, and its first non-zero gradient is divided
    by eps. With eps as small as 1e-8 this definition therefore diverges on networks with inactive units, where the two
    other variants do not.

    Args:
        params: Parameters, or dictionaries of parameter groups, which may have arguments of their own.
        lr: Learning rate, >= 0; default 0.01.
        alpha: Decay of the running mean of squared gradients, in [0, 1), the paper's beta; default 0.99.
        eps: Number added to the denominator, >= 0; default 1e-8.
        weight_decay: Coupled weight decay (an L2 term of the loss), >= 0; default 0.
        momentum: Decay of a running sum of the steps, as torch's, >= 0; default 0, since the paper's RMSprop has none.
            OneCycleLR and CyclicLR set it unless they are given cycle_momentum=False.
        v: Second moment before the first step: a number >= 0, or None (default) for the square of the first gradient.

    Raises:
        InputError: If a value is out of its range; in `step`, if a gradient is sparse. Nothing has been changed then.

    Source: the paper's definition; its v at step 0, and momentum, are ours.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        v: float | None = None,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "v": v}
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with arguments of their own, as torch.optim.Optimizer does."""
        group = {**self.defaults, **param_group}
        check_group(group, alpha=group["alpha"])
        for name in ("momentum", "v"):
            check_number(name, group[name] or 0.0)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. Return the closure's loss, if a closure is given."""
        loss = closure_loss(closure)
        refuse_sparse(self)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            for p, g in zip(params, grads, strict=True):
                if not self.state[p]:
                    self.state[p]["v"] = g * g if group["v"] is None else torch.full_like(p, group["v"])
            vs = [self.state[p]["v"] for p in params]
            denominators = torch._foreach_sqrt(vs)
            torch._foreach_add_(denominators, group["eps"])
            if group["momentum"]:
                buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_addcdiv_(buffers, grads, denominators)
                torch._foreach_add_(params, buffers, alpha=-float(group["lr"]))
            else:
                torch._foreach_addcdiv_(params, grads, denominators, value=-float(group["lr"]))
            torch._foreach_mul_(vs, group["alpha"])
            torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["alpha"])
        return loss
