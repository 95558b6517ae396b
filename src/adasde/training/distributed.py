"""Several processes that share a run, one per GPU, as torchrun or Slurm's srun starts them on one machine or on many.

Each process takes an equal shard of every minibatch. All processes draw the same examples, masks and crops of the whole
minibatch, so the run is that of a single process up to rounding. Only dropout differs: each process has its own.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from adasde.common import InputError
from adasde.workloads.norms import batch_norm
from adasde.workloads.profiles import check_norm


def world_size() -> int:
    """Return the number of processes that share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(processes: int = 1, device: str = "cpu") -> Iterator[torch.device]:
    """Join the processes of a run, and yield the device that this one computes on; leave them at the end.

    Raises InputError if torchrun or srun has started another number of processes, or the device is missing.
    """
    _take_slurm_variables()
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != processes:
        raise InputError(
            f"processes = {processes}: torchrun or srun started {started}; start it by "
            f"`torchrun --nproc-per-node {processes} -m adasde run ...`, or over several machines by --nnodes or srun"
            if processes > 1
            else f"processes = 1: torchrun or srun started {started}; start it by `adasde run ...` alone"
        )
    own = _device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if processes == 1:
        yield own
        return
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield own
    finally:
        dist.destroy_process_group()


def _take_slurm_variables() -> None:
    """Give torch the variables of srun, if that has started this process beside others, and torchrun has not.

    They meet at the first node of the step. MASTER_ADDR and MASTER_PORT go before it if they are set.
    """
    environment = os.environ
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return
    for name, theirs in (("RANK", "PROCID"), ("LOCAL_RANK", "LOCALID"), ("WORLD_SIZE", "STEP_NUM_TASKS")):
        environment[name] = environment[f"SLURM_{theirs}"]
    # In Slurm's short form, such as gpu[07-09,12],big1: the first of the nodes.
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", environment["SLURM_STEP_NODELIST"]).partition(",")[0]
    environment.setdefault("MASTER_ADDR", first)
    environment.setdefault("MASTER_PORT", str(20_000 + int(environment["SLURM_JOB_ID"]) % 10_000))


def _device(kind: str, number: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device = 'cuda': torch finds no GPU here; the scales smoke and mini need none")
    if number >= torch.cuda.device_count():
        raise InputError(f"processes: the {number + 1}th on this machine has no GPU, of {torch.cuda.device_count()}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def shard(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Return this process's part of each minibatch of ``size`` in ``batch``, of shape (minibatches * size, ...)."""
    if world_size() == 1:
        return batch
    part = size // world_size()
    minibatches = batch.view(-1, size, *batch.shape[1:])
    return minibatches[:, rank() * part : (rank() + 1) * part].flatten(0, 1)


def data_parallel(module: nn.Module) -> nn.Module:
    """Return ``module``, with its gradients averaged over the processes if there are several."""
    if world_size() == 1:
        return module
    # Buffers are batch norm's running statistics. All processes have the same ones already.
    return DistributedDataParallel(module, forward_sync_buffers=False)


def all_gather(value: Any) -> list[Any]:
    """Return every process's ``value``, in order."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_rank(*flags: bool) -> list[bool]:
    """Return for every flag whether it is set in any of the processes."""
    return [any(column) for column in zip(*all_gather(flags), strict=True)]


def broadcast(make: Callable[[], Any]) -> Any:
    """Call ``make()`` in the first process only, and return its result in all of them."""
    return all_gather(make() if rank() == 0 else None)[0]


def barrier() -> None:
    """Wait until all processes have come here."""
    all_gather(None)


def synchronise_batch_norm(model: nn.Module, micro_batch: int | None) -> nn.Module:
    """Return ``model`` with every batch norm taking its statistics over the whole minibatch, of all processes.

    Raises InputError if the minibatch is cut into micro-batches: each process would have its own running statistics.
    So does a batch norm that is not torch's own, such as timm's with an activation in it, which would be lost.
    """
    check_norm(batch_norm(model), world_size(), micro_batch)
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # SyncBatchNorm needs GPUs.
    for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
        norm.forward = partial(_whole_batch_norm, norm, norm.forward)
    return model


def _whole_batch_norm(
    norm: _BatchNorm, forward: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor
) -> torch.Tensor:
    """Batch norm of ``input`` over all processes, whose shards are of equal size."""
    if not norm.training:
        return forward(input)
    over = [0, *range(2, input.dim())]
    shape = (1, -1, *[1] * (input.dim() - 2))
    # The mean first: a mean of squares minus the squared mean would cancel.
    mean = _mean_over_processes(input.float().mean(over))
    variance = _mean_over_processes((input.float() - mean.view(shape)).square().mean(over))
    if norm.track_running_stats:
        examples = world_size() * input.numel() / input.shape[1]
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * examples / (examples - 1), norm.momentum)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (input * scale.view(shape) + (norm.bias - mean * scale).view(shape)).to(input.dtype)


def _mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of the processes' tensors, through which gradients flow."""
    with warnings.catch_warnings():
        # Torch deprecates its public all-reduce with a gradient, but offers no public successor.
        warnings.filterwarnings("ignore", "torch.distributed.nn.functional.all_reduce is deprecated", FutureWarning)
        return all_reduce(tensor) / world_size()
