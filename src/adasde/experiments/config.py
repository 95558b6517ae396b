"""Configs: typed models that check themselves.

Every number of a config is {value, source, note}: where it comes from stands beside it. A validated config holds the
values only.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainSerializer, Tag, TypeAdapter
from pydantic_core import PydanticCustomError, PydanticKnownError

from adasde.common import InputError, short
from adasde.experiments.fields import LARGEST, Model, Name, Number, Whole, validated
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import RULES
from adasde.workloads.model_names import composed

T = TypeVar("T")

EVALUATIONS = 10_000  # of a run, at most: every spec of a plan lists them


class Sourced(Model, Generic[T]):
    """A value, where it comes from, and a note on why it is this value or where in the source it stands."""

    value: T
    source: Literal["paper", "authors' code", "authors' blog", "secondary", "ours"]
    note: str = ""


def _value(sourced: Any) -> Any:
    return sourced.value


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticKnownError("model_type", {"class_name": "object"})
    return value


def _distinct(values: list) -> list:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise PydanticCustomError("not_distinct", "{values} has non-unique elements", {"values": short(values)})
    return values


def _both_ends(count: int) -> int:
    if count == 1:
        raise PydanticCustomError("one_end", "must be at least 2, the start and the end, or 0")
    return count


def _with_sqrt(rules: dict[str, list]) -> dict[str, list]:
    if "sqrt" not in rules:
        raise PydanticCustomError("missing_rule", "'sqrt' is a required property")
    return rules


def _with_transport(ways: list[str]) -> list[str]:
    if "transport" not in ways:
        raise PydanticCustomError("no_transport", "must contain transport, which the others are compared with")
    return ways


class Given:
    """``Given[kind]``: in YAML a `Sourced` value, once validated the value itself."""

    def __class_getitem__(cls, kind: Any) -> Any:
        return Annotated[Sourced[kind], AfterValidator(_value), PlainSerializer(lambda value: value)]


Omittable = Annotated[T | None, BeforeValidator(_not_null)]  # None only where the key is left out; null is refused
Value = Annotated[Number, Field(ge=-1e9, le=1e9)]
Factor = Annotated[Number, Field(gt=0, le=1e6)]
Factors = Annotated[list[Factor], Field(min_length=1), AfterValidator(_distinct)]
Ells = Annotated[list[Annotated[Factor, Field(ge=1)]], Field(min_length=1), AfterValidator(_distinct)]
Wholes = Annotated[list[Whole], Field(min_length=1), AfterValidator(_distinct)]
Moments = Annotated[
    list[Literal["transport", "keep", "fresh"]],
    Field(min_length=1),
    AfterValidator(_distinct),
    AfterValidator(_with_transport),
]
Words = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
Seeds = Annotated[Whole, Field(le=1000)]


class Adam(Model):
    """Adam with the hyperparameters of the baseline, kappa = 1."""

    name: Literal["adam"]
    lr: Given[Value]
    beta1: Given[Value]
    beta2: Given[Value]
    eps: Given[Value]
    weight_decay: Given[Value] = 0.0
    decoupled: bool = Field(False, description="AdamW's decay instead of an L2 term of the loss")

    @property
    def variant(self) -> str:
        """There is one implementation."""
        return "paper"

    @property
    def hyperparameters(self) -> AdamHyperparameters:
        """The hyperparameters, checked."""
        return AdamHyperparameters(**self.model_dump(exclude={"name"}))


class RMSprop(Model):
    """RMSprop with the hyperparameters of the baseline, kappa = 1."""

    name: Literal["rmsprop"]
    variant: Given[str] = Field(
        description="paper: its definition; authors: Adam with beta1 = 0, as in their code; torch: torch's"
    )
    lr: Given[Value]
    beta: Given[Value]
    eps: Given[Value]
    weight_decay: Given[Value] = 0.0

    @property
    def hyperparameters(self) -> RMSpropHyperparameters:
        """The hyperparameters, checked."""
        return RMSpropHyperparameters(**self.model_dump(exclude={"name", "variant"}))


def _checked(optimizer: Adam | RMSprop) -> Adam | RMSprop:
    if optimizer.variant not in VARIANTS[optimizer.name]:
        raise InputError(f"variant = {optimizer.variant!r}: must be one of {', '.join(VARIANTS[optimizer.name])}")
    _ = optimizer.hyperparameters
    return optimizer


Optimizer = Annotated[Adam | RMSprop, Field(discriminator="name"), AfterValidator(_checked)]


class Schedule(Model):
    """The learning-rate factor over a run; all positions are parts of the run."""

    warmup: Given[Value] = Field(0.0, description="length of the geometric warm-up")
    warmup_from: Given[Value] = Field(1e-3, description="factor at the start")
    decays: Given[Factors] = Field((), description="where the factor drops")
    decay_factor: Given[Value] = Field(0.1, description="by how much it drops")
    shape: Given[str] = Field("steps", description="steps: as above; linear: up from 0, then down to 0 at the end")


class Evaluate(Model):
    """When test functions are measured: the same numbers of samples for every run, denser early."""

    count: int = Field(ge=1, le=EVALUATIONS, description="evaluations of a run")
    every: int = Field(
        ge=1, le=LARGEST, description="they fall on multiples of this many samples; every batch size must divide it"
    )
    noise: Annotated[int, Field(ge=0, le=EVALUATIONS + 1), AfterValidator(_both_ends)] = Field(
        3,
        description="at how many of them, start and end included, the baseline's noise is measured; "
        "0 is for experiments that run no larger kappa and need no forecast",
    )
    tested: int | None = Field(None, ge=1, le=LARGEST, description="test examples, the first ones; by default all")


class ModelChoice(Model):
    """A workload by configuration alone: a library's model, trained from new weights on a data set."""

    model: str = Field(
        description="timm/NAME or torchvision/NAME, which classify images, or transformers/TYPE, the type of a "
        "configuration of a causal language model"
    )
    data: str = Field(
        description="name of the data set: fashion-mnist, cifar-10 or imagenet; wiki-mini or wikitext-103"
    )
    size: int | None = Field(
        None, description="pixels of a side, or tokens of a sequence; by default those of the data's own workloads"
    )
    options: dict[str, Any] | None = Field(
        None, description="options of the model, by the library's names; what is null is left out"
    )


