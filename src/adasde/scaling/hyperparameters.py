"""Hyperparameters of Adam, RMSprop and SGD, and what a change of batch size makes of them."""

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from adasde.common import InputError, positive, short
from adasde.scaling.rules import rule_named, scaled_beta, scaled_value

# Implementations of each optimizer that a run can name. optimizers.py says how they differ.
VARIANTS = {"adam": ("paper",), "rmsprop": ("paper", "torch", "authors")}


@dataclass(frozen=True)
class SDEConstants:
    """Constants of the paper's SDEs, whose time advances by lr^2 a step (SGD: by lr).

    Args:
        sigma0: Noise scale times lr (SGD: times sqrt(lr)).
        eps0: eps times lr; None (default) for SGD.
        c2: (1 - beta2) / lr^2, the rate at which the second moment forgets; None (default) for SGD.
        c1: (1 - beta1) / lr^2, the rate at which momentum forgets; None (default) for RMSprop and SGD.

    Source: the paper's SDEs.
    """

    sigma0: float
    eps0: float | None = None
    c2: float | None = None
    c1: float | None = None


class _Hyperparameters(ABC):
    """What all optimizers here share. ``name`` is for specs and tables, ``title`` for figures."""

    name: ClassVar[str]
    title: ClassVar[str]
    lr: float

    @abstractmethod
    def scaled(self, kappa: float) -> Self:
        """Return the hyperparameters for a batch ``kappa`` times as large."""

    def svag(self, ell: float) -> Self:
        """Return the hyperparameters of SVAG at level ``ell``: the optimizer's own rule at kappa = 1 / ell^2.

        Args:
            ell: SVAG level, from 1e-150 to 1e150; 1 is the plain run.

        Returns:
            New hyperparameters, for ell^2 times as many steps.

        Raises:
            InputError: If ``ell`` is out of its range, or `scaled` refuses 1 / ell^2.

        Source: the paper's SVAG for adaptive algorithms.
        """
        return self.scaled(1.0 / _with_square("ell", ell) ** 2)

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr^2. InputError if a float does not hold it."""
        return _with_square("lr", self.lr) ** 2


@dataclass(frozen=True)
class AdamHyperparameters(_Hyperparameters):
    """Hyperparameters of Adam, or of AdamW with ``decoupled``.

    Args:
        lr: Learning rate, > 0.
        beta1: Decay of the running mean of gradients, in [0, 1).
        beta2: Decay of the running mean of squared gradients, in [0, 1).
        eps: Number added to the denominator, >= 0.
        weight_decay: Weight decay, >= 0; default 0.
        decoupled: Whether decay acts as in AdamW, theta -= lr * weight_decay * theta, instead of as an L2 term of the
            loss; default False.

    Raises:
        InputError: If a value is out of its range.

    Source: the paper's definition of Adam. Decoupled decay is that of Loshchilov and Hutter (arXiv 1711.05101).
    """

    name: ClassVar[str] = "adam"
    title: ClassVar[str] = "Adam"

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        _check(self.lr, self.eps, self.weight_decay, beta1=self.beta1, beta2=self.beta2)
        check_flag("decoupled", self.decoupled)

    def scaled(self, kappa: float, rule: str = "sqrt", betas: str = "linear") -> Self:
        """Return the hyperparameters for a batch ``kappa`` times as large.

        Args:
            kappa: Batch multiplier, > 0; it may be below 1.
            rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.
            betas: What becomes of a beta that the rule changes: ``linear`` (default) is 1 - kappa (1 - beta), and
                ``half-life`` is beta^kappa, which exists at every kappa.

        Returns:
            New hyperparameters.

        Raises:
            InputError: If kappa is not a finite number above 0, if kappa (1 - beta) >= 1 for a linear beta, if a float
                does not hold a result, or if the rule is unknown. Small betas give a ScalingWarning.

        Source: the paper's square-root scaling rule. Half-life betas are those of Marek et al. (arXiv 2507.07101). The
        power of decoupled decay is ours, by the paper's argument.
        """
        powers, kappa = rule_named(rule, betas), positive("kappa", kappa)
        return replace(
            self,
            lr=scaled_value("lr", self.lr, kappa, powers.lr),
            beta1=scaled_beta("beta1", self.beta1, kappa, powers),
            beta2=scaled_beta("beta2", self.beta2, kappa, powers),
            eps=scaled_value("eps", self.eps, kappa, powers.eps),
            weight_decay=scaled_value(
                "weight_decay", self.weight_decay, kappa, powers.decay if self.decoupled else 0.0
            ),
        )

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Return the constants of Adam's SDE.

        Args:
            sigma: Noise scale of the gradients, > 0; that of minibatches is 1 / sqrt(batch_size).

        Returns:
            The constants sigma0, eps0, c2 and c1.

        Raises:
            InputError: If ``sigma`` is not a finite number above 0, or a float does not hold lr^2.

        Source: the paper's SDE of Adam.
        """
        sigma, lr, time = positive("sigma", sigma), self.lr, self.time_step
        c1, c2 = (1.0 - self.beta1) / time, (1.0 - self.beta2) / time
        return SDEConstants(sigma0=sigma * lr, eps0=self.eps * lr, c2=c2, c1=c1)


