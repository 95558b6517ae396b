"""Rescale an optimizer of torch in place, together with its scheduler, for another batch size."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from adasde.common import InputError
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import rule_named

_ADAM = (torch.optim.Adam, torch.optim.NAdam)
_RMSPROP = (torch.optim.RMSprop, optimizers.RMSprop)
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # all but the first are put into a group by a scheduler


def rescale(
    optimizer: torch.optim.Optimizer, kappa: float, rule: str = "sqrt", scheduler: LRScheduler | None = None
) -> None:
    """Change ``optimizer`` in place for a batch ``kappa`` times as large, also in mid-training.

    All parameter groups follow the rule; weight decay follows where it is decoupled. The running averages are kept.
    Where noise dominates the gradient, the second moment is then too large by a factor of kappa, and steps are too
    short by one of sqrt(kappa), until it has forgotten the old batch size. Counts of steps, from which the bias is
    corrected, are divided by kappa, so that the correction continues.

    Args:
        optimizer: torch's Adam, AdamW, NAdam or RMSprop, or one of `adasde.scaling.optimizers`.
        kappa: Batch multiplier, > 0; it may be below 1.
        rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.
        scheduler: The torch scheduler that is attached to the optimizer, if any. Only its learning rates change, so
            recreate it with step counts from `scaled_steps`; otherwise it decays kappa times too late.

    Raises:
        InputError: If the rule does not cover the optimizer, one of its options or kappa, or if a scheduler is attached
            and not given. Nothing has been changed then. Betas that fall below 0.5 give a ScalingWarning.

    Source: the paper's square-root scaling rule. What happens in mid-training is ours.
    """
    if scheduler is None and any("initial_lr" in group for group in optimizer.param_groups):
        raise InputError("scheduler: one holds rates of this optimizer, and would put them back; give it as well")
    changes = [scaled_group(optimizer, group, kappa, rule) for group in optimizer.param_groups]
    factor = kappa ** rule_named(rule).lr
    for group, change in zip(optimizer.param_groups, changes, strict=True):
        group.update(change)
        for name in _RATES:
            if isinstance(group.get(name), torch.Tensor):
                group[name].mul_(factor)  # in place, since captured graphs hold it
            elif name in group:
                group[name] *= factor
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"] / kappa
    _rescale_scheduler(scheduler, factor)


def betas_of(group: dict[str, Any]) -> tuple[Any, ...]:
    """Return a parameter group's betas, that of the second moment last, by whichever names the optimizer has."""
    if "betas" in group:
        return tuple(group["betas"])
    return (group["alpha"] if "alpha" in group else group["beta"],)


def scaled_group(optimizer: torch.optim.Optimizer, group: dict[str, Any], kappa: float, rule: str) -> dict[str, Any]:
    """Return what the rule changes in a parameter group, apart from learning rates. InputError if it is not covered."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, (*_ADAM, *_RMSPROP)):
        raise InputError(f"optimizer = {name}: must be torch's Adam, AdamW, NAdam or RMSprop")
    for option in ("amsgrad", "centered", "momentum"):
        if group.get(option):
            raise InputError(f"{option} = {group[option]}: the rule is for {name} without")
    decay = float(group["weight_decay"])
    if isinstance(optimizer, _RMSPROP):
        key = "alpha" if "alpha" in group else "beta"
        scaled = RMSpropHyperparameters(1.0, group[key], group["eps"], decay).scaled(kappa, rule)
        return {key: scaled.beta, "eps": scaled.eps}
    decoupled = bool(group.get("decoupled_weight_decay"))
    beta1, beta2 = (float(beta) for beta in betas_of(group))
    if beta1 == 0.0:  # RMSprop, as the authors run it; Adam's rule would refuse a beta of 0
        found = RMSpropHyperparameters(1.0, beta2, group["eps"], decay).scaled(kappa, rule)
        decay *= kappa ** rule_named(rule).decay if decoupled else 1.0
        new = AdamHyperparameters(found.lr, 0.0, found.beta, found.eps, decay)
    else:
        new = AdamHyperparameters(1.0, beta1, beta2, group["eps"], decay, decoupled).scaled(kappa, rule)
    change = {"betas": (new.beta1, new.beta2), "eps": new.eps, "weight_decay": new.weight_decay}
    if "momentum_decay" in group:  # NAdam's, per step
        change["momentum_decay"] = group["momentum_decay"] * kappa
    return change


def _rescale_scheduler(scheduler: Any, factor: float) -> None:
    if scheduler is None:
        return
    for inner in getattr(scheduler, "_schedulers", ()):
        _rescale_scheduler(inner, factor)
    for name in ("base_lrs", "min_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    if math.isfinite(getattr(scheduler, "eta_min", math.nan)):
        scheduler.eta_min *= factor
