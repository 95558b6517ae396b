"""Scaling rules: by which power of kappa a change of batch size multiplies each part of a recipe.

The paper's square-root rule keeps the SDE that an optimizer follows when the batch size goes from B to kappa B:
lr -> sqrt(kappa) lr, 1 - beta -> kappa (1 - beta), eps -> eps / sqrt(kappa). A rule *is* its powers. So a rule applied
for kappa and then for 1 / kappa gives back the recipe, and applied for kappa1 and then for kappa2 it is the rule for
kappa1 kappa2.
"""

import math
import warnings
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from adasde.common import InputError, positive

ROUNDING = 1e-9  # 10 * (1 - 0.9) is just below 1 in floating point and must count as 1
SMALLEST_HALF_LIFE = 0.15  # beta below which half-life betas were not seen to hold: right at 0.9^16, wrong at 0.9^32
# What else there is, and what branches of a CNN and of GPT-2 say of it.
_HALF_LIFE = (
    "Half-life betas, beta^kappa, were right in our pilot runs from beta1 = 0.9 up to kappa 16, and wrong at 32 "
    "(betas='half-life', or --betas half-life)"
)
_OTHERS = (
    "adasde.InvariantAdam keeps the betas, and needs kappa lr to be small; a larger base batch needs a smaller kappa"
)


class ScalingWarning(UserWarning):
    """The rule can be applied, but its result is outside the regime where it can be trusted."""


@dataclass(frozen=True)
class Rule:
    """The power of kappa that multiplies each part of a recipe.

    ``betas`` acts on 1 - beta, or, with ``half_life``, it is the power of kappa by which beta itself is raised.
    ``decay`` acts only on decoupled weight decay, since coupled decay is part of the loss. With ``micro_batches`` the
    hyperparameters stay those of the base batch, and the optimizer is `InvariantAdam` with kappa micro-batches.
    """

    lr: float = 0.0
    betas: float = 0.0
    eps: float = 0.0
    decay: float = 0.0
    clip: float = 0.0
    half_life: bool = False
    micro_batches: bool = False


SQRT = Rule(lr=0.5, betas=1.0, eps=-0.5, decay=0.5, clip=-0.5)

RULES = {
    "sqrt": SQRT,
    "linear": Rule(lr=1.0),
    "lr-only": Rule(lr=0.5),
    "none": Rule(),
    "sqrt-no-betas": replace(SQRT, betas=0.0),
    "sqrt-no-eps": replace(SQRT, eps=0.0),
    "sqrt-no-decay": replace(SQRT, decay=0.0),
    "half-life": replace(SQRT, half_life=True),
    "invariant": Rule(micro_batches=True),
}
BETAS = ("linear", "half-life")  # 1 - kappa (1 - beta), or beta^kappa

ABLATIONS = ("sqrt-no-betas", "sqrt-no-eps", "sqrt-no-decay")  # the square-root rule with one part left out


def rule_named(name: str, betas: str = "linear") -> Rule:
    """Return the rule called ``name``, with its betas in the form ``betas``.

    The rule half-life has its own whatever ``betas`` says. An unknown name or form is an InputError that lists the
    known ones.
    """
    if not isinstance(name, str) or name not in RULES:
        raise InputError(f"rule = {name!r}: must be one of {', '.join(RULES)}")
    if betas not in BETAS:
        raise InputError(f"betas = {betas!r}: must be {' or '.join(BETAS)}")
    return replace(RULES[name], half_life=True) if betas == "half-life" else RULES[name]


def scaled_batch_size(batch_size: int, kappa: float) -> int:
    """Return kappa * batch_size. InputError unless that is a whole number of at least 1."""
    size = batch_size * positive("kappa", kappa)
    if not math.isfinite(size):
        raise InputError(f"kappa = {kappa:g}: batch size {batch_size} would become more than a float holds")
    if round(size) < 1 or not math.isclose(size, round(size), rel_tol=1e-9):
        near = Fraction(max(1, round(size)), batch_size)
        raise InputError(
            f"kappa = {kappa:g}: batch size {batch_size} would become {size:.10g}; "
            f"it must be a whole number (nearest kappa: {near})"
        )
    return round(size)


def scaled_value(name: str, value: Any, kappa: float, power: float) -> Any:
    """Return value * kappa^power, of a number or a tensor with one; None stays. InputError if it is infinite."""
    if value is None:
        return None
    new = value * kappa**power
    if not math.isfinite(new):
        raise InputError(f"kappa = {kappa:g}: takes {name} = {value:g} to {new:g}, beyond what a float holds")
    return new


def below_one(name: str, old: float, new: float, kappa: float) -> float:
    """Return ``new``, to which ``kappa`` takes a decay. InputError if it is so close to 1 that a float is 1."""
    if new >= 1.0:
        raise InputError(f"kappa = {kappa:g}: too small for {name} = {old:g}, which would round to 1")
    return new


def scaled_beta(name: str, beta: float, kappa: float, rule: Rule) -> float:
    """Return what ``rule`` makes of a beta. InputError where it would fall to 0, or round to 1.

    Where it gets small there is a ScalingWarning. A beta1 of 0 stays: an optimizer without momentum has none at any
    batch size.
    """
    factor = kappa**rule.betas
    if factor == 1.0 or (name == "beta1" and beta == 0.0):
        return beta
    if rule.half_life:
        new = beta**factor
        if new < SMALLEST_HALF_LIFE and factor > 1.0:
            _warn(
                f"kappa = {kappa:g} leaves {name} = {new:g}: half-life betas were right down to 0.185 in our "
                f"pilot runs ({name} 0.9 at kappa 16), and wrong at 0.034 (kappa 32); {_OTHERS}"
            )
        return below_one(name, beta, new, kappa)
    complement = factor * (1.0 - beta)
    if complement >= 1.0 - ROUNDING:
        raise InputError(
            f"kappa = {kappa:g}: too large for {name} = {beta:g}, since kappa (1 - {name}) = {complement:g} "
            f"must be below 1; kappa must be below {1.0 / (1.0 - beta):g}. {_HALF_LIFE}; {_OTHERS}"
        )
    if complement > 0.5 + ROUNDING and factor > 1.0:
        _warn(
            f"kappa = {kappa:g} leaves {name} = {1.0 - complement:g}: below 0.5 the average hardly averages, "
            f"and the rule was not seen to hold there. {_HALF_LIFE}; {_OTHERS}"
        )
    return below_one(name, beta, 1.0 - complement, kappa)


def _warn(message: str) -> None:
    warnings.warn(message, ScalingWarning, stacklevel=4)