@dataclass(frozen=True)
class RMSpropHyperparameters(_Hyperparameters):
    """Hyperparameters of RMSprop.

    Args:
        lr: Learning rate, > 0.
        beta: Decay of the running mean of squared gradients, in [0, 1).
        eps: Number added to the denominator, >= 0.
        weight_decay: Coupled weight decay (an L2 term of the loss), >= 0; default 0.

    Raises:
        InputError: If a value is out of its range.

    Source: the paper's definition of RMSprop.
    """

    name: ClassVar[str] = "rmsprop"
    title: ClassVar[str] = "RMSprop"

    lr: float
    beta: float
    eps: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.eps, self.weight_decay, beta=self.beta)

    def scaled(self, kappa: float, rule: str = "sqrt", betas: str = "linear") -> Self:
        """Return the hyperparameters for a batch ``kappa`` times as large.

        Args:
            kappa: Batch multiplier, > 0; it may be below 1.
            rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.
            betas: What becomes of a beta that the rule changes: ``linear`` (default) is 1 - kappa (1 - beta), and
                ``half-life`` is beta^kappa, which exists at every kappa.

        Returns:
            New hyperparameters. Coupled weight decay, a part of the loss, is unchanged.

        Raises:
            InputError: If kappa is not a finite number above 0, if kappa (1 - beta) >= 1 for a linear beta, if a float
                does not hold a result, or if the rule is unknown. Small betas give a ScalingWarning.

        Source: the paper's square-root scaling rule. Half-life betas are those of Marek et al. (arXiv 2507.07101).
        """
        powers, kappa = rule_named(rule, betas), positive("kappa", kappa)
        return replace(
            self,
            lr=scaled_value("lr", self.lr, kappa, powers.lr),
            beta=scaled_beta("beta", self.beta, kappa, powers),
            eps=scaled_value("eps", self.eps, kappa, powers.eps),
        )

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Return the constants of RMSprop's SDE.

        Args:
            sigma: Noise scale of the gradients, > 0; that of minibatches is 1 / sqrt(batch_size).

        Returns:
            The constants sigma0, eps0 and c2.

        Raises:
            InputError: If ``sigma`` is not a finite number above 0, or a float does not hold lr^2.

        Source: the paper's SDE of RMSprop.
        """
        sigma, lr = positive("sigma", sigma), self.lr
        return SDEConstants(sigma0=sigma * lr, eps0=self.eps * lr, c2=(1.0 - self.beta) / self.time_step)


@dataclass(frozen=True)
class SGDHyperparameters(_Hyperparameters):
    """Hyperparameters of plain SGD, whose SDE the paper's are compared with.

    Args:
        lr: Learning rate, > 0.

    Raises:
        InputError: If ``lr`` is not a finite number above 0.

    Source: SGD's SDE and its linear rule are older than the paper (Goyal et al., arXiv 1706.02677; Li et al., arXiv
    2102.12470).
    """

    name: ClassVar[str] = "sgd"
    title: ClassVar[str] = "SGD"

    lr: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)

    def scaled(self, kappa: float) -> Self:
        """Return the learning rate for a batch ``kappa`` times as large, by the linear rule, which keeps SGD's SDE.

        Args:
            kappa: Batch multiplier, > 0; it may be below 1.

        Returns:
            New hyperparameters.

        Raises:
            InputError: If kappa is not a finite number above 0, or a float does not hold the result.

        Source: the linear scaling rule (Goyal et al., arXiv 1706.02677).
        """
        return replace(self, lr=scaled_value("lr", self.lr, positive("kappa", kappa), 1.0))

    def sde_constants(self, sigma: float) -> SDEConstants:
        """Return the constant of SGD's SDE, d theta = -grad f dt - sigma0 Sigma^{1/2} dW.

        Args:
            sigma: Noise scale of the gradients, > 0; that of minibatches is 1 / sqrt(batch_size).

        Returns:
            The constant sigma0 = sigma sqrt(lr); the others are None.

        Raises:
            InputError: If ``sigma`` is not a finite number above 0.

        Source: Li et al. (arXiv 2102.12470), with which the paper compares its SDEs.
        """
        return SDEConstants(sigma0=positive("sigma", sigma) * self.lr**0.5)

    @property
    def time_step(self) -> float:
        """SDE time of one step, lr."""
        return self.lr


Hyperparameters = AdamHyperparameters | RMSpropHyperparameters | SGDHyperparameters
# What a run can train with, by name.
OPTIMIZERS: dict[str, type[AdamHyperparameters] | type[RMSpropHyperparameters]] = {
    kind.name: kind for kind in (AdamHyperparameters, RMSpropHyperparameters)
}


def hyperparameters_named(name: str, **values: Any) -> AdamHyperparameters | RMSpropHyperparameters:
    """Return the hyperparameters ``values`` of the optimizer called ``adam`` or ``rmsprop``."""
    return OPTIMIZERS[name](**values)


def _check(lr: float, eps: float, weight_decay: float, **betas: float) -> None:
    positive("lr", lr)
    for name, beta in betas.items():
        check_number(name, beta, below=1.0)
    check_number("eps", eps)
    check_number("weight_decay", weight_decay)


def check_number(name: str, value: Any, below: float = math.inf) -> None:
    """InputError unless ``value`` is a number in [0, ``below``), of numpy or a tensor as well."""
    number = math.nan
    if not isinstance(value, bool | str):
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # such as an array of several numbers
            number = float(value)
    if not 0.0 <= number < below:
        shown = short(value) if math.isnan(number) else f"{number:g}"
        raise InputError(f"{name} = {shown}: must be {'in [0, 1)' if below == 1.0 else 'a finite number >= 0'}")


def check_flag(name: str, value: Any) -> None:
    """InputError unless ``value`` is True or False: a text such as "no" would count as true."""
    if value not in (True, False):
        raise InputError(f"{name} = {short(value)}: must be True or False")


def _with_square(name: str, value: float) -> float:
    """Return ``value`` if it is above 0 and floats hold its square and the inverse of that; otherwise InputError."""
    if not 1e-150 <= positive(name, value) <= 1e150:
        raise InputError(f"{name} = {value:g}: must be from 1e-150 to 1e+150, since its square counts")
    return value
