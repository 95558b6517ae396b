"""Specs of runs that train a network: `Training`, `Branch` and `Finetune`."""

from abc import abstractmethod
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_serializer, model_validator

from adasde.common import InputError, short
from adasde.experiments.fields import (
    Count,
    Model,
    Number,
    Positive,
    Whole,
)  # fmt: skip
from adasde.experiments.specs.base import Counts, Ell, Seed, Spec
from adasde.scaling.clock import step_count
from adasde.scaling.hyperparameters import (
    AdamHyperparameters,
    RMSpropHyperparameters,
    hyperparameters_named,
)
from adasde.scaling.rules import RULES, rule_named
from adasde.training.schedule import Schedule
from adasde.workloads.profiles import check_norm
from adasde.workloads.registry import workload_named


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


class BranchPoint(Parent):
    """The run from whose state another starts, and the number of ``samples`` that it has seen by then."""

    samples: Count

    @property
    def state(self) -> str:
        """Name of the state's file, without its ending."""
        return f"{self.run}.{self.samples}"


class Trained(Spec):
    """What the runs that train a network have."""

    experiment: str
    workload: str
    optimizer: Annotated[AdamSpec | RMSpropSpec, Field(discriminator="name")]
    rule: str
    kappa: Positive
    ell: Ell
    batch_size: Count
    seed: Seed
    init_seed: Seed
    sampling: Literal["replacement", "epoch"]
    samples: Count
    horizon: Positive
    schedule_given: Annotated[ScheduleSpec, Field(alias="schedule")]
    evaluate: Counts
    noise: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()  # when its noise is measured
    # Options: a spec's JSON has those that are not the default.
    clip: Positive | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16", "tf32"] = "float32"
    processes: Whole = 1
    micro_batch: Whole | None = None
    frozen: Literal["none", "last-layer"] = "none"
    engine: Literal["eager", "compile", "graph"] = "eager"
    tested: Whole | None = None  # test examples of an evaluation, the first ones; None for all
    parent: Parent | None = None  # of a `Finetune` or a `Branch`

    origin: ClassVar[str]  # what it starts from: scratch, branch or finetune

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

    @property
    def is_baseline(self) -> bool:
        """Whether others of its experiment are compared with it."""
        return self.rule == "sqrt" and self.kappa == self.ell == 1

    @property
    @abstractmethod
    def stream(self) -> tuple[object, ...]:
        """What tells its random streams from all others.

        Runs of an experiment that differ in rule and batch size share them: they see the same examples in the same
        order. SVAG draws two minibatches for each of its steps, so every ell has its own.
        """

    @model_validator(mode="after")
    def _check_training(self) -> "Trained":
        profile = workload_named(self.workload).profile
        self._check_rule()
        _ = self.optimizer.hyperparameters, self.schedule  # which check themselves
        size, kappa, evaluations = self.batch_size, self.kappa, list(self.evaluate)
        if (
            evaluations != sorted(set(evaluations))
            or evaluations[-1] != self.samples
            or any(n % size for n in evaluations)
        ):
            raise InputError(
                f"evaluate = {short(evaluations)}: must increase in multiples of the batch size {size} "
                f"to samples = {self.samples}"
            )
        for samples in evaluations:
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
        if profile and (least := self.micro_batch or size) < profile.least:
            raise InputError(
                f"{'micro_batch' if self.micro_batch else 'batch_size'} = {least}: batch norm would see one value per "
                f"channel, since the features of {self.workload} end as single pixels; must be at least {profile.least}"
            )
        if profile and self.processes > 1:
            check_norm(profile.norm, self.processes, self.micro_batch)
        if strange := sorted(set(self.noise) - {0, *evaluations}):
            raise InputError(f"noise = {short(strange)}: the noise is measured at the start and at evaluations only")
        if self.precision == "tf32" and self.device != "cuda":
            raise InputError("precision = 'tf32': only a GPU has it")
        if self.engine == "graph":
            self._check_graph()
        return self

    def _check_graph(self) -> None:
        """InputError unless a step of this run can be captured as a CUDA graph."""
        another = "take compile or eager"
        if self.device != "cuda":
            raise InputError(f"engine = 'graph': only a GPU has CUDA graphs; {another}")
        if self.kind != "vision":
            raise InputError(f"engine = 'graph': {self.workload} is no vision workload; {another}")
        if self.processes > 1:
            raise InputError(f"engine = 'graph': does not go with processes = {self.processes}; {another}")
        rmsprop = self.optimizer.name == "rmsprop" and self.optimizer.variant != "authors"
        if rmsprop or self.micro_batches is not None:
            which = f"RMSprop's variant {self.optimizer.variant!r}" if rmsprop else f"rule {self.rule!r}"
            raise InputError(f"engine = 'graph': the update of {which} waits for the GPU; {another}")

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

    origin: ClassVar = "scratch"

    @property
    def cell(self) -> str:
        """Id of the runs that differ from this one in their seed only."""
        level = f"k{self.kappa:g}" if self.ell == 1 else f"l{self.ell:g}"
        return f"{self.experiment}.{self.rule}.{level}"

    @property
    def stream(self) -> tuple[object, ...]:  # noqa: D102
        return (self.seed,) if self.ell == 1 else (self.seed, "svag", self.ell)

    def _check_rule(self) -> None:
        if self.rule != "svag" and self.ell == 1:
            rule_named(self.rule)
        elif self.rule != "svag" or self.kappa != 1 or self.ell == 1:
            raise InputError(
                f"ell = {self.ell:g}: does not go with rule {self.rule!r} at kappa {self.kappa:g}; "
                "a run has either ell = 1, or rule svag, kappa = 1 and ell > 1"
            )


class Branch(Training):
    """A run from the state of another in mid-training: its weights, buffers and the state of its optimizer.

    ``second_moment`` is what becomes of v: the default ``transport`` carries it over to the new batch size, as
    `adasde.rescale` does. ``keep`` leaves it as it is, and ``fresh`` starts with a new optimizer.
    """

    parent: BranchPoint
    second_moment: Literal["transport", "keep", "fresh"] = "transport"

    origin: ClassVar = "branch"

    @property
    def cell(self) -> str:
        """Id of the runs that differ from this one in their seed only."""
        return super().cell + (f".{self.second_moment}" if self.second_moment != "transport" else "")

    @property
    def stream(self) -> tuple[object, ...]:  # noqa: D102
        return ("branch", self.parent.state, *super().stream)


class Finetune(Trained):
    """A run that starts from another's final weights, under the rule ``finetune``, or the same from new weights.

    It has the kappa of its parent. From new weights its rule is ``scratch``.
    """

    origin: ClassVar = "finetune"

    @property
    def cell(self) -> str:
        """Id of the runs whose parents, and which themselves, differ in their seed only."""
        return f"{self.experiment}.{f'k{self.kappa:g}' if self.parent else 'scratch'}"

    @property
    def stream(self) -> tuple[object, ...]:  # noqa: D102
        return ("finetune", self.seed)

    def _check_rule(self) -> None:
        if (self.parent is not None) != (self.rule == "finetune"):
            raise InputError(f"rule = {self.rule!r}: finetune goes with a parent, and no other rule does")
        if self.ell != 1 or (self.parent is None and self.kappa != 1):
            raise InputError(f"ell = {self.ell:g}: does not go with rule {self.rule!r} at kappa {self.kappa:g}")
