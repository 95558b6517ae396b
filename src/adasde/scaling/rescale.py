"""Rescale an optimizer of torch in place, with its state and its schedulers, for another batch size.

The state of the SDE is (theta, m, u) with u = v / sigma^2. A batch kappa times as large has sigma^2 / kappa. So u goes
on where it was only if the noise part of the second moment v is divided by kappa. Kept as it is, v makes every step
1 / sqrt(kappa) times as long as it should be, until beta2 has forgotten the old batch size.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from adasde.common import InputError, positive, whole
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters, check_number
from adasde.scaling.rules import ScalingWarning, rule_named, scaled_beta, scaled_value
from adasde.scaling.schedulers import MOMENTA, RATES, momenta_of, scale_rates, schedulers_of, unwrapped

_ADAM = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam)
_RMSPROP = (torch.optim.RMSprop, optimizers.RMSprop)
_KNOWN = "must be torch's Adam, AdamW, NAdam or RMSprop"
# What to do about optimizers that people ask for, by the names of their classes.
_ADVICE = {
    ("SGD",): "for SGD the linear rule keeps the SDE: adasde.SGDHyperparameters(lr).scaled(kappa)",
    ("Adam8bit", "AdamW8bit", "PagedAdam8bit", "PagedAdamW8bit", "AdamW4bit", "AdamWFp8", "RMSprop8bit"): (
        "a quantised state cannot be carried over; rescale torch's AdamW"
    ),
    ("Lion", "Lamb", "LAMB", "Lars", "LARS", "Adafactor", "Adagrad", "Muon", "Sophia", "Shampoo", "SOAP"): (
        "no rule is known for it; for the parameters that an Adam beside it holds, rescale that Adam"
    ),
}


def rescale(
    optimizer: torch.optim.Optimizer,
    kappa: float,
    rule: str = "sqrt",
    scheduler: Any = None,
    betas: str = "linear",
    second_moment: str = "transport",
) -> None:
    """Change ``optimizer`` in place for a batch ``kappa`` times as large, also in mid-training.

    All parameter groups and the optimizer's defaults follow the rule; weight decay follows where it is decoupled. The
    state is carried over, so that steps have their right length from the first one on: Adam's second moment v becomes
    g2 + (v - g2) / kappa, where g2 is the part that the mean gradient explains, and RMSprop's v / kappa. RMSprop cannot
    tell that part: where the gradient dominates its noise, its steps are too long at first. The running mean of
    gradients stays. Where the betas change, counts of steps are divided by kappa, so that the correction of the bias
    goes on. Tensors are changed in place, since captured graphs and compiled steps hold them.

    Args:
        optimizer: torch's Adam, AdamW, NAdam or RMSprop, one of `adasde.scaling.optimizers`, or one of these wrapped by
            accelerate or Lightning.
        kappa: Batch multiplier, > 0; it may be below 1.
        rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule. Under ``invariant``
            an `InvariantAdam` takes kappa times as many micro-batches, and nothing else changes.
        scheduler: The schedulers that hold rates of the optimizer: one of torch, transformers, timm or accelerate, a
            list of them, or a dictionary with one under ``scheduler``; default none. Their rates follow. Their counts
            of steps do not: divide these by kappa, see `scaled_steps`, the steps taken so far (``last_epoch``)
            included, or they decay kappa times too late.
        betas: ``linear`` (default) is 1 - kappa (1 - beta); ``half-life`` is beta^kappa, which exists at every kappa.
        second_moment: ``transport`` (default) as said above, or ``keep``: v as it is, which people do and which is
            wrong until beta2 has forgotten.

    Raises:
        InputError: If the rule does not cover the optimizer, one of its options or kappa, if a rate is no number >= 0,
            or if a scheduler is left out, unknown or another optimizer's. Nothing has been changed then. Small betas
            give a ScalingWarning.

    Source: the paper's square-root scaling rule and SDEs. The transport of v is ours, from the same state.
    """
    optimizer, kappa, powers = _optimizer_in(optimizer), positive("kappa", kappa), rule_named(rule, betas)
    if second_moment not in ("transport", "keep"):
        raise InputError(f"second_moment = {second_moment!r}: must be transport or keep")
    rates = not (powers.micro_batches or isinstance(optimizer, optimizers.InvariantAdam))  # that a scheduler may hold
    schedulers = schedulers_of(optimizer, scheduler) if rates else ()
    rescale_alone(optimizer, kappa, rule, betas, second_moment, schedulers)


def rescale_alone(
    optimizer: torch.optim.Optimizer,
    kappa: float,
    rule: str = "sqrt",
    betas: str = "linear",
    second_moment: str = "transport",
    schedulers: Sequence[Any] = (),
) -> None:
    """Do what `rescale` does, to an optimizer whose schedulers are known: by default it has none.

    `rescale` looks for them among all objects of the process, which takes half a second.
    """
    optimizer, powers = _optimizer_in(optimizer), rule_named(rule, betas)
    if powers.micro_batches or isinstance(optimizer, optimizers.InvariantAdam):
        _more_micro_batches(optimizer, kappa, rule)
        return
    groups = optimizer.param_groups
    changes = [
        scaled_group(optimizer, group, kappa, rule, betas) | _scaled_rates(group, kappa, powers.lr) for group in groups
    ]
    defaults = _scaled_defaults(optimizer, kappa, rule, betas) | _scaled_rates(optimizer.defaults, kappa, powers.lr)

    def beta1_of(momentum: float) -> float:
        return scaled_beta("beta1", momentum, kappa, powers)

    for momentum in (momentum for holder in schedulers for momentum in momenta_of(holder)):
        beta1_of(momentum)  # refuses one that would fall to 0, before anything changes
    if any(group.get("capturable") for group in groups):
        warnings.warn("capturable: a CUDA graph holds betas and eps; capture it again", ScalingWarning, stacklevel=3)
    for group, change in zip(groups, changes, strict=True):
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            _carry_over(state, group, change, kappa, kappa**powers.betas, second_moment == "transport")
    done = set[int]()  # groups, and the defaults, may share a tensor
    for group, change in [*zip(groups, changes, strict=True), (optimizer.defaults, defaults)]:
        _replace(group, change, done)
    for holder in schedulers:
        scale_rates(holder, kappa**powers.lr, beta1_of)
    _mark(optimizer, kappa)


def _optimizer_in(given: Any) -> torch.optim.Optimizer:
    """Return the optimizer of torch that a user gives, perhaps wrapped."""
    found = unwrapped(given)
    if not isinstance(found, torch.optim.Optimizer):
        raise InputError(f"optimizer = {type(found).__name__}: {_KNOWN}")
    return found


def betas_of(group: dict[str, Any]) -> tuple[Any, ...]:
    """Return a parameter group's betas, that of the second moment last, by whichever names the optimizer has."""
    if "betas" in group:
        return tuple(group["betas"])
    return (group["alpha"] if "alpha" in group else group["beta"],)


