"""Hyperparameters of Adam and RMSprop, and how they change with the batch size.

The square-root scaling rule of the paper keeps the SDE that the optimizer follows when the batch
size goes from B to kappa B: lr -> sqrt(kappa) lr, 1 - beta -> kappa (1 - beta), eps -> eps / sqrt(kappa).
Every rule here multiplies each part of a recipe by a power of kappa, so a rule *is* its powers: applying it
for kappa and then for 1/kappa gives back the recipe, and for kappa1 then kappa2 is applying it for kappa1 kappa2.
"""

import math
import warnings
from dataclasses import dataclass, replace
from fractions import Fraction

from .errors import InputError

ROUNDING = 1e-9  # 10 * (1 - 0.9) is just below 1 in floating point, and must count as 1


class ScalingWarning(UserWarning):
    """The rule can be applied, but the result is outside the regime where it can be trusted."""


@dataclass(frozen=True)
class Rule:
    """The power of kappa that multiplies each part of a recipe.

    ``betas`` acts on 1 - beta, ``decay`` on decoupled weight decay only: coupled decay is part of the loss.
    """

    lr: float = 0.0
    betas: float = 0.0
    eps: float = 0.0
    decay: float = 0.0
    clip: float = 0.0


SQRT = Rule(lr=0.5, betas=1.0, eps=-0.5, decay=0.5, clip=-0.5)

RULES = {
    "sqrt": SQRT,
    "linear": Rule(lr=1.0),
    "lr-only": Rule(lr=0.5),
    "none": Rule(),
    "sqrt-no-betas": replace(SQRT, betas=0.0),
    "sqrt-no-eps": replace(SQRT, eps=0.0),
}

ABLATIONS = ("sqrt-no-betas", "sqrt-no-eps")  # the square root with one part left out

# Implementations of each optimizer that a run can name; optim.py says how they differ.
VARIANTS = {"adam": ("paper",), "rmsprop": ("paper", "torch", "authors")}


def rule_named(name: str) -> Rule:
    """Return the rule called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in RULES:
        raise InputError(f"rule = {name!r}: must be one of {', '.join(RULES)}")
    return RULES[name]


@dataclass(frozen=True)
class SDEConstants:
    """Constants of the paper's SDEs; ``c1`` is None for RMSprop, which has no momentum, and all but sigma0 for SGD."""

    sigma0: float
    eps0: float | None = None
    c2: float | None = None
    c1: float | None = None