def _workload_name(workload: str | ModelChoice) -> str:
    if isinstance(workload, str):
        return workload
    # As elsewhere in a config, null takes away what the config below gives.
    options = {name: value for name, value in (workload.options or {}).items() if value is not None}
    return str(composed(workload.model, workload.data, workload.size, options))


_WorkloadName = Annotated[
    Annotated[str, Tag("a name")] | Annotated[ModelChoice, Tag("a model")],
    Discriminator(lambda workload: "a model" if isinstance(workload, dict) else "a name"),
    AfterValidator(_workload_name),
]


class _Trains(Model):
    """What experiments and finetunings have in common."""

    workload: _WorkloadName = Field(description="name in the registry of workloads, or model, data, size and options")
    optimizer: Optimizer = Field(description="optimizer and hyperparameters of the baseline, kappa = 1")
    batch_size: Given[Whole] = Field(description="samples per step of the baseline")
    epochs: Given[Annotated[Number, Field(gt=0, le=1e6)]] = Field(
        description="passes over the training set, the same for every run; rounded down to whole evaluation intervals"
    )
    sampling: Given[str] = Field(
        description="replacement: independent samples, the oracle of the theory; epoch: one permutation after another"
    )
    schedule: Schedule = Field(Schedule(), description="learning-rate factor over the run")
    clip: Omittable[Given[Annotated[Value, Field(gt=0)]]] = Field(
        None, description="largest gradient norm of the baseline; it scales like the noise"
    )
    precision: Given[Literal["float32", "bf16", "tf32"]] = Field(
        "float32", description="bf16: autocast to bfloat16; tf32: products in TensorFloat-32"
    )
    engine: Given[Literal["eager", "compile", "graph"]] = Field(
        "eager",
        description="what carries out a step: eager, torch; compile, torch.compile; graph, a CUDA graph of the step",
    )
    processes: Given[Annotated[Whole, Field(le=65536)]] = Field(
        1, description="GPUs that share a run, each with an equal shard of every batch"
    )
    micro_batch: Omittable[Given[Whole]] = Field(
        None, description="examples per forward pass of a process, over which batch norm takes its statistics"
    )