def scaled_group(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], kappa: float, rule: str, betas: str = "linear"
) -> dict[str, Any]:
    """Return what ``rule`` changes in a parameter group, apart from its rates. InputError if it is not covered."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, (*_ADAM, *_RMSPROP)):
        advice = next((words for names, words in _ADVICE.items() if name in names), "")
        raise InputError(f"optimizer = {name}: {_KNOWN}" + (f"; {advice}" if advice else ""))
    for option in ("amsgrad", "centered", "momentum"):
        if group.get(option):
            raise InputError(f"{option} = {group[option]}: the rule is for {name} without")
    decay, eps = float(group["weight_decay"]), float(group["eps"])
    *first, beta2 = (float(beta) for beta in betas_of(group))
    if isinstance(optimizer, _RMSPROP):
        found = RMSpropHyperparameters(1.0, beta2, eps, decay).scaled(kappa, rule, betas)
        return {"alpha" if "alpha" in group else "beta": found.beta, "eps": found.eps}
    decoupled = isinstance(optimizer, torch.optim.AdamW) or bool(group.get("decoupled_weight_decay"))
    new = AdamHyperparameters(1.0, first[0], beta2, eps, decay, decoupled).scaled(kappa, rule, betas)
    change: dict[str, Any] = {"betas": (new.beta1, new.beta2), "eps": new.eps, "weight_decay": new.weight_decay}
    change |= {key: scaled_beta("beta1", group[key], kappa, rule_named(rule, betas)) for key in MOMENTA if key in group}
    if "momentum_decay" in group:  # NAdam's, per step
        power = rule_named(rule).betas
        change["momentum_decay"] = scaled_value("momentum_decay", group["momentum_decay"], kappa, power)
    return change


def _scaled_rates(group: dict[str, Any], kappa: float, power: float) -> dict[str, Any]:
    """Return the rates of a parameter group times kappa^power. InputError if one is, or becomes, no number >= 0."""
    rates = {name: group[name] for name in RATES if group.get(name) is not None}
    for name, rate in rates.items():
        check_number(name, rate)
    return {name: scaled_value(name, rate, kappa, power) for name, rate in rates.items()}


def _more_micro_batches(optimizer: torch.optim.Optimizer, kappa: float, rule: str) -> None:
    """Have an `InvariantAdam` take kappa times as many micro-batches, which its state does not depend on."""
    if not isinstance(optimizer, optimizers.InvariantAdam):
        raise InputError(f"rule = {rule!r}: needs adasde.InvariantAdam, not {type(optimizer).__name__}")
    if not rule_named(rule).micro_batches:
        raise InputError(f"rule = {rule!r}: InvariantAdam is rescaled by rule = 'invariant', which keeps lr and betas")
    if optimizer.param_groups[0]["accumulated"]:
        raise InputError("optimizer: in the middle of an accumulation; rescale it after a step()")
    optimizer.micro_batches = int(whole("kappa * micro_batches", kappa * optimizer.micro_batches, least=1))
    _mark(optimizer, kappa)


def _mark(optimizer: torch.optim.Optimizer, kappa: float) -> None:
    """Leave a mark, by which those who measure the noise notice the change of batch."""
    optimizer.batch_multiplier = getattr(optimizer, "batch_multiplier", 1.0) * kappa  # type: ignore[attr-defined]


def _scaled_defaults(optimizer: torch.optim.Optimizer, kappa: float, rule: str, betas: str) -> dict[str, Any]:
    """Return what ``rule`` changes in the defaults, which groups that are added later take."""
    try:
        return scaled_group(optimizer, optimizer.defaults, kappa, rule, betas)
    except InputError as error:  # of betas that no group has
        warnings.warn(f"defaults stay as they are, for groups added later ({error})", ScalingWarning, stacklevel=4)
        return {}


def _replace(group: dict[str, Any], change: dict[str, Any], done: set[int]) -> None:
    """Put the values of ``change`` into ``group``; a tensor is set in place, and once if it is shared."""
    for name, value in change.items():
        old = group[name]
        if isinstance(value, tuple):
            group[name] = tuple(_set(part, new, done) for part, new in zip(old, value, strict=True))
        else:
            group[name] = _set(old, value, done)


def _set(old: Any, new: Any, done: set[int]) -> Any:
    if not isinstance(old, torch.Tensor):
        return new
    if id(old) not in done:
        done.add(id(old))
        old.fill_(new)
    return old


@torch.no_grad()
def _carry_over(
    state: dict[str, Any], group: dict[str, Any], change: dict[str, Any], kappa: float, shorter: float, move: bool
) -> None:
    """Change one parameter's state in place: its count of steps and, with ``move``, its running averages.

    The averages reach over ``shorter`` times fewer steps from now on: kappa, or 1 where the rule keeps the betas.
    """
    count = float(state.get("step", 0))
    if isinstance(state.get("step"), torch.Tensor):
        state["step"].div_(shorter)
    elif "step" in state:
        state["step"] = count / shorter
    if not move:
        return
    for name in ("square_avg", "v"):  # RMSprop's, torch's and ours
        if name in state:
            state[name].div_(kappa)
    if "exp_avg_sq" in state and count > 0:
        old, new = (tuple(map(float, betas_of(part))) for part in (group, change))
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if m.is_complex():  # for torch's Adam a complex weight is two real ones
            m, v = torch.view_as_real(m), torch.view_as_real(v)
        # torch keeps averages with their bias; the corrected ones are carried over.
        first, then = 1.0 - old[0] ** count, 1.0 - new[0] ** (count / shorter)
        mean = m / (then if "mu_product" in state and kappa < 1 else first)
        moved = transported(mean, v / (1.0 - old[1] ** count), old[0], new[0], count, kappa)
        v.copy_(moved * (1.0 - new[1] ** (count / shorter)))
        if "mu_product" not in state:  # by which NAdam corrects m; it goes on by itself
            m.mul_(then / first)


def transported(
    m: torch.Tensor, v: torch.Tensor, beta1: float, new_beta1: float, steps: float, kappa: float
) -> torch.Tensor:
    """Return the second moment of Adam that the SDE's state has at a batch ``kappa`` times as large.

    That is g2 + (v - g2) / kappa, with g2 = clip((m^2 - rho v) / (1 - rho), 0, v) as the part of the mean gradient: the
    noise part of m^2 has the expectation rho (v - g2). For stationary averages rho = (1 - beta1) / (1 + beta1). It is
    taken at the smaller of the two batches, so that kappa and then 1 / kappa give back v where nothing was clipped.

    Args:
        m: Running mean of gradients, its bias corrected.
        v: Running mean of squared gradients, of the same shape, its bias corrected.
        beta1: Decay of m so far, in [0, 1).
        new_beta1: Decay of m from now on, in [0, 1).
        steps: Number of steps over which m was averaged, > 0.
        kappa: Batch multiplier, > 0.

    Source: ours, from the SDE's state (theta, m, v / sigma^2).
    """
    share = _noise_share(beta1, steps)
    if kappa < 1 and new_beta1 != beta1:
        share = min(share, _noise_share(new_beta1, steps / kappa) / kappa)
    if share > 1.0 - 1e-6:  # of a single gradient nothing can be told
        return v / kappa
    signal = ((m * m - share * v) / (1.0 - share)).clamp(min=0.0).minimum(v)
    return signal + (v - signal) / kappa


def _noise_share(beta1: float, steps: float) -> float:
    """Return rho: the variance of the running mean of ``steps`` gradients over that of one, the bias corrected."""
    rest = beta1**steps
    return (1.0 - beta1) * (1.0 + rest) / ((1.0 + beta1) * (1.0 - rest))
