"""For transformers' Trainer: its arguments at another batch size, and a callback after each optimizer step."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from adasde.common import InputError
from adasde.scaling.clock import shortened
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.rules import rule_named, scaled_batch_size

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments


def rescale_arguments(arguments: "TrainingArguments", kappa: float, rule: str = "sqrt") -> "TrainingArguments":
    """Return a copy of transformers' TrainingArguments for a batch ``kappa`` times as large.

    ``gradient_accumulation_steps`` grows by kappa, so that memory does not. Learning rate, betas, epsilon, decoupled
    weight decay and clipping follow the rule. Warm-up and length follow where they are counted in steps; counted in
    epochs or as shares of the run they stay.

    Args:
        arguments: The arguments at the old batch size; left unchanged.
        kappa: Batch multiplier, > 0; kappa * gradient_accumulation_steps must be a whole number.
        rule: Name of the rule, one of `adasde.scaling.rules.RULES`; default the square-root rule.

    Raises:
        InputError: For optimizers other than AdamW, and for a kappa that is too large or gives a fraction of an
            accumulation step.

    Source: the paper's square-root scaling rule; decoupled decay and clipping are ours, by the same argument.
    """
    kind = str(getattr(arguments.optim, "value", arguments.optim))
    if not kind.startswith("adamw"):
        raise InputError(f"optim = {kind!r}: must be one of transformers' adamw")
    accumulated = scaled_batch_size(arguments.gradient_accumulation_steps, kappa)
    new = AdamHyperparameters(
        arguments.learning_rate,
        arguments.adam_beta1,
        arguments.adam_beta2,
        arguments.adam_epsilon,
        arguments.weight_decay,
        decoupled=True,
    ).scaled(kappa, rule)
    changed = copy.copy(arguments)
    changed.gradient_accumulation_steps = accumulated
    changed.learning_rate, changed.adam_beta1, changed.adam_beta2 = new.lr, new.beta1, new.beta2
    changed.adam_epsilon, changed.weight_decay = new.eps, new.weight_decay
    if arguments.max_grad_norm:
        changed.max_grad_norm = arguments.max_grad_norm * kappa ** rule_named(rule).clip
    if arguments.max_steps > 0:
        changed.max_steps = shortened(arguments.max_steps, kappa)
    if arguments.warmup_steps >= 1:  # below 1 it is a share of the run
        changed.warmup_steps = shortened(arguments.warmup_steps, kappa)
    options = arguments.lr_scheduler_kwargs
    if isinstance(options, dict):
        counts = {name for name in options if name.endswith("_steps") or name == "timescale"}
        changed.lr_scheduler_kwargs = {n: shortened(v, kappa) if n in counts else v for n, v in options.items()}
    return changed


def after_each_step(call: Callable[[int], object]) -> "TrainerCallback":
    """Return a callback for transformers' Trainer that calls ``call(step)`` after each optimizer step."""
    from transformers import TrainerCallback  # an optional dependency, slow to import

    class _Callback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            call(state.global_step)

    return _Callback()