class MoreSeeds(Model):
    """More seeds at some kappas of the square-root rule, where the others leave it undecided."""

    kappas: Factors = Field(description="kappas above 1 of rules.sqrt")
    seeds: Seeds = Field(description="how many seeds run there, and of the baseline, with which they are compared")


class _Compares(Model):
    """What experiments and branches have in common: a grid of rules, kappas, levels of SVAG and seeds."""

    rules: Annotated[dict[str, Given[Factors]], AfterValidator(_with_sqrt)] = Field(
        description="rule -> the kappas it is run at; sqrt must contain 1, the baseline"
    )
    ell: Given[Ells] = Field([1], description="SVAG levels of the baseline; must contain 1, the plain run")
    seeds: Given[Seeds] = Field(
        description="runs per rule and kappa, and per ell, which differ in their minibatches only"
    )
    more_seeds: Omittable[Given[MoreSeeds]] = Field(
        None, description="a larger number of seeds for some kappas of the rule sqrt, and for the baseline"
    )
    evaluate: Evaluate

    def seeds_at(self, rule: str, kappa: float, ell: float = 1) -> int:
        """Number of seeds of a rule at a kappa, or of SVAG at ell."""
        more = self.more_seeds
        concerned = more and rule == "sqrt" and ell == 1 and (kappa == 1 or kappa in more.kappas)
        return max(self.seeds, more.seeds) if concerned else self.seeds


class Experiment(_Compares, _Trains):
    """A named grid of runs: one baseline recipe, several batch sizes, rules and seeds."""

    frozen: Given[Literal["last-layer", "none"]] = Field(
        "none", description="last-layer: the last linear layer keeps its initial weights"
    )


class Branching(_Compares):
    """A grid of runs that all start from one state: that of an experiment's baseline, seed 0, in mid-training.

    Workload, optimizer and options are the parent's; its hyperparameters follow the square-root rule from the parent's
    batch size to this one, and the learning rate keeps the factor that the parent's schedule has at the branch point.
    Its examples come from random streams of their own; without replacement they are those that the parent has not seen.
    """

    parent: str = Field(description="name of the experiment whose baseline is branched")
    at: Given[Annotated[Number, Field(gt=0, le=1e6)]] = Field(
        description="epochs of the parent before the branch; rounded down to whole steps"
    )
    batch_size: Given[Whole] = Field(description="samples per step of the branch's baseline, kappa = 1")
    epochs: Given[Annotated[Number, Field(gt=0, le=1e6)]] = Field(
        description="length of the branch; rounded down to whole evaluation intervals"
    )
    micro_batch: Omittable[Given[Whole]] = Field(None, description="examples per forward pass, by default the parent's")
    second_moments: Given[Moments] = Field(
        ["transport"],
        description="what becomes of v where sqrt changes the batch: transport, as rescale does; keep; fresh, a new "
        "optimizer",
    )


class Finetuning(_Trains):
    """Runs that start from the final weights of an experiment's runs under the rule sqrt."""

    pretrained: str = Field(description="name of the experiment that pre-trains")
    seeds: Given[Seeds] = Field(description="runs per pre-trained model")
    scratch: Given[Seeds] = Field(0, description="runs from new weights instead, to compare with")
    evaluate: Evaluate


class SGDConstants(Model):
    """Constants of SGD's SDE."""

    sigma0: Given[Value]


class RMSpropConstants(Model):
    """Constants of RMSprop's SDE."""

    sigma0: Given[Value]
    eps0: Given[Value]
    c2: Given[Value]


class AdamConstants(Model):
    """Constants of Adam's SDE."""

    sigma0: Given[Value]
    eps0: Given[Value]
    c1: Given[Value]
    c2: Given[Value]


class StudiedConstants(Model):
    """Constants of each optimizer's SDE."""

    sgd: Omittable[SGDConstants] = None
    rmsprop: Omittable[RMSpropConstants] = None
    adam: Omittable[AdamConstants] = None


class StudiedAdam(Model):
    """Adam's hyperparameters."""

    lr: Given[Value]
    beta1: Given[Value]
    beta2: Given[Value]
    eps: Given[Value]


class StudiedRMSprop(Model):
    """RMSprop's hyperparameters."""

    lr: Given[Value]
    beta: Given[Value]
    eps: Given[Value]


