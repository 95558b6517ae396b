"""TO DESCRIBE."""

import copy

from adasde.common import InputError
from adasde.scaling.clock import shortened
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.rules import rule_named, scaled_batch_size


def rescale_arguments(arguments, kappa: float, rule: str = "sqrt"):
    """Return a copy of transformers' TrainingArguments for a batch ``kappa`` times as large.

    The batch grows by ``gradient_accumulation_steps``, so memory does not. Learning rate, betas, epsilon, the decoupled
    weight decay, clipping, warm-up and the length in steps follow; lengths in epochs and in shares of the run stay.
    InputError for optimizers other than AdamW.
    """
    kind = str(getattr(arguments.optim, "value", arguments.optim))
    if not kind.startswith("adamw"):
        raise InputError(f"optim = {kind!r}: must be one of transformers' adamw")
    whole = scaled_batch_size(arguments.gradient_accumulation_steps, kappa)
    old = AdamHyperparameters(
        arguments.learning_rate,
        arguments.adam_beta1,
        arguments.adam_beta2,
        arguments.adam_epsilon,
        arguments.weight_decay,
        decoupled=True,
    )
    new, powers, changed = old.scaled(kappa, rule), rule_named(rule), copy.copy(arguments)
    changed.gradient_accumulation_steps = whole
    changed.learning_rate, changed.adam_beta1, changed.adam_beta2 = new.lr, new.beta1, new.beta2
    changed.adam_epsilon, changed.weight_decay = new.eps, new.weight_decay
    if arguments.max_grad_norm:
        changed.max_grad_norm = arguments.max_grad_norm * kappa**powers.clip
    if arguments.max_steps > 0:
        changed.max_steps = shortened(arguments.max_steps, kappa)
    if arguments.warmup_steps >= 1:  # below 1 it is a share of the run
        changed.warmup_steps = shortened(arguments.warmup_steps, kappa)
    options = arguments.lr_scheduler_kwargs
    if isinstance(options, dict):
        counts = {name for name in options if name.endswith("_steps") or name == "timescale"}
        changed.lr_scheduler_kwargs = {n: shortened(v, kappa) if n in counts else v for n, v in options.items()}
    return changed
