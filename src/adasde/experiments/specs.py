"""Specs: what a run computes, every number resolved.

A run is a `Training`, a `Finetune` or a `Simulation`. A spec checks itself when it is made. Its canonical JSON, and so
its hash, tells runs, checkpoints and weights apart; both stay the same as long as RECIPE does.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_serializer, model_validator

from adasde.common import InputError, canonical, digest
from adasde.experiments.fields import (
    MOST,
    Count,
    Model,
    NotNegative,
    Number,
    Positive,
    RunId,
    Whole,
    short,
    validated,
)  # fmt: skip
from adasde.experiments.oracles import ORACLES, oracle_named
from adasde.scaling.clock import step_count, steps_until
from adasde.scaling.hyperparameters import (
    AdamHyperparameters,
    RMSpropHyperparameters,
    SDEConstants,
    SGDHyperparameters,
    hyperparameters_named,
)
from adasde.scaling.rules import RULES, rule_named, scaled_batch_size
from adasde.training.schedule import Schedule
from adasde.workloads.data.registry import dataset_named
from adasde.workloads.registry import workload_named

# Raised by hand when a change of the code changes results. Every spec carries it, so all runs start anew.
RECIPE = 4

Seed = Annotated[int, Field(ge=0, le=MOST)]
Ell = Annotated[Number, Field(ge=1, le=1e6)]  # of a training run
Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Wholes = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Positives = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]


class Spec(Model, ABC):
    """What all kinds of runs have: the RECIPE that they follow, and an id derived from their parameters."""

    recipe: int
    run: RunId

    @property
    def document(self) -> dict[str, Any]:
        """The spec as plain values. Options that have their default are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @cached_property
    def canonical(self) -> str:
        """The spec as JSON with sorted keys: equal specs are equal strings."""
        return canonical(self.document)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest(self.canonical)

    @model_validator(mode="after")
    def _check_recipe(self) -> "Spec":
        if self.recipe != RECIPE:
            raise InputError(f"recipe = {self.recipe}: this version runs recipe {RECIPE}")
        return self


class AdamSpec(Model):
    """Adam's hyperparameters after the rule was applied."""

    name: Literal["adam"]
    variant: Literal["paper"]
    lr: Number
    beta1: Number
    beta2: Number
    eps: Number
    weight_decay: Number
    decoupled: bool

    @cached_property
    def hyperparameters(self) -> AdamHyperparameters:
        """The hyperparameters, checked."""
        return hyperparameters_named(**self.model_dump(exclude={"variant"}))


class RMSpropSpec(Model):
    """RMSprop's hyperparameters after the rule was applied, and the variant that implements them."""

    name: Literal["rmsprop"]
    variant: Literal["paper", "torch", "authors"]
    lr: Number
    beta: Number
    eps: Number
    weight_decay: Number

    @cached_property
    def hyperparameters(self) -> RMSpropHyperparameters:
        """The hyperparameters, checked."""
        return hyperparameters_named(**self.model_dump(exclude={"variant"}))


