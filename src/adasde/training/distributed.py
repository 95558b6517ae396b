"""Several processes that share a run, one per GPU, as torchrun starts them on one machine or on many.

Each takes an equal share of every minibatch. What is drawn (examples, masks, crops) is drawn alike by all for the whole
minibatch, so the run is that of a single process up to rounding; dropout alone is drawn by each for its own share.
"""

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from adasde.common import InputError


def world_size() -> int:
    """Number of processes that share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(spec):
    """Join the processes of a run, and yield the device that this one computes on; leave them at the end.

    InputError if torchrun has started another number of them than the spec wants, or the device is not here.
    """
    wanted, here = spec.get("processes", 1), int(os.environ.get("WORLD_SIZE", 1))
    if here != wanted:
        raise InputError(
            f"processes = {wanted}: torchrun started {here}; "
            f"start it by `torchrun --nproc-per-node {wanted} -m adasde run ...`, or over several machines by --nnodes"
            if wanted > 1
            else f"processes = 1: torchrun started {here}; start it by `adasde run ...` alone"
        )
    device = _device(spec.get("device", "cpu"), int(os.environ.get("LOCAL_RANK", 0)))
    if wanted == 1:
        yield device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _device(kind, number):
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device = 'cuda': torch finds no GPU here; the scales smoke and mini need none")
    if number >= torch.cuda.device_count():
        raise InputError(f"processes: the {number + 1}th on this machine has no GPU, of {torch.cuda.device_count()}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def shard(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Return this process's part of each minibatch of ``size`` that ``batch`` (minibatches * size, ...) holds."""
    if world_size() == 1:
        return batch
    part = size // world_size()
    minibatches = batch.view(-1, size, *batch.shape[1:])
    return minibatches[:, rank() * part : (rank() + 1) * part].flatten(0, 1)


def data_parallel(module: nn.Module) -> nn.Module:
    """Return ``module``, its gradients averaged over the processes if there are several."""
    if world_size() == 1:
        return module
    # Buffers are batch norm's running statistics, which are kept equal below and not overwritten by the first process.
    return DistributedDataParallel(module, forward_sync_buffers=False)


def any_rank(*flags: bool) -> list[bool]:
    """Return for every flag whether it is set in any of the processes."""
    if world_size() == 1:
        return list(flags)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``values`` over the processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def broadcast(make):
    """Return what ``make()`` returns in the first process, where alone it is called."""
    if world_size() == 1:
        return make()
    held = [make() if rank() == 0 else None]
    dist.broadcast_object_list(held)
    return held[0]


def all_gather(value) -> list:
    """Return every process's ``value``, in order."""
    if world_size() == 1:
        return [value]
    held = [None] * world_size()
    dist.all_gather_object(held, value)
    return held


def barrier():
    """Return once all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def synchronise_batch_norm(model: nn.Module):
    """Let every batch norm of ``model`` take its statistics over the shares of all processes: the whole minibatch's."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = _WholeBatchNorm(module)


class _Sum(torch.autograd.Function):
    """Sum over all processes, of a tensor and of its gradient."""

    @staticmethod
    def forward(context, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(context, gradient):
        return _Sum.apply(gradient)


class _WholeBatchNorm:
    """Batch norm over all processes; torch's SyncBatchNorm is the same and needs GPUs."""

    def __init__(self, norm):
        self.norm, self.alone = norm, norm.forward

    def __call__(self, x):
        norm = self.norm
        if not norm.training:
            return self.alone(x)
        over = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        # Shares are of equal size. The mean first: a mean of squares less its square would cancel.
        all_reduce_mean = _Sum.apply(x.float().mean(over)) / world_size()
        variance = _Sum.apply((x.float() - all_reduce_mean.view(shape)).square().mean(over)) / world_size()
        if norm.track_running_stats:
            examples = world_size() * x.numel() / x.shape[1]
            with torch.no_grad():
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(all_reduce_mean, norm.momentum)
                norm.running_var.lerp_(variance * examples / (examples - 1), norm.momentum)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return (x * scale.view(shape) + (norm.bias - all_reduce_mean * scale).view(shape)).to(x.dtype)


class RunningStatistics:
    """Batch norm's running statistics where each process has normalised micro-batches of its own.

    They become those of one process that saw all micro-batches one after another. After n of them they are
    (1 - momentum)^n times what they were, plus a sum of which every process holds its part.
    """

    def __init__(self, model):
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self.before = None

    def keep(self):
        """Note the statistics before a step."""
        self.before = [buffer.clone() for norm in self.norms for buffer in (norm.running_mean, norm.running_var)]

    @torch.no_grad()
    def combine(self, passes: int):
        """Put together what every process added in ``passes`` forward passes of its own, the first process's first."""
        if not self.norms:
            return
        buffers = [(norm.momentum, b) for norm in self.norms for b in (norm.running_mean, norm.running_var)]
        later = passes * (world_size() - 1 - rank())  # passes that come after this process's
        parts = [
            (buffer - (1 - momentum) ** passes * before) * (1 - momentum) ** later
            for (momentum, buffer), before in zip(buffers, self.before, strict=True)
        ]
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        sums = flat.split([len(part) for part in parts])
        for (momentum, buffer), before, part in zip(buffers, self.before, sums, strict=True):
            buffer.copy_((1 - momentum) ** (passes * world_size()) * before + part)
        for norm in self.norms:
            norm.num_batches_tracked += passes * (world_size() - 1)
