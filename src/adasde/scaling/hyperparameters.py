"""Hyperparameters of Adam and RMSprop, and how they change with the batch size.

The square-root scaling rule of the paper keeps the SDE that the optimizer follows when the batch
size goes from B to kappa B: lr -> sqrt(kappa) lr, 1 - beta -> kappa (1 - beta), eps -> eps / sqrt(kappa).
Every rule here multiplies each part of a recipe by a power of kappa, so a rule *is* its powers: applying it
for kappa and then for 1/kappa gives back the recipe, and for kappa1 then kappa2 is applying it for kappa1 kappa2.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from adasde.common import InputError, positive
from adasde.scaling.rules import rule_named, scaled_beta

# Implementations of each optimizer that a run can name; optim.py says how they differ.
VARIANTS = {"adam": ("paper",), "rmsprop": ("paper", "torch", "authors")}


@dataclass(frozen=True)
class SDEConstants:
    """Constants of the paper's SDEs; ``c1`` is None for RMSprop, which has no momentum, and all but sigma0 for SGD."""

    sigma0: float
    eps0: float | None = None
    c2: float | None = None
    c1: float | None = None


@dataclass(frozen=True)
class AdamHyperparameters:
    """Hyperparameters of Adam; with ``decoupled`` the decay is AdamW's (theta -= lr * weight_decay * theta)."""

    name: ClassVar[str] = "adam"

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self):
        _check(self, betas=("beta1", "beta2"))

    def scaled(self, kappa: float, rule: str = "sqrt") -> "AdamHyperparameters":
        """Hyperparameters for a batch ``kappa`` times as large; kappa may be below 1.

        Raises InputError where kappa (1 - beta) >= 1, and warns (ScalingWarning) where it exceeds 0.5.
        """
        powers, kappa = rule_named(rule), positive("kappa", kappa)
        return replace(
            self,
            lr=self.lr * kappa**powers.lr,
            beta1=scaled_beta("beta1", self.beta1, kappa, powers),
            beta2=scaled_beta("beta2", self.beta2, kappa, powers),
            eps=self.eps * kappa**powers.eps,
            weight_decay=self.weight_decay * (kappa**powers.decay if self.decoupled else 1.0),
        )

    def svag(self, ell: float) -> "AdamHyperparameters":
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
class RMSpropHyperparameters:
    """Hyperparameters of RMSprop; ``weight_decay`` is coupled (an L2 term of the loss)."""

    name: ClassVar[str] = "rmsprop"

    lr: float
    beta: float
    eps: float
    weight_decay: float = 0.0

    def __post_init__(self):
        _check(self, betas=("beta",))

    def scaled(self, kappa: float, rule: str = "sqrt") -> "RMSpropHyperparameters":
        """Hyperparameters for a batch ``kappa`` times as large, as for Adam."""
        powers, kappa = rule_named(rule), positive("kappa", kappa)
        return replace(
            self,
            lr=self.lr * kappa**powers.lr,
            beta=scaled_beta("beta", self.beta, kappa, powers),
            eps=self.eps * kappa**powers.eps,
        )

    def svag(self, ell: float) -> "RMSpropHyperparameters":
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
class SGDHyperparameters:
    """Learning rate of plain SGD, whose SDE the paper's are compared with; its own rule is the linear one."""

    name: ClassVar[str] = "sgd"

    lr: float

    def __post_init__(self):
        positive("lr", self.lr)

    def scaled(self, kappa: float) -> "SGDHyperparameters":
        """Learning rate for a batch ``kappa`` times as large, by the linear rule, which keeps SGD's SDE."""
        return SGDHyperparameters(self.lr * positive("kappa", kappa))

    def svag(self, ell: float) -> "SGDHyperparameters":
        """Learning rate of SVAG at level ``ell``: the linear rule at kappa = 1 / ell^2."""
        return self.scaled(1.0 / positive("ell", ell) ** 2)

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Constants of SGD's SDE, d theta = -grad f dt - sigma0 Sigma^{1/2} dW with sigma0 = sigma sqrt(lr)."""
        return SDEConstants(sigma0=positive("sigma", sigma) * self.lr**0.5)

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr."""
        return self.lr


def hyperparameters_named(name: str, **values) -> AdamHyperparameters | RMSpropHyperparameters:
    """Hyperparameters of the optimizer called ``adam`` or ``rmsprop``."""
    return {"adam": AdamHyperparameters, "rmsprop": RMSpropHyperparameters}[name](**values)


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