class ScheduleSpec(Model):
    """The fields of a `Schedule` that a config gives. Its JSON holds these only, even where they equal the default."""

    warmup: Number = Schedule.warmup
    warmup_from: Number = Schedule.warmup_from
    decays: Annotated[tuple[Number, ...], Field(strict=False)] = Schedule.decays
    decay_factor: Number = Schedule.decay_factor
    shape: Literal["steps", "linear"] = "steps"

    @model_serializer
    def given(self) -> dict[str, Any]:
        """Return the given fields by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class Parent(Model):
    """The run from whose final weights another starts, and the hash of its spec."""

    run: str
    spec_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Trained(Spec):
    """What the runs that train a network have."""

    experiment: str
    workload: Annotated[
        str, Field(alias="task")
    ]  # JSON keeps the old name until RECIPE 5: a new one would change every hash
    optimizer: Annotated[AdamSpec | RMSpropSpec, Field(discriminator="name")]
    rule: str
    kappa: Positive
    ell: Ell
    batch_size: Count
    seed: Seed
    init_seed: Annotated[int, Field(ge=0)]
    sampling: Literal["replacement", "epoch"]
    samples: Count
    horizon: Positive
    schedule_given: Annotated[ScheduleSpec, Field(alias="schedule")]
    evaluate: Counts
    # Options: a spec's JSON has those that are not the default.
    clip: Positive | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16", "tf32"] = "float32"
    processes: Annotated[int, Field(ge=1)] = 1
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    frozen: Literal["none", "last-layer"] = "none"
    parent: Parent | None = None  # of a `Finetune`

    @cached_property
    def schedule(self) -> Schedule:
        """The learning-rate schedule."""
        return Schedule(**self.schedule_given.given())

    @property
    def data(self) -> str:
        """Name of the data set that it learns."""
        return workload_named(self.workload).data

    @property
    def kind(self) -> str:
        """``vision`` or ``language``."""
        return workload_named(self.workload).kind

    @property
    def minibatches(self) -> int:
        """Minibatches of a step: SVAG takes two."""
        return 1 if self.ell == 1 else 2

    @property
    def micro_batches(self) -> int | None:
        """Base batches in a batch of the rule ``invariant``, whose gradients are squared one by one; None elsewhere."""
        return round(self.kappa) if self.rule in RULES and RULES[self.rule].micro_batches else None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return step_count(self.samples, self.batch_size, self.ell)

    @model_validator(mode="after")
    def _check_training(self) -> "Trained":
        workload_named(self.workload)
        self._check_rule()
        _ = self.optimizer.hyperparameters, self.schedule  # which check themselves
        size, kappa, moments = self.batch_size, self.kappa, list(self.evaluate)
        if moments != sorted(set(moments)) or moments[-1] != self.samples or any(n % size for n in moments):
            raise InputError(
                f"evaluate = {short(moments)}: must increase in multiples of the batch size {size} "
                f"to samples = {self.samples}"
            )
        for samples in moments:
            step_count(samples, size, self.ell)
        if size % self.processes:
            raise InputError(f"processes = {self.processes}: must divide the batch size {size} (kappa {kappa:g})")
        share = size // self.processes
        if self.micro_batch is not None and share % self.micro_batch:
            raise InputError(
                f"micro_batch = {self.micro_batch}: must divide the {share} examples of a batch of {size} "
                f"(kappa {kappa:g}) that each of {self.processes} processes takes"
            )
        if self.micro_batches is not None:
            self._check_micro_batches(share)
        if self.precision == "tf32" and self.device != "cuda":
            raise InputError("precision = 'tf32': only a GPU has it")
        return self

    def _check_micro_batches(self, share: int) -> None:
        """InputError unless the rule ``invariant`` can be run; a process takes ``share`` examples of a batch."""
        if self.optimizer.name == "rmsprop" and self.optimizer.variant != "authors":
            raise InputError(
                f"optimizer.variant = {self.optimizer.variant!r}: rule {self.rule!r} is Adam's; RMSprop has it as "
                "authors only, which is Adam with beta1 = 0"
            )
        if self.kappa != self.micro_batches or share % self.micro_batches:
            raise InputError(f"kappa = {self.kappa:g}: rule {self.rule!r} takes a whole number of base batches")
        base = share // self.micro_batches
        if self.micro_batch is None or base % self.micro_batch:
            raise InputError(
                f"micro_batch = {self.micro_batch}: must divide the {base} examples of a base batch that each of "
                f"{self.processes} processes takes, since rule {self.rule!r} squares the gradient of every base batch"
            )

    @abstractmethod
    def _check_rule(self) -> None:
        """InputError unless rule, kappa and ell go together."""


class Training(Trained):
    """A training run from the experiment's initial weights: a rule at its kappa, or SVAG at its ell."""

    @property
    def cell(self) -> str:
        """Id of the runs that differ from this one in their seed only."""
        level = f"k{self.kappa:g}" if self.ell == 1 else f"l{self.ell:g}"
        return f"{self.experiment}.{self.rule}.{level}"

    def _check_rule(self) -> None:
        if self.rule != "svag" and self.ell == 1:
            rule_named(self.rule)
        elif self.rule != "svag" or self.kappa != 1 or self.ell == 1:
            raise InputError(
                f"ell = {self.ell:g}: does not go with rule {self.rule!r} at kappa {self.kappa:g}; "
                "a run has either ell = 1, or rule svag, kappa = 1 and ell > 1"
            )


class Finetune(Trained):
    """A run that starts from another's final weights, under the rule ``finetune``, or the same from new weights.

    It has the kappa of its parent. From new weights its rule is ``scratch``.
    """

    @property
    def cell(self) -> str:
        """Id of the runs whose parents, and which themselves, differ in their seed only."""
        return f"{self.experiment}.{f'k{self.kappa:g}' if self.parent else 'scratch'}"

    def _check_rule(self) -> None:
        if (self.parent is not None) != (self.rule == "finetune"):
            raise InputError(f"rule = {self.rule!r}: finetune goes with a parent, and no other rule does")
        if self.ell != 1 or (self.parent is None and self.kappa != 1):
            raise InputError(f"ell = {self.ell:g}: does not go with rule {self.rule!r} at kappa {self.kappa:g}")


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
    init_seed: Annotated[int, Field(ge=0)]
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


AnySpec = Training | Finetune | WeakOrder | Convergence | Breakdown


def _kind_of(document: Any) -> str:
    """Tell the kind of a spec from its JSON, which has no key for it: the one place where that is done."""
    if not isinstance(document, dict):
        return "a training"
    if "study" in document:
        return "a simulation"
    return "a finetune" if "parent" in document or document.get("rule") in ("finetune", "scratch") else "a training"


_SIMULATION = Annotated[WeakOrder | Convergence | Breakdown, Field(discriminator="study")]
_SPEC: TypeAdapter[AnySpec] = TypeAdapter(
    Annotated[
        Annotated[Training, Tag("a training")]
        | Annotated[Finetune, Tag("a finetune")]
        | Annotated[_SIMULATION, Tag("a simulation")],
        Discriminator(_kind_of),
    ]
)


def spec_of(document: object) -> AnySpec:
    """Return the spec that a JSON document holds; InputError, in one line, names the field that is wrong."""
    return validated(_SPEC, document, "simulation" if _kind_of(document) == "a simulation" else "run")
