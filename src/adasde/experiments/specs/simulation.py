"""Specs of simulations: `WeakOrder`, `Convergence` and `Breakdown`."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from adasde.common import InputError
from adasde.experiments.fields import (
    Model,
    NotNegative,
    Number,
    Positive,
    Whole,
)  # fmt: skip
from adasde.experiments.oracles import ORACLES, oracle_named
from adasde.experiments.specs.base import Positives, Seed, Spec, Wholes
from adasde.scaling.clock import steps_until
from adasde.scaling.hyperparameters import (
    AdamHyperparameters,
    RMSpropHyperparameters,
    SDEConstants,
    SGDHyperparameters,
    hyperparameters_named,
)
from adasde.scaling.rules import scaled_batch_size
from adasde.workloads.data.registry import dataset_named


class Simulation(Spec):
    """What simulations have: an oracle takes the place of a workload, and paths in batches that of seeds."""

    simulation: str
    study: str
    oracle: str
    batches: Annotated[int, Field(ge=2, le=10**9)]
    paths: Whole

    oracles: ClassVar[tuple[str, ...]] = tuple(ORACLES)  # that the study can take
    kind: ClassVar[str] = "theory"
    # What training runs can choose.
    device: ClassVar[str] = "cpu"
    processes: ClassVar[int] = 1
    parent: ClassVar[None] = None
    origin: ClassVar[str] = "theory"

    @property
    def cell(self) -> str:
        """A simulation is a cell by itself."""
        return self.run

    @property
    def data(self) -> str | None:
        """Name of the data set that its oracle sums over; None for a closed-form problem."""
        return oracle_named(self.oracle).data

    @property
    @abstractmethod
    def path_steps(self) -> int:
        """Steps of single paths: the work of the simulation. Each step is about the same work."""

    @model_validator(mode="after")
    def _check_simulation(self) -> "Simulation":
        oracle_named(self.oracle)
        if self.oracle not in self.oracles:
            raise InputError(f"oracle = {self.oracle!r}: {self.study} can study {', '.join(self.oracles)}")
        self._check_study()
        return self

    @abstractmethod
    def _check_study(self) -> None:
        """InputError for values that do not go together."""


class OptimizerName(Model):
    """An optimizer whose hyperparameters follow from the constants of its SDE and from the time step."""

    name: Literal["sgd", "rmsprop", "adam"]


class Constants(Model):
    """Constants of an SDE, as in `SDEConstants`."""

    sigma0: Positive
    eps0: NotNegative | None = None
    c1: Positive | None = None
    c2: Positive | None = None


class WeakOrder(Simulation):
    """The error of the SDE as the algorithm's step shrinks. One Brownian path drives both."""

    study: Literal["weak-order"]
    optimizer: OptimizerName
    constants: Constants
    theta: Number
    start: NotNegative
    horizon: Positive
    step: Positive
    time_steps: Positives
    variants: Annotated[tuple[Literal["paper", "torch", "authors"], ...], Field(strict=False, min_length=1)]

    oracles: ClassVar = ("linear", "quadratic", "double-well")

    @property
    def sde_constants(self) -> SDEConstants:
        """The constants as the integrators take them."""
        return SDEConstants(**self.constants.model_dump())

    def hyperparameters(self, time_step: float) -> AdamHyperparameters | RMSpropHyperparameters | SGDHyperparameters:
        """Return the hyperparameters at which a step of ``time_step`` has the SDE of the constants."""
        c = self.constants
        if c.c2 is None:
            return SGDHyperparameters(time_step)
        lr = time_step**0.5
        beta2, eps = 1.0 - c.c2 * time_step, c.eps0 / lr
        if c.c1 is None:
            return RMSpropHyperparameters(lr, beta2, eps)
        return AdamHyperparameters(lr, 1.0 - c.c1 * time_step, beta2, eps)

    @property
    def path_steps(self) -> int:
        """Steps of single paths."""
        steps = 1 / self.step + len(self.variants) * sum(1 / eta2 for eta2 in self.time_steps)
        return round(self.batches * self.paths * (self.horizon - self.start) * steps)

    def _check_study(self) -> None:
        if self.constants.c1 is not None and self.start <= 0:
            raise InputError(f"start = {self.start:g}: must be > 0, since Adam's equation is singular at 0")
        steps_until("horizon", self.horizon, self.step, self.start)
        for time_step in self.time_steps:
            self.hyperparameters(time_step)
            steps_until("time_steps", time_step, self.step)
            steps_until("start", self.start, time_step)
            steps_until("horizon", self.horizon, time_step, self.start)