@dataclass(frozen=True)
class Adam:
    """Hyperparameters of Adam; with ``decoupled`` the decay is AdamW's (theta -= lr * weight_decay * theta)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self):
        _check(self, betas=("beta1", "beta2"))

    def scaled(self, kappa: float, rule: str = "sqrt") -> "Adam":
        """Hyperparameters for a batch ``kappa`` times as large; kappa may be below 1.

        Raises InputError where kappa (1 - beta) >= 1, and warns (ScalingWarning) where it exceeds 0.5.
        """
        powers, kappa = rule_named(rule), positive("kappa", kappa)
        return replace(
            self,
            lr=self.lr * kappa**powers.lr,
            beta1=_scaled_beta("beta1", self.beta1, kappa, powers),
            beta2=_scaled_beta("beta2", self.beta2, kappa, powers),
            eps=self.eps * kappa**powers.eps,
            weight_decay=self.weight_decay * (kappa**powers.decay if self.decoupled else 1.0),
        )

    def svag(self, ell: float) -> "Adam":
        """Hyperparameters of SVAG at level ``ell``: the square-root rule at kappa = 1 / ell^2."""
        return self.scaled(1.0 / positive("ell", ell) ** 2)

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Constants of Adam's SDE when the minibatch gradient has noise scale ``sigma``; time is steps * lr^2."""
        sigma = positive("sigma", sigma)
        return SDEConstants(
            sigma0=sigma * self.lr,
            eps0=self.eps * self.lr,
            c1=(1.0 - self.beta1) / self.lr**2,
            c2=(1.0 - self.beta2) / self.lr**2,
        )

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr^2."""
        return self.lr**2


@dataclass(frozen=True)
class RMSprop:
    """Hyperparameters of RMSprop; ``weight_decay`` is coupled (an L2 term of the loss)."""

    lr: float
    beta: float
    eps: float
    weight_decay: float = 0.0

    def __post_init__(self):
        _check(self, betas=("beta",))

    def scaled(self, kappa: float, rule: str = "sqrt") -> "RMSprop":
        """Hyperparameters for a batch ``kappa`` times as large, as for Adam."""
        powers, kappa = rule_named(rule), positive("kappa", kappa)
        return replace(
            self,
            lr=self.lr * kappa**powers.lr,
            beta=_scaled_beta("beta", self.beta, kappa, powers),
            eps=self.eps * kappa**powers.eps,
        )

    def svag(self, ell: float) -> "RMSprop":
        """Hyperparameters of SVAG at level ``ell``: the square-root rule at kappa = 1 / ell^2."""
        return self.scaled(1.0 / positive("ell", ell) ** 2)

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Constants of RMSprop's SDE when the minibatch gradient has noise scale ``sigma``."""
        sigma = positive("sigma", sigma)
        return SDEConstants(sigma0=sigma * self.lr, eps0=self.eps * self.lr, c2=(1.0 - self.beta) / self.lr**2)

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr^2."""
        return self.lr**2


@dataclass(frozen=True)
class SGD:
    """Learning rate of plain SGD, whose SDE the paper's are compared with; its own rule is the linear one."""

    lr: float

    def __post_init__(self):
        positive("lr", self.lr)

    def scaled(self, kappa: float) -> "SGD":
        """Learning rate for a batch ``kappa`` times as large, by the linear rule, which keeps SGD's SDE."""
        return SGD(self.lr * positive("kappa", kappa))

    def svag(self, ell: float) -> "SGD":
        """Learning rate of SVAG at level ``ell``: the linear rule at kappa = 1 / ell^2."""
        return self.scaled(1.0 / positive("ell", ell) ** 2)

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Constants of SGD's SDE, d theta = -grad f dt - sigma0 Sigma^{1/2} dW with sigma0 = sigma sqrt(lr)."""
        return SDEConstants(sigma0=positive("sigma", sigma) * self.lr**0.5)

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr."""
        return self.lr


def optimizer(name: str, **values) -> Adam | RMSprop:
    """Hyperparameters of the optimizer called ``adam`` or ``rmsprop``."""
    return {"adam": Adam, "rmsprop": RMSprop}[name](**values)


def scaled_batch_size(batch_size: int, kappa: float) -> int:
    """Return kappa * batch_size; an InputError unless that is a whole number of at least 1."""
    size = batch_size * positive("kappa", kappa)
    if round(size) < 1 or not math.isclose(size, round(size), rel_tol=1e-9):
        near = Fraction(max(1, round(size)), batch_size)
        raise InputError(
            f"kappa = {kappa:g}: batch size {batch_size} would become {size:.10g}; "
            f"it must be a whole number (nearest kappa: {near})"
        )
    return round(size)


def steps(samples: int, batch_size: int, ell: float = 1) -> int:
    """Return the optimizer steps in which a run at SVAG level ``ell`` comes as far as a plain run with ``samples``.

    A step at level ell is ell^2 times as short in SDE time, so ell^2 of them make a plain one. InputError unless whole.
    """
    count = ell**2 * samples / batch_size
    if not math.isclose(count, round(count), rel_tol=1e-9):
        near = math.sqrt(max(1, round(count)) * batch_size / samples)
        raise InputError(
            f"ell = {ell:g}: {samples} samples of the plain run at batch size {batch_size} would become {count:.10g} "
            f"steps, ell^2 for each of its steps; that must be a whole number (nearest ell: {near:.12g})"
        )
    return round(count)


def _scaled_beta(name, beta, kappa, powers):
    factor = kappa**powers.betas
    if factor == 1.0:
        return beta
    complement = factor * (1.0 - beta)
    if complement >= 1.0 - ROUNDING:
        hint = "" if beta else f"; {name} = 0 averages nothing, and Adam with beta1 = 0 is RMSprop"
        raise InputError(
            f"kappa = {kappa:g}: too large for {name} = {beta:g}, since kappa (1 - {name}) = {complement:g} "
            f"must be below 1; kappa must be below {1.0 / (1.0 - beta):g}{hint}"
        )
    if complement > 0.5 + ROUNDING and factor > 1.0:
        warnings.warn(
            f"kappa = {kappa:g} leaves {name} = {1.0 - complement:g}: below 0.5 the average hardly averages, "
            "and the rule was not seen to hold there; a smaller kappa or a larger base batch is safer",
            ScalingWarning,
            stacklevel=3,
        )
    return 1.0 - complement


def _check(hyperparameters, betas):
    positive("lr", hyperparameters.lr)
    for name in betas:
        beta = getattr(hyperparameters, name)
        if not 0.0 <= beta < 1.0:
            raise InputError(f"{name} = {beta:g}: must be in [0, 1)")
    for name in ("eps", "weight_decay"):
        value = getattr(hyperparameters, name)
        if not (math.isfinite(value) and value >= 0.0):
            raise InputError(f"{name} = {value:g}: must be a finite number >= 0")


def positive(name, value):
    """Return ``value`` if it is a finite number above 0; otherwise an InputError that names it."""
    number = isinstance(value, int | float) or hasattr(value, "__float__") and not isinstance(value, str)
    if not (number and math.isfinite(value) and value > 0):
        shown = f"{float(value):g}" if number else repr(value)
        raise InputError(f"{name} = {shown}: must be a finite number > 0")
    return value


def whole(name, value, least):
    """Return ``value`` if it is a whole number of at least ``least``; otherwise an InputError that names it."""
    if value != int(value) or value < least:
        raise InputError(f"{name} = {value:g}: must be a whole number >= {least}")
    return value
