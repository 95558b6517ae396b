"""A whole training recipe, and what a change of batch size makes of every part of it."""

import math
from dataclasses import asdict, dataclass, fields, replace

from adasde.common import InputError, positive, text_table, whole
from adasde.scaling.clock import shortened
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import rule_named, scaled_batch_size


@dataclass(frozen=True)
class Recipe:
    """Everything in a training recipe that a change of batch size touches.

    Lengths (``steps``, ``warmup_steps``, ``milestones``) are in optimizer steps; they divide by kappa under
    every rule, so the number of samples seen stays the same. ``clip`` is the largest gradient norm; dividing
    it by sqrt(kappa) is right while noise dominates the gradient. ``average`` is the decay rho of a moving
    average of the weights; rho^kappa averages over the same number of samples.
    """

    hyperparameters: AdamHyperparameters | RMSpropHyperparameters
    batch_size: int
    steps: int | None = None
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    clip: float | None = None
    average: float | None = None

    def __post_init__(self):
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
        """Return the recipe for batch kappa * batch_size; step counts are rounded to whole steps, at least one."""
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

    def parts(self) -> dict:
        """Return the recipe as one flat dictionary, without the lengths and options that it does not use."""
        rest = {name: getattr(self, name) for name in ("steps", "warmup_steps", "milestones", "clip", "average")}
        used = {name: value for name, value in rest.items() if value}
        return {"batch_size": self.batch_size, **asdict(self.hyperparameters), **used}


def from_document(document) -> tuple[Recipe, str]:
    """Return the recipe that a document of YAML or JSON holds, and the name of its optimizer.

    Its keys are ``optimizer`` (adam, adamw or rmsprop), the fields of that and those of `Recipe`; InputError names the
    one that is wrong.
    """
    if not isinstance(document, dict):
        raise InputError("recipe: must be a mapping, such as {optimizer: adam, lr: 1e-3, ...}")
    values = dict(document)
    name = values.pop("optimizer", None)
    kinds = {"adam": AdamHyperparameters, "adamw": AdamHyperparameters, "rmsprop": RMSpropHyperparameters}
    if name not in kinds:
        raise InputError(f"optimizer = {name!r}: must be one of {', '.join(kinds)}")
    own = [field.name for field in fields(kinds[name]) if field.name != "decoupled" or name == "adam"]
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
    return Recipe(kinds[name](**hyperparameters), **values), name


def _typed(key, value):
    """A value of a document as the recipe wants it; YAML reads 1e-3, without a point, as text."""
    kind = {"decoupled": bool, "batch_size": int, "steps": int, "warmup_steps": int}.get(key, float)
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
    words = {float: "a number", int: "a whole number", bool: "true or false"}
    raise InputError(f"{key} = {value!r}: must be {words[kind]}")


def formula(part: str, rule: str, decoupled: bool = False) -> str:
    """Return what ``rule`` does to a part of a recipe (``lr``, ``beta1``, ``steps``, ...) as a formula."""
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
    words = {
        0.0: "unchanged",
        0.5: f"sqrt(kappa) {part}",
        1.0: f"kappa {part}",
        -0.5: f"{part} / sqrt(kappa)",
    }
    return words[power]


def comparison(old: Recipe, new: Recipe, rule: str) -> str:
    """Return a table of the parts of ``old`` and of ``new``, made of it by ``rule``, each with its formula."""
    before, after = old.parts(), new.parts()
    decoupled = before.pop("decoupled", None)
    rows = [("", "old", "new", "formula")]
    for part, value in before.items():
        words = formula(part, rule, bool(decoupled))
        if part == "weight_decay" and value and decoupled is False:
            words += "; for AdamW add --decoupled"
        rows.append((part, _number(part, value), _number(part, after[part]), words))
    return text_table(rows)


def _number(part, value):
    """A number with six digits, of 1 - value for an average close to 1; whole numbers in full."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return str(value)
    if part == "average" or part.startswith("beta"):
        return f"{value:.{6 + max(0, math.ceil(-math.log10(1.0 - value)))}g}"
    return f"{value:.6g}"
