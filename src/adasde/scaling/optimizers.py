"""RMSprop and Adam as the paper defines them, beside what people run under the same names.

=======  =========  ==================================================================================================
Adam     paper      `FusedAdam`, as torch.optim.Adam: update both averages, correct their bias, then take the step
RMSprop  paper      `RMSprop`: divide by sqrt(v) from BEFORE the current gradient; no bias correction
RMSprop  torch      torch.optim.RMSprop: divide by sqrt(v) AFTER the current gradient; v starts at 0
RMSprop  authors    `FusedAdam` with beta1 = 0, as the authors' code: after the current gradient, bias-corrected
=======  =========  ==================================================================================================

All variants have the same limit for lr -> 0 at fixed lr^2 / (1 - beta). `build` chooses the implementation of a run:
torch's where torch has the same algorithm, ours elsewhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.adam import adam

from adasde.common import InputError
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters

_Parameters = Iterable[Any]  # parameters, or dictionaries of parameter groups


class RMSprop(Optimizer):
    """RMSprop of the paper: theta -= lr g / (sqrt(v) + eps), and only then v = beta v + (1 - beta) g^2.

    The paper does not give v at step 0. Starting from 0 would divide the first gradient by eps. So ``v`` is the
    starting value: a number, or None for the square of the first gradient. A coordinate whose gradient was always zero
    keeps v = 0, and its first non-zero gradient is divided by eps. With eps as small as 1e-8 this definition therefore
    diverges on networks with inactive units, where the two other variants do not.
    """

    def __init__(
        self,
        params: _Parameters,
        lr: float = 1e-2,
        beta: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        v: float | None = None,
    ) -> None:
        h = RMSpropHyperparameters(lr, beta, eps, weight_decay)  # checks the ranges
        super().__init__(params, {**asdict(h), "v": v})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. Return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
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
            torch._foreach_addcdiv_(params, grads, denominators, value=-group["lr"])
            torch._foreach_mul_(vs, group["beta"])
            torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["beta"])
        return loss


class FusedAdam:
    """Adam or AdamW by torch's fused kernel, with the numbers of torch.optim's class and less Python around them.

    A step of a small network, of a millisecond or two, is 2 % shorter. A job is a second shorter, because torch.optim's
    class imports torch's compiler at its first use. ``param_groups`` holds one group, whose ``lr`` schedules set.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"params": self.params, "lr": lr}]
        self.betas, self.eps, self.weight_decay, self.decoupled = betas, eps, weight_decay, decoupled
        self.state = [
            (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), dtype=torch.float32, device=p.device))
            for p in self.params
        ]  # both averages, and the number of steps

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the parameters that have a gradient."""
        given = [(p, p.grad, *state) for p, state in zip(self.params, self.state, strict=True) if p.grad is not None]
        params, grads, first, second, counts = map(list, zip(*given, strict=True))
        adam(
            params, grads, first, second, [], counts, fused=True, amsgrad=False, maximize=False,
            beta1=self.betas[0], beta2=self.betas[1], lr=self.param_groups[0]["lr"], eps=self.eps,
            weight_decay=self.weight_decay, decoupled_weight_decay=self.decoupled,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"lr": self.param_groups[0]["lr"], "state": [list(tensors) for tensors in self.state]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.param_groups[0]["lr"] = state["lr"]
        for own, saved in zip(self.state, state["state"], strict=True):
            for tensor, value in zip(own, saved, strict=True):
                tensor.copy_(value)


def build(
    params: _Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, variant: str = "paper"
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
    return RMSprop(params, beta=h.beta, **shared)