class StudiedOptimizers(Model):
    """Each optimizer's hyperparameters."""

    rmsprop: Omittable[StudiedRMSprop] = None
    adam: Omittable[StudiedAdam] = None


class Simulation(Model):
    """A study of oracles instead of networks: one run per oracle and optimizer."""

    oracles: Words = Field(description="names in the registry of oracles")
    batches: Given[Whole] = Field(description="batches of paths, from which intervals are taken")
    paths: Given[Whole] = Field(description="paths per batch and process")


class WeakOrder(Simulation):
    """How the error of the SDE falls with the algorithm's time step."""

    study: Literal["weak-order"]
    optimizers: StudiedConstants
    theta: Given[Value] = Field(description="where every coordinate starts")
    start: Given[Value] = Field(description="SDE time of the start; Adam's equation is singular at 0")
    horizon: Given[Value] = Field(description="SDE time of the end")
    step: Given[Value] = Field(description="time step of Euler-Maruyama, far below the algorithm's")
    time_steps: Given[Factors] = Field(description="the algorithm's steps eta^2")
    variants: Words = Field(["paper"], description="variants of RMSprop")


class _OnSamples(Simulation):
    optimizers: StudiedOptimizers
    batch_size: Given[Whole] = Field(description="examples per step of the baseline")
    scale: Given[Value] = Field(description="standard deviation of the initial weights")
    evaluate: Given[Wholes] = Field(description="steps of the baseline at which test functions are measured")
    examples: Omittable[Given[Whole]] = Field(None, description="training images in the finite sum, the first ones")


class Convergence(_OnSamples):
    """How SVAG approaches the SDE on real data as ell grows."""

    study: Literal["convergence"]
    examples: Given[Whole] = Field(description="training images in the finite sum, the first ones")
    ell: Given[Factors] = Field(description="levels of SVAG")
    parts: Given[Wholes] = Field(description="steps of Euler-Maruyama per step of the algorithm")
    sde_paths: Given[Whole] = Field(description="paths of the SDE per batch")
    start: Given[Whole] = Field(description="steps of the algorithm after which all processes start")


class Breakdown(_OnSamples):
    """How far larger batches fall behind, against the lag that the baseline predicts."""

    study: Literal["breakdown"]
    kappas: Given[Factors] = Field(description="batch multipliers; must contain 1, the baseline")


def _free(scale: str) -> str:
    if scale in ("data", "reference"):
        raise PydanticCustomError("taken", "{scale} is taken; choose another name", {"scale": repr(scale)})
    return scale


Study = Annotated[WeakOrder | Convergence | Breakdown, Field(discriminator="study")]


class Config(Model):
    """A scale: the experiments to run and the figures to plot."""

    scale: Annotated[Name, AfterValidator(_free)] = Field(
        description="name of the scale; its results and figures go to folders of this name"
    )
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1)]
    figures: Annotated[list[str], AfterValidator(_distinct)] = Field(
        description="figures to plot, by name: the kind of figure, then what it shows"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="what trains the networks")
    job: Literal["run", "cell", "experiment"] = Field(
        "cell",
        description="what one job runs: a run; a cell, which is a rule at one level with all its seeds; or an "
        "experiment, whose baseline is a job of its own where it forecasts larger batches",
    )
    branches: dict[Name, Branching] = {}
    finetunings: dict[Name, Finetuning] = {}
    simulations: dict[Name, Study] = {}


_CONFIG = TypeAdapter(Config)


def config_of(document: Any) -> Config:
    """Return the config that a YAML document holds; InputError, in one line, names the field that is wrong.

    What is null in a section, such as an experiment, is left out, and so is a rule: so a config laid over another can
    take less.
    """
    sections = ("experiments", "branches", "finetunings", "simulations")
    if isinstance(document, dict):
        document = {key: _present(value) if key in sections else value for key, value in document.items()}
    return validated(_CONFIG, document, "config")


def _present(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    return {name: _present_rules(content) for name, content in section.items() if content is not None}


def _present_rules(content: Any) -> Any:
    if not (isinstance(content, dict) and isinstance(content.get("rules"), dict)):
        return content
    rules = content["rules"].items()
    return {**content, "rules": {rule: given for rule, given in rules if given is not None or rule not in RULES}}
