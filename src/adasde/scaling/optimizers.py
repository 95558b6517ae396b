"""RMSprop and Adam as the paper defines them, beside what people run under the same names.

=======  =========  ==================================================================================================
Adam     `Adam`     the paper and torch.optim.Adam: update both averages, correct their bias, then take the step
RMSprop  paper      `RMSprop`: divide by sqrt(v) from BEFORE the current gradient; no bias correction
RMSprop  torch      torch.optim.RMSprop: divide by sqrt(v) AFTER the current gradient; v starts at 0
RMSprop  authors    the authors' code, torch.optim.Adam with beta1 = 0: after the current gradient, bias-corrected
=======  =========  ==================================================================================================

All variants have the same limit for lr -> 0 at fixed lr^2 / (1 - beta). `build` chooses the implementation of a run:
torch's where torch has the same algorithm, ours elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch.optim import Optimizer

from adasde.common import InputError
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters

_Parameters = Iterable[Any]  # parameters, or dictionaries of parameter groups


class _Optimizer(Optimizer, ABC):
    """An optimizer that updates all parameters of a group at once."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. Return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                grads = [p.grad for p in params]
                if group["weight_decay"] and not group.get("decoupled"):
                    grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
                self._update(group, params, grads)
        return loss

    @abstractmethod
    def _update(self, group: dict[str, Any], params: list[torch.Tensor], grads: list[torch.Tensor]) -> None:
        """Update ``params`` of a group in place; coupled decay is in ``grads``."""


class RMSprop(_Optimizer):
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

    def _update(self, group: dict[str, Any], params: list[torch.Tensor], grads: list[torch.Tensor]) -> None:
        for p, g in zip(params, grads, strict=True):
            if not self.state[p]:
                self.state[p]["v"] = g * g if group["v"] is None else torch.full_like(p, group["v"])
        vs = [self.state[p]["v"] for p in params]
        denominators = torch._foreach_sqrt(vs)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(params, grads, denominators, value=-group["lr"])
        torch._foreach_mul_(vs, group["beta"])
        torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["beta"])


class Adam(_Optimizer):
    """Adam of the paper, written out; the same algorithm as torch.optim.Adam, or AdamW with ``decoupled``."""

    def __init__(
        self,
        params: _Parameters,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        h = AdamHyperparameters(lr, beta1, beta2, eps, weight_decay, decoupled)  # checks the ranges
        super().__init__(params, asdict(h))

    def _update(self, group: dict[str, Any], params: list[torch.Tensor], grads: list[torch.Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            self.state[p]["step"] += 1
        if group["decoupled"]:
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        ms, vs = ([self.state[p][name] for p in params] for name in ("m", "v"))
        torch._foreach_lerp_(ms, grads, 1.0 - group["beta1"])
        torch._foreach_mul_(vs, group["beta2"])
        torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["beta2"])
        steps = [self.state[p]["step"] for p in params]
        denominators = torch._foreach_sqrt(vs)
        torch._foreach_div_(denominators, [(1.0 - group["beta2"] ** k) ** 0.5 for k in steps])
        torch._foreach_add_(denominators, group["eps"])
        scales = [-group["lr"] / (1.0 - group["beta1"] ** k) for k in steps]
        torch._foreach_addcdiv_(params, ms, denominators, scales)


def build(
    params: _Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, variant: str = "paper"
) -> Optimizer:
    """Return the optimizer that runs ``hyperparameters`` on ``params``, by the implementation called ``variant``."""
    h = hyperparameters
    if variant not in VARIANTS[h.name]:
        raise InputError(f"variant = {variant!r}: {h.name} has {', '.join(VARIANTS[h.name])}")
    shared: dict[str, Any] = {"lr": h.lr, "eps": h.eps, "weight_decay": h.weight_decay}
    if isinstance(h, AdamHyperparameters):
        kind = torch.optim.AdamW if h.decoupled else torch.optim.Adam
        return kind(params, betas=(h.beta1, h.beta2), fused=True, **shared)
    if variant == "authors":
        return torch.optim.Adam(params, betas=(0.0, h.beta), fused=True, **shared)
    if variant == "torch":
        return torch.optim.RMSprop(params, alpha=h.beta, **shared)
    return RMSprop(params, beta=h.beta, **shared)