class SimulatedAdam(Model):
    """Adam's hyperparameters."""

    name: Literal["adam"]
    lr: Number
    beta1: Number
    beta2: Number
    eps: Number


class SimulatedRMSprop(Model):
    """RMSprop's hyperparameters."""

    name: Literal["rmsprop"]
    lr: Number
    beta: Number
    eps: Number


class OnSamples(Simulation):
    """What the studies have that follow the algorithm on minibatches of an oracle."""

    optimizer: Annotated[SimulatedAdam | SimulatedRMSprop, Field(discriminator="name")]
    batch_size: Whole
    scale: Positive
    init_seed: Seed
    evaluate: Wholes
    examples: Whole | None = None

    @property
    def hyperparameters(self) -> AdamHyperparameters | RMSpropHyperparameters:
        """The baseline's hyperparameters, checked."""
        return hyperparameters_named(**self.optimizer.model_dump())

    def _check_study(self) -> None:
        _ = self.hyperparameters
        if self.data:
            if self.examples is None:
                raise InputError(f"examples: missing, and {self.oracle} sums over them")
            available = dataset_named(self.data).train_size
            if self.examples > available:
                raise InputError(f"examples = {self.examples}: larger than the {available:,} training examples")
        if list(self.evaluate) != sorted(set(self.evaluate)):
            raise InputError(f"evaluate = {list(self.evaluate)}: must increase")


class Convergence(OnSamples):
    """SVAG on real data as ell grows, and the SDE itself."""

    study: Literal["convergence"]
    examples: Whole
    ell: Positives
    parts: Wholes
    sde_paths: Whole
    start: Whole

    oracles: ClassVar = ("softmax", "hidden-layer")

    @property
    def path_steps(self) -> int:
        """Steps of single paths."""
        svag, sde = sum(ell**2 for ell in self.ell), sum(self.parts)
        return round(self.batches * self.evaluate[-1] * (self.paths * svag + self.sde_paths * sde))

    def _check_study(self) -> None:
        super()._check_study()
        if 1 not in self.ell:
            raise InputError(f"ell = {list(self.ell)}: must contain 1, the algorithm itself")
        for parts in self.parts:
            if max(self.parts) % parts:
                raise InputError(
                    f"parts = {list(self.parts)}: the largest must be a multiple of each, to share its paths"
                )
        for ell in self.ell:
            self.hyperparameters.svag(ell)
            for steps in self.evaluate:
                steps_until("evaluate", steps, 1.0 / ell**2)


class Breakdown(OnSamples):
    """The algorithm scaled by kappa, and the lag that its baseline predicts."""

    study: Literal["breakdown"]
    kappas: Positives

    @property
    def path_steps(self) -> int:
        """Steps of single paths."""
        return round(self.batches * self.evaluate[-1] * self.paths * sum(1 / kappa for kappa in self.kappas))

    def _check_study(self) -> None:
        super()._check_study()
        if 1 not in self.kappas:
            raise InputError(f"kappas = {list(self.kappas)}: must contain 1, the baseline")
        for kappa in self.kappas:
            self.hyperparameters.scaled(kappa)
            scaled_batch_size(self.batch_size, kappa)
            for steps in self.evaluate:
                steps_until("evaluate", steps, kappa)
