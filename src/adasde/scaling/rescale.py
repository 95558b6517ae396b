"""For training that is not ours: rescale an optimizer in place, the loss of SVAG, and how large a batch may become."""

import math

import torch

from adasde.common import InputError
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import rule_named

ADAM, NADAM = (torch.optim.Adam, optimizers.Adam), (torch.optim.NAdam,)
RMSPROP = (torch.optim.RMSprop, optimizers.RMSprop)
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a parameter group; the others are a scheduler's


def rescale(optimizer, kappa: float, rule: str = "sqrt", scheduler=None):
    """Change ``optimizer`` in place for a batch ``kappa`` times as large, by the square-root rule or another.

    For torch's Adam, AdamW, NAdam and RMSprop, and ours, in all parameter groups; decay is scaled where it is
    decoupled. The running averages are kept: they estimate moments of the gradient, of which those of a larger batch
    differ by its smaller noise, and forget the difference as soon as any average does. Counts of steps, from which the
    averages' bias is corrected, are divided by kappa, so that the correction goes on where it was.

    A ``scheduler`` of torch that holds rates of the optimizer must be given, and has them changed as well; its numbers
    of steps stay: make it with those of `scaled_steps`, or its decays come kappa times too late. InputError, before
    anything is changed, for an optimizer, an option of it or a kappa that the rule does not cover; ScalingWarning as
    for `Adam.scaled`.
    """
    if scheduler is None and any("initial_lr" in group for group in optimizer.param_groups):
        raise InputError("scheduler: one holds rates of this optimizer, and would put them back; give it as well")
    changes = [scaled_group(optimizer, group, kappa, rule) for group in optimizer.param_groups]
    factor = kappa ** rule_named(rule).lr
    for group, change in zip(optimizer.param_groups, changes, strict=True):
        group.update(change)
        for name in RATES:
            if isinstance(group.get(name), torch.Tensor):
                group[name].mul_(factor)  # in place, since captured graphs hold it
            elif name in group:
                group[name] *= factor
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"] / kappa
    _rescale_scheduler(scheduler, factor)


def betas_of(group):
    if "betas" in group:
        return group["betas"]
    if "beta1" in group:
        return group["beta1"], group["beta2"]
    return (group["alpha"] if "alpha" in group else group["beta"],)


def scaled_group(optimizer, group, kappa, rule):
    """What becomes of a group, but for its rates."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, (*ADAM, *NADAM, *RMSPROP)):
        raise InputError(f"optimizer = {name}: must be torch's Adam, AdamW, NAdam or RMSprop")
    for option in ("amsgrad", "centered", "momentum"):
        if group.get(option):
            raise InputError(f"{option} = {group[option]}: the rule is for {name} without")
    decay = float(group["weight_decay"])
    if isinstance(optimizer, RMSPROP):
        key = "alpha" if "alpha" in group else "beta"
        new = RMSpropHyperparameters(1.0, group[key], group["eps"], decay).scaled(kappa, rule)
        return {key: new.beta, "eps": new.eps}
    decoupled = bool(group.get("decoupled", group.get("decoupled_weight_decay", False)))
    beta1, beta2 = (float(beta) for beta in betas_of(group))
    if beta1 == 0.0:  # RMSprop, as torch and the authors run it
        found = RMSpropHyperparameters(1.0, beta2, group["eps"], decay).scaled(kappa, rule)
        decay *= kappa ** rule_named(rule).decay if decoupled else 1.0
        new = AdamHyperparameters(found.lr, 0.0, found.beta, found.eps, decay)
    else:
        new = AdamHyperparameters(1.0, beta1, beta2, group["eps"], decay, decoupled).scaled(kappa, rule)
    betas = {"betas": (new.beta1, new.beta2)} if "betas" in group else {"beta1": new.beta1, "beta2": new.beta2}
    change = {**betas, "eps": new.eps, "weight_decay": new.weight_decay}
    if "momentum_decay" in group:  # NAdam's, per step
        change["momentum_decay"] = group["momentum_decay"] * kappa
    return change


def _rescale_scheduler(scheduler, factor):
    if scheduler is None:
        return
    for inner in getattr(scheduler, "_schedulers", ()):
        _rescale_scheduler(inner, factor)
    for name in ("base_lrs", "min_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    if math.isfinite(getattr(scheduler, "eta_min", math.nan)):
        scheduler.eta_min *= factor
