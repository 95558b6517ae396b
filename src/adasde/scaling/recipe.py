"""A whole training recipe, and what a change of batch size makes of every part of it."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from adasde.common import InputError, positive, text_table, whole
from adasde.scaling.clock import shortened
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import rule_named, scaled_batch_size

_OPTIMIZERS: dict[str, type[AdamHyperparameters] | type[RMSpropHyperparameters]] = {
    "adam": AdamHyperparameters,
    "adamw": AdamHyperparameters,
    "rmsprop": RMSpropHyperparameters,
}


@dataclass(frozen=True)
class Recipe:
    """Every part of a training recipe that changes with the batch size.

    Args:
        hyperparameters: The optimizer's.
        batch_size: Examples per step, at least 1.
        steps: Length of the training in optimizer steps, or None if it is not given in steps (default).
        warmup_steps: Length of the warm-up in optimizer steps; default 0.
        milestones: Steps after which the learning rate drops; default none.
        clip: Largest norm of the gradient, or None for no clipping (default). Dividing it by sqrt(kappa) is right while
            noise dominates the gradient.
        average: Decay rho, in [0, 1), of a moving average of the weights, or None (default). rho^kappa averages over
            the same number of samples.

    Raises:
        InputError: If a value is out of its range.
    """

    hyperparameters: AdamHyperparameters | RMSpropHyperparameters
    batch_size: int
    steps: int | None = None
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    clip: float | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, least=1)
        if self.steps is not None:
            whole("steps", self.steps, least=1)
        whole("warmup_steps", self.warmup_steps, least=0)
        if self.steps is not None and self.warmup_steps > self.steps:
            raise InputError(f"warmup_steps = {self.warmup_steps}: must not exceed steps = {self.steps}")
        for milestone in self.milestones:
            whole("milestones", milestone, least=1)
        if self.clip is not None:
            positive("clip", self.clip)
        if self.average is not None and not 0.0 <= self.average < 1.0:
            raise InputError(f"average = {self.average:g}: must be in [0, 1)")

    def scaled(self, kappa: float, rule: str = "sqrt") -> "Recipe":
        """Return the recipe for a batch ``kappa`` times as large.

        Under every rule, lengths are divided by kappa and rounded to whole steps, at least one, so that training sees
        the same number of samples.

        Args:
            kappa: Batch multiplier, > 0; it may be below 1.
            rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.

        Raises:
            InputError: If kappa is too large for a beta, or kappa * batch_size is not a whole number.

        Source: the paper's square-root scaling rule; decoupled decay, clip and average are ours, by the same argument.
        """
        powers, kappa = rule_named(rule), positive("kappa", kappa)
        return replace(
            self,
            hyperparameters=self.hyperparameters.scaled(kappa, rule),
            batch_size=scaled_batch_size(self.batch_size, kappa),
            steps=shortened(self.steps, kappa),
            warmup_steps=shortened(self.warmup_steps, kappa),
            milestones=tuple(shortened(m, kappa) for m in self.milestones),
            clip=None if self.clip is None else self.clip * kappa**powers.clip,
            average=None if self.average is None else self.average**kappa,
        )

    def parts(self) -> dict[str, Any]:
        """Return the recipe as one flat dictionary, without the lengths and options that it does not use."""
        rest = {name: getattr(self, name) for name in ("steps", "warmup_steps", "milestones", "clip", "average")}
        used = {name: value for name, value in rest.items() if value}
        return {"batch_size": self.batch_size, **asdict(self.hyperparameters), **used}


def from_document(document: Any) -> tuple[Recipe, str]:
    """Return the recipe in a document of YAML or JSON, and the name of its optimizer.

    The document's keys are ``optimizer`` (adam, adamw or rmsprop), the hyperparameters, and the fields of `Recipe`.
    InputError names the key that is wrong.
    """
    if not isinstance(document, dict):
        raise InputError("recipe: must be a mapping, such as {optimizer: adam, lr: 1e-3, ...}")
    values = dict(document)
    name = values.pop("optimizer", None)
    if name not in _OPTIMIZERS:
        raise InputError(f"optimizer = {name!r}: must be one of {', '.join(_OPTIMIZERS)}")
    own = [field.name for field in fields(_OPTIMIZERS[name]) if field.name != "decoupled" or name == "adam"]
    rest = [field.name for field in fields(Recipe) if field.name != "hyperparameters"]
    for key, value in values.items():
        if key not in own + rest:
            raise InputError(f"{key}: unknown; a recipe of {name} has {', '.join(own + rest)}")
        values[key] = _typed(key, value)
    for key in (*own, "batch_size"):
        if key not in values and key not in ("weight_decay", "decoupled"):
            raise InputError(f"{key}: missing in the recipe")
    hyperparameters = {key: values.pop(key) for key in own if key in values}
    if name == "adamw":
        hyperparameters["decoupled"] = True
    return Recipe(_OPTIMIZERS[name](**hyperparameters), **values), name


def _typed(key: str, value: Any) -> Any:
    """Return a document's value in the type that a recipe has for it. YAML reads 1e-3, without a point, as text."""
    kind: type = {"decoupled": bool, "batch_size": int, "steps": int, "warmup_steps": int}.get(key, float)
    if key == "milestones":
        if not isinstance(value, list) or any(type(number) is not int for number in value):
            raise InputError(f"milestones = {value!r}: must be a list of whole numbers")
        return tuple(value)
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    words: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false"}
    raise InputError(f"{key} = {value!r}: must be {words[kind]}")


def formula(part: str, rule: str, decoupled: bool = False) -> str:
    """Return, as a formula, what ``rule`` does to a part of a recipe (``lr``, ``beta1``, ``steps``, ...)."""
    powers = rule_named(rule)
    if part == "batch_size":
        return "kappa batch_size"
    if part in ("steps", "warmup_steps", "milestones"):
        return f"{part} / kappa"
    if part == "average":
        return "average^kappa"
    if part.startswith("beta"):
        return f"1 - kappa (1 - {part})" if powers.betas else "unchanged"
    if part == "weight_decay" and not decoupled:
        return "unchanged (coupled decay is part of the loss)"
    power = {"lr": powers.lr, "eps": powers.eps, "weight_decay": powers.decay, "clip": powers.clip}[part]
    words = {0.0: "unchanged", 0.5: f"sqrt(kappa) {part}", 1.0: f"kappa {part}", -0.5: f"{part} / sqrt(kappa)"}
    return words[power]


def comparison(old: Recipe, new: Recipe, rule: str) -> str:
    """Return a table of every part of ``old`` and of ``new``, with the formula by which ``rule`` changes it."""
    before, after = old.parts(), new.parts()
    decoupled = before.pop("decoupled", None)
    rows = [("", "old", "new", "formula")]
    for part, value in before.items():
        words = formula(part, rule, bool(decoupled))
        if part == "weight_decay" and value and decoupled is False:
            words += "; for AdamW add --decoupled"
        rows.append((part, _number(part, value), _number(part, after[part]), words))
    return text_table(rows)


def _number(part: str, value: Any) -> str:
    """Return a whole number in full, another with six digits; for an average close to 1, six digits of 1 - value."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return str(value)
    if part == "average" or part.startswith("beta"):
        return f"{value:.{6 + max(0, math.ceil(-math.log10(1.0 - value)))}g}"
    return f"{value:.6g}"
