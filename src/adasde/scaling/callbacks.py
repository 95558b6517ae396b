"""For transformers' Trainer and Lightning's: arguments at another batch size, and callbacks that log the noise."""

import contextlib
import copy
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from adasde.common import InputError
from adasde.scaling.micro_batches import MicroBatchNoise
from adasde.scaling.noise_report import NoiseReport
from adasde.scaling.recipe_files import recognised
from adasde.scaling.rules import ScalingWarning, rule_named

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainingArguments

_Make = Callable[[torch.optim.Optimizer], NoiseReport]
_LIGHTNINGS = ("lightning.pytorch", "pytorch_lightning")


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


class NoiseCallback:
    """What `trainer_callback` and `lightning_callback` return: it measures the gradient's noise and logs it.

    Whenever the history has got a new row, the trainer's loggers get ``gradient_noise_scale``, ``critical_batch`` and
    ``largest_kappa``, those of them that are known by then.

    Attributes:
        noise: What was measured, with all methods of `MicroBatchNoise`, or the monitor; None before the training.
    """

    noise: Any = None

    def __init__(self, monitor: _Make | None, every: int) -> None:
        self._monitor, self._every, self._logged = monitor, every, 0
        self._options: dict[str, Any] = {}
        self._optimizer: Any = None

    def _begin(self, optimizer: Any, micro_batches: int, scaler: Any, model: Any) -> None:
        """Start anew. Without a monitor, the first micro-batch will say how many examples there are in one."""
        ddp = model if isinstance(model, DistributedDataParallel) else None
        if self._monitor is None and micro_batches < 2 and ddp is None:
            raise InputError(
                "accumulation = 1: the noise is measured from 2 or more micro-batches per step; halve the batch and "
                "accumulate 2, or give a function of the optimizer that returns a NoiseMonitor as monitor"
            )
        self._optimizer, self._options, self._logged = optimizer, {"scaler": scaler, "ddp": ddp}, 0
        self.noise = None if self._monitor is None else self._monitor(optimizer)

    def _before_pass(self, batch: Any) -> None:
        """Take note of the micro-batch that comes next. DDP's gradients are seen from the first backward pass on."""
        if self._monitor is None:
            self.noise = self.noise or TrainerNoise(self._optimizer, _rows(batch), self._every, **self._options)
            self.noise.whole &= _rows(batch) == self.noise.micro_batch_size

    def _after_pass(self) -> None:
        if self._monitor is None:
            self.noise.accumulate()

    def _before_step(self, micro_batches: int) -> None:
        if isinstance(self.noise, TrainerNoise):
            self.noise.end_step(micro_batches)

    def _after_step(self, step: int) -> dict[str, float]:
        """Return what is to be logged after an optimizer step; nothing if nothing is new."""
        if self._monitor is not None:
            self.noise(step)
        if self.noise is None or len(self.noise.history) == self._logged:
            return {}
        self._logged = len(self.noise.history)
        row = self.noise.history[-1]
        values = {name: row[name] for name in ("gradient_noise_scale", "critical_batch")}
        with contextlib.suppress(InputError):  # the first row of a monitor is that before the training
            values["largest_kappa"] = self.noise.largest_kappa()
        return {name: value for name, value in values.items() if math.isfinite(value)}


class TrainerNoise(MicroBatchNoise):
    """Noise whose steps the trainer ends: Lightning computes the last micro-batch within the optimizer's step."""

    whole = True  # whether all micro-batches of this step have had their full number of examples

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._hooks.pop(0).remove()

    def end_step(self, micro_batches: int) -> None:
        """End the step. One that is not of so many whole micro-batches, at the end of an epoch, is left out."""
        if self._spoiled:
            self._skip()  # and so will the scaler
        elif self.whole and self._count == micro_batches * self._ranks:
            self._end_step()
        self._count, self.whole = 0, True


