"""A whole training recipe, and what a change of batch size makes of every part of it."""

import math
from dataclasses import asdict, dataclass, replace

from . import terminal
from .errors import InputError
from .scaling import Adam, RMSprop, positive, rule_named, scaled_batch_size, whole


@dataclass(frozen=True)
class Recipe:
    """Everything in a training recipe that a change of batch size touches.

    Lengths (``steps``, ``warmup_steps``, ``milestones``) are in optimizer steps; they divide by kappa under
    every rule, so the number of samples seen stays the same. ``clip`` is the largest gradient norm; dividing
    it by sqrt(kappa) is right while noise dominates the gradient. ``average`` is the decay rho of a moving
    average of the weights; rho^kappa averages over the same number of samples.
    """

    hyperparameters: Adam | RMSprop
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

        def shortened(steps):
            return max(1, round(steps / kappa)) if steps else steps

        return replace(
            self,
            hyperparameters=self.hyperparameters.scaled(kappa, rule),
            batch_size=scaled_batch_size(self.batch_size, kappa),
            steps=shortened(self.steps),
            warmup_steps=shortened(self.warmup_steps),
            milestones=tuple(shortened(m) for m in self.milestones),
            clip=None if self.clip is None else self.clip * kappa**powers.clip,
            average=None if self.average is None else self.average**kappa,
        )

    def parts(self) -> dict:
        """Return the recipe as one flat dictionary, without the lengths and options that it does not use."""
        rest = {name: getattr(self, name) for name in ("steps", "warmup_steps", "clip", "average")}
        used = {name: value for name, value in rest.items() if value}
        return {"batch_size": self.batch_size, **asdict(self.hyperparameters), **used}


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
    return terminal.table(rows)


def _number(part, value):
    """A number with six digits, of 1 - value for an average close to 1; whole numbers in full."""
    if isinstance(value, int):
        return str(value)
    if part == "average" or part.startswith("beta"):
        return f"{value:.{6 + max(0, math.ceil(-math.log10(1.0 - value)))}g}"
    return f"{value:.6g}"
