"""Learning-rate schedulers: which hold an optimizer's rates, and how these rates follow a change of batch size.

A scheduler writes its rates into the optimizer at every step. One that kept the old rates would silently undo the rule.
So `rescale` changes the rates of those that it is given, and refuses to leave out or to guess at any other. Counts of
steps, such as the length of a warm-up, stay.
"""

import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from adasde.common import InputError

RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")  # of a group; all but the first come from a scheduler
MOMENTA = ("base_momentum", "max_momentum")  # between which some schedulers move beta1, in a group
# What schedulers hold: lists of rates, single rates, lists of momenta.
_LISTS = ("base_lrs", "min_lrs", "max_lrs", "_last_lr", "base_values", "restore_lr")
_SINGLE = ("eta_min", "lr_min", "warmup_lr_init", "default_min_lr")
_MOMENTA = ("base_momentums", "max_momentums")
_TORCH = ("torch.optim.lr_scheduler", "torch.optim.swa_utils")


def schedulers_of(optimizer: torch.optim.Optimizer, given: Any) -> list[Any]:
    """Return the schedulers to change: those in ``given``, each once, down to those that hold rates.

    Args:
        optimizer: The optimizer that is rescaled.
        given: A scheduler of torch, transformers, timm or accelerate, a list of them, or a dictionary with one under
            ``scheduler``, as Lightning has it; None for none.

    Raises:
        InputError: If they nest without end, if one is of an unknown kind or belongs to another optimizer, or if
            another one that exists holds rates of this optimizer.
    """
    try:
        found = {id(scheduler): scheduler for scheduler in _flat(given)}
    except RecursionError as error:
        raise InputError("scheduler: nests without end") from error
    for scheduler in found.values():
        if unwrapped(scheduler.optimizer) is not optimizer:
            raise InputError(f"scheduler = {type(scheduler).__name__}: belongs to another optimizer")
    for scheduler in _attached(optimizer):
        if id(scheduler) not in found:
            raise InputError(
                f"scheduler: a {type(scheduler).__name__} holds rates of this optimizer, and would put them back; "
                "give it as well, or delete it"
            )
    return list(found.values())


def scale_rates(scheduler: Any, factor: float, beta1_of: Callable[[float], float]) -> None:
    """Multiply the rates that ``scheduler`` holds by ``factor``, and put its momenta through ``beta1_of``."""
    for name in _LISTS:
        if getattr(scheduler, name, None) is not None:
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    for name in _SINGLE:
        rate = getattr(scheduler, name, None)
        if rate is not None and math.isfinite(rate):
            setattr(scheduler, name, rate * factor)
    if getattr(scheduler, "warmup_t", 0):  # timm's warm-up: rates per step
        scheduler.warmup_steps = [rate * factor for rate in scheduler.warmup_steps]
    for name in _MOMENTA:
        if hasattr(scheduler, name):
            setattr(scheduler, name, [beta1_of(momentum) for momentum in getattr(scheduler, name)])


def momenta_of(scheduler: Any) -> list[float]:
    """Return the momenta that ``scheduler`` holds."""
    return [momentum for name in _MOMENTA for momentum in getattr(scheduler, name, ())]


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer within those of accelerate and Lightning."""
    while type(optimizer).__module__.partition(".")[0] in ("accelerate", "lightning", "pytorch_lightning"):
        optimizer = optimizer.optimizer
    return optimizer


def _flat(given: Any) -> Iterator[Any]:
    """Yield all schedulers in what a user gives as one."""
    name, module = type(given).__name__, type(given).__module__
    if given is None:
        return
    if isinstance(given, list | tuple):
        for part in given:
            yield from _flat(part)
    elif isinstance(given, dict) and "scheduler" in given:
        yield from _flat(given["scheduler"])
    elif module == "accelerate.scheduler":
        yield from _flat(given.scheduler)
    elif module in _TORCH or module.startswith("timm.scheduler."):
        yield given
        yield from _flat(getattr(given, "_schedulers", None))
        yield from _flat(getattr(given, "lr_scheduler", None))  # timm's, on a plateau
    else:
        raise InputError(
            f"scheduler = {name}: must be a scheduler of torch, transformers, timm or accelerate, or a list of them; "
            "make another kind anew after the rescaling"
        )


def _attached(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    """Yield every scheduler in this process that holds rates of ``optimizer``.

    An optimizer does not know its schedulers, and the keys that they leave in it also come back from a checkpoint.
    """
    gc.collect()  # those that are out of use may wait for it
    for found in gc.get_objects():
        if hasattr(type(found), "step") and not isinstance(found, torch.optim.Optimizer):
            own = getattr(found, "__dict__", {})
            holds = isinstance(found, LRScheduler) or any(name in own for name in _LISTS)
            if holds and "_schedulers" not in own and unwrapped(own.get("optimizer")) is optimizer:
                yield found