def trainer_callback(trainer: "Trainer", monitor: _Make | None = None, every: int = 16) -> NoiseCallback:
    """Return a callback that measures the gradient's noise in transformers' Trainer, and sends it to its loggers.

    By default it measures the micro-batches of gradient accumulation and the ranks of DDP, see `MicroBatchNoise`.
    What it logs is in ``trainer.state.log_history``, and goes wherever ``report_to`` says. ::

        callback = adasde.trainer_callback(trainer)
        trainer.add_callback(callback)
        trainer.train()
        callback.noise.critical_batch()

    Args:
        trainer: The Trainer. While it trains, the callback stands around its ``training_step``, because Trainer clips
            gradients before it calls any callback.
        monitor: For training without accumulation, a function of the optimizer that returns a `NoiseMonitor`; default
            none.
        every: Optimizer steps per measured step, at least 1; default 16. Of ten measured steps one is logged.

    Returns:
        The callback, whose ``noise`` is what was measured.

    Raises:
        InputError: When the training starts, if each step has one micro-batch only and there is no monitor.

    Source: ours.
    """
    return _for_trainer(_TrainerHooks)(trainer, monitor, every)


class _TrainerHooks(NoiseCallback):
    """The hooks of transformers' TrainerCallback."""

    def __init__(self, trainer: Any, monitor: _Make | None, every: int) -> None:
        super().__init__(monitor, every)
        self._trainer, self._training_step = trainer, trainer.training_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        self._begin(
            kwargs["optimizer"], args.gradient_accumulation_steps, trainer.accelerator.scaler, trainer.model_wrapped
        )
        trainer.training_step = self._step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before_step(args.gradient_accumulation_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        values = self._after_step(state.global_step)
        if values:
            due = control.should_log
            self._trainer.log(values)
            control.should_log = due  # the Trainer takes what was logged for its own log of this step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.training_step = self._training_step

    def _step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._before_pass(inputs)
        loss = self._training_step(model, inputs, *args, **kwargs)
        self._after_pass()
        return loss


def lightning_callback(monitor: _Make | None = None, every: int = 16) -> NoiseCallback:
    """Return a callback that measures the gradient's noise in Lightning's Trainer, and sends it to its loggers.

    By default it measures the micro-batches of ``accumulate_grad_batches`` and the ranks of DDP, see
    `MicroBatchNoise`. Import Lightning, ``lightning.pytorch`` or ``pytorch_lightning``, before. ::

        callback = adasde.lightning_callback()
        lightning.Trainer(accumulate_grad_batches=4, callbacks=[callback]).fit(module, loader)
        callback.noise.critical_batch()

    Args:
        monitor: For training without accumulation, a function of the optimizer that returns a `NoiseMonitor`; default
            none.
        every: Optimizer steps per measured step, at least 1; default 16. Of ten measured steps one is logged.

    Returns:
        The callback, whose ``noise`` is what was measured.

    Raises:
        InputError: If Lightning was not imported; when the training starts, if each step has one micro-batch only and
            there is no monitor, or if there are several optimizers.

    Source: ours.
    """
    name = next((name for name in _LIGHTNINGS if name in sys.modules), None)
    if name is None:
        raise InputError(f"lightning: import {' or '.join(_LIGHTNINGS)} first, the one whose Trainer trains")
    parent: Any = import_module(name).Callback

    class _Callback(_LightningHooks, parent):
        """The callback, of the class that Lightning asks for."""

    return _Callback(monitor, every)


class _LightningHooks(NoiseCallback):
    """The hooks of Lightning's Callback."""

    _steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise InputError(f"optimizers = {len(trainer.optimizers)}: the noise is measured of one")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._begin(trainer.optimizers[0], trainer.accumulate_grad_batches, scaler, trainer.strategy.model)
        self._steps = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._before_pass(batch)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._after_pass()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._before_step(trainer.accumulate_grad_batches)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        values = self._after_step(self._steps)
        if values:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=self._steps)


def _rows(batch: Any) -> int:
    """Return the number of examples in a batch, the rows of its first tensor, or raise InputError."""
    parts = [batch]
    while parts:
        part = parts.pop(0)
        if isinstance(part, torch.Tensor) and part.ndim:
            return len(part)
        parts[:0] = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    raise InputError(f"batch = {type(batch).__name__}: holds no tensor, so its number of examples is not known")


def after_each_step(call: Callable[[int], object]) -> "TrainerCallback":
    """Return a callback for transformers' Trainer that calls ``call(step)`` after each optimizer step."""
    return _for_trainer(_AfterStep)(call)


class _AfterStep:
    def __init__(self, call: Callable[[int], object]) -> None:
        self._call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call(state.global_step)


def _for_trainer(hooks: type) -> Any:
    """Return a class with these hooks, of the class that Trainer asks for."""
    from transformers import TrainerCallback  # an optional dependency, slow to import

    return type(hooks.__name__, (hooks, TrainerCallback), {})
