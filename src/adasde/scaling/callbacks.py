"""For transformers' Trainer: its arguments at another batch size, and a callback after each optimizer step."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from adasde.common import InputError
from adasde.scaling.recipe_files import recognised
from adasde.scaling.rules import ScalingWarning, rule_named

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments


def rescale_arguments(
    arguments: "TrainingArguments",
    kappa: float,
    rule: str = "sqrt",
    betas: str = "linear",
    by: str = "accumulation",
) -> "TrainingArguments":
    """Return a copy of transformers' TrainingArguments for a batch ``kappa`` times as large.

    Learning rate, betas, epsilon, decoupled weight decay and clipping follow the rule, and so do the rates in
    ``lr_scheduler_kwargs`` (``min_lr``, ``lr_end``). Warm-up, length, ``save_steps``, ``eval_steps``,
    ``logging_steps`` and the schedule's own lengths follow where they are counted in steps; counted in epochs or as
    shares of the run they stay.

    Args:
        arguments: The arguments at the old batch size; left unchanged.
        kappa: Batch multiplier, > 0.
        rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.
        betas: ``linear`` for 1 - kappa (1 - beta) (default), or ``half-life`` for beta^kappa.
        by: What takes up kappa: ``accumulation`` multiplies ``gradient_accumulation_steps``, so that memory does not
            grow (default); ``per_device`` multiplies ``per_device_train_batch_size``. The product must be whole.

    Returns:
        The copy. A ScalingWarning names the numbers that may have to change and do not.

    Raises:
        InputError: For optimizers other than AdamW, and for a kappa that is too large or gives a fraction of an
            accumulation step or of an example.

    Source: the paper's square-root scaling rule; decoupled decay and clipping are ours, by the same argument.
    """
    if rule_named(rule, betas).micro_batches:
        raise InputError(f"rule = {rule!r}: needs adasde.InvariantAdam, which transformers' Trainer does not run")
    document = {field.name: getattr(arguments, field.name) for field in fields(arguments)}
    document["optim"] = str(getattr(arguments.optim, "value", arguments.optim))
    found = recognised(document, "transformers")
    changes = found.replaced(found.recipe.scaled(kappa, rule, betas), by)
    for note in found.notes:
        warnings.warn(note, ScalingWarning, stacklevel=2)
    changed = copy.copy(arguments)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def after_each_step(call: Callable[[int], object]) -> "TrainerCallback":
    """Return a callback for transformers' Trainer that calls ``call(step)`` after each optimizer step."""
    from transformers import TrainerCallback  # an optional dependency, slow to import

    class _Callback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            call(state.global_step)

    return _Callback()
