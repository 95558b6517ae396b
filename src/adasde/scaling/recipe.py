"""A whole training recipe, and what a change of batch size makes of every part of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from adasde.common import InputError, positive, short, text_table, whole
from adasde.scaling.clock import shortened
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters, check_number
from adasde.scaling.rules import below_one, rule_named, scaled_batch_size, scaled_value

# torch's defaults, by optimizer.
TORCH_DEFAULTS: dict[str, dict[str, float]] = {
    "adam": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2},
    "nadam": {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 4e-3},
    "rmsprop": {"lr": 1e-2, "beta": 0.99, "eps": 1e-8, "weight_decay": 0.0},
}


@dataclass(frozen=True)
class Recipe:
    """Every part of a training recipe that changes with the batch size.

    Args:
        hyperparameters: The optimizer's.
        batch_size: Examples per step, at least 1.
        steps: Length of the training in optimizer steps, or None if it is not given in steps (default).
        warmup_steps: Length of the warm-up in optimizer steps; default 0.
        milestones: Steps after which the learning rate drops, in ascending order; default none.
        clip: Largest norm of the gradient, or None for no clipping (default). Dividing it by sqrt(kappa) is right while
            noise dominates the gradient.
        average: Decay rho, in [0, 1), of a moving average of the weights, or None (default). rho^kappa averages over
            the same number of samples.
        momentum_decay: NAdam's decay of momentum per step, >= 0, or None for other optimizers (default).
        rates: Further learning rates, each > 0, by name, such as the last one of a schedule; default none.
        counts: Further numbers of steps, each at least 1, by name, such as those between two checkpoints; default none.

    Raises:
        InputError: If a value is out of its range.

    Source: ours. `scaled` says which parts the paper's rule covers.
    """

    hyperparameters: AdamHyperparameters | RMSpropHyperparameters
    batch_size: int
    steps: int | None = None
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    clip: float | None = None
    average: float | None = None
    momentum_decay: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.hyperparameters, AdamHyperparameters | RMSpropHyperparameters):
            given = short(self.hyperparameters)
            raise InputError(f"hyperparameters = {given}: must be AdamHyperparameters or RMSpropHyperparameters")
        whole("batch_size", self.batch_size, least=1)
        if self.steps is not None:
            whole("steps", self.steps, least=1)
        whole("warmup_steps", self.warmup_steps, least=0)
        if self.steps is not None and self.warmup_steps > self.steps:
            raise InputError(f"warmup_steps = {self.warmup_steps}: must not exceed steps = {self.steps}")
        for milestone in self.milestones:
            whole("milestones", milestone, least=1)
        if list(self.milestones) != sorted(self.milestones):  # a larger batch may make two of them one
            raise InputError(f"milestones = {list(self.milestones)}: must not decrease")
        if self.clip is not None:
            positive("clip", self.clip)
        if self.average is not None:
            check_number("average", self.average, below=1.0)
        if self.momentum_decay is not None:
            check_number("momentum_decay", self.momentum_decay)
        for name, rate in self.rates.items():
            positive(name, rate)
        for name, count in self.counts.items():
            whole(name, count, least=1)

    def scaled(self, kappa: float, rule: str = "sqrt", betas: str = "linear") -> "Recipe":
        """Return the recipe for a batch ``kappa`` times as large.

        Under every rule, lengths are divided by kappa and rounded to whole steps, at least one, so that training sees
        the same number of samples.

        Args:
            kappa: Batch multiplier, > 0; it may be below 1.
            rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.
            betas: ``linear`` for 1 - kappa (1 - beta) (default), or ``half-life`` for beta^kappa.

        Returns:
            A new recipe.

        Raises:
            InputError: If kappa is too large for a beta, if kappa * batch_size is not a whole number, if a float does
                not hold a result, or if kappa is not a whole number and the rule is ``invariant``.

        Source: the paper's square-root scaling rule; decoupled decay, clip and average are ours, by the same argument.
        """
        powers, kappa = rule_named(rule, betas), positive("kappa", kappa)
        if powers.micro_batches:
            whole("kappa", kappa, least=1)
        return replace(
            self,
            hyperparameters=self.hyperparameters.scaled(kappa, rule, betas),
            batch_size=scaled_batch_size(self.batch_size, kappa),
            steps=shortened(self.steps, kappa),
            warmup_steps=shortened(self.warmup_steps, kappa),
            milestones=tuple(shortened(m, kappa) for m in self.milestones),
            clip=scaled_value("clip", self.clip, kappa, powers.clip),
            average=None if self.average is None else below_one("average", self.average, self.average**kappa, kappa),
            momentum_decay=scaled_value("momentum_decay", self.momentum_decay, kappa, 1.0),
            rates={name: scaled_value(name, rate, kappa, powers.lr) for name, rate in self.rates.items()},
            counts=_shortened_counts(self.counts, kappa),
        )

    def parts(self) -> dict[str, Any]:
        """Return the recipe as one flat dictionary.

        Returns:
            Values by name, which are batch size, hyperparameters, further rates and counts, and the lengths and options
            that the recipe uses.
        """
        names = ("steps", "warmup_steps", "milestones", "clip", "average", "momentum_decay")
        used = {name: value for name in names if (value := getattr(self, name))}
        return {"batch_size": self.batch_size, **asdict(self.hyperparameters), **used, **self.rates, **self.counts}


def recipe_of(
    optimizer: str, given: Mapping[str, Any], defaults: Mapping[str, float] | None = None
) -> tuple[Recipe, dict[str, float]]:
    """Return the recipe of an optimizer whose parts may have been left out, and the defaults that it takes for them.

    Args:
        optimizer: adam, adamw, nadam or rmsprop.
        given: Values of the fields of `Recipe` and of the hyperparameters, by name; None for what is not given.
        defaults: Defaults that are not torch's, by name; default none.

    Returns:
        The recipe, and each default that changes the training, by name.
    """
    known = {**TORCH_DEFAULTS[optimizer], **(defaults or {})}
    assumed = {name: value for name, value in known.items() if given.get(name) is None}
    values = {**assumed, **{name: value for name, value in given.items() if value is not None}}
    kind = RMSpropHyperparameters if optimizer == "rmsprop" else AdamHyperparameters
    own = {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}
    if optimizer == "adamw":
        own["decoupled"] = True
    return Recipe(kind(**own), **values), {name: value for name, value in assumed.items() if value}


def named_parts(optimizer: str) -> list[str]:
    """Return the names that a recipe of an optimizer can have, apart from further rates and counts."""
    kind = RMSpropHyperparameters if optimizer == "rmsprop" else AdamHyperparameters
    own = [field.name for field in fields(kind) if field.name != "decoupled" or optimizer in ("adam", "nadam")]
    left_out = {"hyperparameters", "rates", "counts"} | ({"momentum_decay"} if optimizer != "nadam" else set())
    return own + [field.name for field in fields(Recipe) if field.name not in left_out]


def formula(part: str, rule: str, decoupled: bool = False, betas: str = "linear") -> str:
    """Return, as a formula, what ``rule`` does to a part of a recipe (``lr``, ``beta1``, ``steps``, ...)."""
    powers = rule_named(rule, betas)
    if part in ("batch_size", "momentum_decay"):
        return f"kappa {part}"
    if part in ("steps", "warmup_steps", "milestones"):
        return f"{part} / kappa"
    if part == "average":
        return "average^kappa"
    if part.startswith("beta"):
        if not powers.betas:
            return "unchanged"
        return f"{part}^kappa" if powers.half_life else f"1 - kappa (1 - {part})"
    if part == "weight_decay" and not decoupled:
        return "unchanged (coupled decay is part of the loss)"
    return _times(part, {"lr": powers.lr, "eps": powers.eps, "weight_decay": powers.decay, "clip": powers.clip}[part])


def comparison(old: Recipe, new: Recipe, rule: str, betas: str = "linear") -> str:
    """Return a table of every part of ``old`` and of ``new``, with the formula by which ``rule`` changes it."""
    before, after = old.parts(), new.parts()
    decoupled = before.pop("decoupled", None)
    rows = [("", "old", "new", "formula")]
    for part, value in before.items():
        if part in old.rates:
            words = _times(part, rule_named(rule, betas).lr)
        elif part in old.counts:
            words = f"{part} / kappa"
        elif part == "beta1" and value == 0.0:
            words = "unchanged (no momentum)"
        else:
            words = formula(part, rule, bool(decoupled), betas)
        if part == "weight_decay" and value and not decoupled:
            words += "; AdamW's would change"
        rows.append((part, _number(part, value), _number(part, after[part]), words))
    return text_table(rows)


def assumption(assumed: Mapping[str, float], whose: str) -> str:
    """Return the defaults that a recipe takes as one phrase, such as ``betas 0.9, 0.999; eps 1e-08: torch's``."""
    words = {name: f"{name} {value:g}" for name, value in assumed.items()}
    if "beta1" in words and "beta2" in words:
        words["beta1"] = f"betas {assumed['beta1']:g}, {assumed.get('beta2', 0.0):g}"
        del words["beta2"]
    return f"{'; '.join(words.values())}: {whose} default{'s' if len(words) > 1 else ''}"


def _times(part: str, power: float) -> str:
    words = {0.0: "unchanged", 0.5: f"sqrt(kappa) {part}", 1.0: f"kappa {part}", -0.5: f"{part} / sqrt(kappa)"}
    return words[power]


def _shortened_counts(counts: Mapping[str, int], kappa: float) -> dict[str, int]:
    new = {name: shortened(count, kappa) for name, count in counts.items()}
    saved, evaluated = counts.get("save_steps"), counts.get("eval_steps")
    if saved and evaluated and saved % evaluated == 0:  # transformers demands a multiple if it keeps the best model
        new["save_steps"] = new["eval_steps"] * (saved // evaluated)
    return new


def _number(part: str, value: Any) -> str:
    """Return a whole number in full, another with six digits; for an average close to 1, six digits of 1 - value."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return str(value)
    if part == "average" or part.startswith("beta"):
        return f"{value:.{6 + max(0, math.ceil(-math.log10(1.0 - value)))}g}"
    return f"{value:.6g}"
