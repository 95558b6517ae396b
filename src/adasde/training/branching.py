"""Start a run from the state of another in mid-training, at another batch size."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adasde.common import MALFORMED, InputError
from adasde.scaling import optimizers
from adasde.scaling.rescale import rescale_alone
from adasde.training.checkpoint import UnusableCheckpoint, read_checkpoint
from adasde.training.run import Run, RunSpec
from adasde.training.sampling import Sampler


def read_state(path: Path) -> dict[str, Any]:
    """Return the state in a file, as `read_checkpoint` does. InputError unless it is whole and of this version."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file")
    try:
        return read_checkpoint(path)
    except UnusableCheckpoint as error:
        raise InputError(f"{error}; delete it, and make it again") from error


def branch_off(run: Run, parent: RunSpec, state: Mapping[str, Any]) -> None:
    """Put a new run where its parent was: weights, buffers, and the optimizer's state at the run's own batch size.

    The optimizer's state is what `adasde.rescale` makes of the parent's: first for the branch's baseline under the
    square-root rule, and then for the rule and kappa of the run. Of examples that come without replacement, the run
    takes those that the parent has not seen.

    Args:
        run: The run, which has not begun.
        parent: The parent's spec.
        state: The parent's state at the branch point, as `read_state` returns it.

    Raises:
        InputError: If the state is of another run or time, or if the parent has diverged.
    """
    spec = run.spec
    try:
        _refuse_another(spec, parent, state)
        run.model.load_state_dict(state["model"])
        if spec.second_moment != "fresh":
            _carry_over(run, parent, state["optimizer"])
        if spec.sampling == "epoch":
            seen = Sampler(run.workload, spec.sampling, parent.stream)
            seen.restore(state["draws"])
            run.sampler = Sampler(run.workload, spec.sampling, spec.stream, seen.rest)
    except (InputError, torch.OutOfMemoryError):
        raise
    except (*MALFORMED, RuntimeError) as error:
        raise InputError(
            f"{spec.run}: branches from {spec.parent.run}, whose file holds other states than that run has; delete it, "
            "and make it again"
        ) from error


def _refuse_another(spec: RunSpec, parent: RunSpec, state: Mapping[str, Any]) -> None:
    if json.loads(state["spec"]) != json.loads(parent.canonical) or parent.hash != spec.parent.spec_hash:
        raise InputError(f"{spec.run}: branches from {spec.parent.run}, and the state is another run's")
    if state["step"] * parent.batch_size != spec.parent.samples:
        raise InputError(f"{spec.run}: branches at {spec.parent.samples} samples, and the state is of another time")
    if state["diverged"]:
        raise InputError(f"{spec.run}: its parent, {spec.parent.run}, has diverged; nothing can branch from it")


def _carry_over(run: Run, parent: RunSpec, saved: Mapping[str, Any]) -> None:
    """Give the run's optimizer the state ``saved`` of its parent's, rescaled."""
    spec = run.spec
    before = optimizers.build(run.trained, parent.optimizer.hyperparameters, parent.optimizer.variant)
    before.load_state_dict(copy.deepcopy(saved))  # torch would take its tensors, which are changed in place below
    before = optimizers.as_torch(before)
    size = round(spec.batch_size / spec.kappa)  # of the branch's baseline
    rescale_alone(before, size / parent.batch_size)
    if spec.micro_batches is None:  # Adam on micro-batches has the state of the baseline
        change = (spec.kappa, spec.rule) if spec.ell == 1 else (spec.ell**-2.0, "sqrt")
        rescale_alone(before, *change, second_moment=spec.second_moment)
    after = optimizers.as_torch(run.optimizer)
    for parameter in run.trained:
        for name, value in before.state[parameter].items():
            own = after.state[parameter].get(name)
            if isinstance(own, torch.Tensor):
                own.copy_(value)
            else:
                after.state[parameter][name] = value
