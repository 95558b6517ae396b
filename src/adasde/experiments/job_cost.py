"""What a job asks a cluster for: time, memory, cores, nodes and GPUs, from the cost of its runs."""

import math
from collections.abc import Sequence

from adasde.common import InputError
from adasde.experiments.cost import DEVICES, PROCESS, START, cost_of
from adasde.experiments.specs import AnySpec, Trained
from adasde.workloads.registry import workload_named

WORKER = 0.2e9  # bytes of a process that decodes images, without what it shares with the others (measured)


def job_seconds(specs: Sequence[AnySpec], device: str | None = None) -> float:
    """Seconds that a job of these runs should take on ``device``, as for `cost_of`, without any reserve."""
    return START[specs[0].kind] + sum(cost_of(spec, device).seconds for spec in specs)


def job_memory(specs: Sequence[AnySpec], nodes: int = 1) -> int:
    """Megabytes of host memory that a job's processes need on each of its ``nodes``, with half as much again."""
    spec, cost = specs[0], max((cost_of(spec) for spec in specs), key=lambda cost: cost.memory)
    unit = DEVICES[cost.device].unit
    each = cost.memory if unit == "core" else PROCESS[unit] + cost.weights
    if isinstance(spec, Trained):
        each += workload_named(spec.workload).workers * WORKER
    return math.ceil(1.5 * (cost.processes / nodes * each + cost.checkpoint) / 1e6)


def job_minutes(specs: Sequence[AnySpec], gpu_model: str | None = None) -> int:
    """Minutes after which a cluster may end a job, and send it again: twice what it should take, and ten.

    ``gpu_model`` is the type of GPU that the job asks for. One that is not in DEVICES counts as the default.
    """
    device = gpu_model if gpu_model in DEVICES and job_gpus(specs[0]) else None
    return math.ceil(10 + 2 * job_seconds(specs, device) / 60)


def job_cores(spec: AnySpec) -> int:
    """Cores that a job of runs like ``spec`` takes: one per process, and those that decode its examples."""
    return spec.processes * (1 + workload_named(spec.workload).workers) if isinstance(spec, Trained) else 1


def job_nodes(spec: AnySpec, most: int | None) -> int:
    """Nodes over which a job's processes go, the same number on each and at most that; one where that is None.

    Raises:
        InputError: If as few nodes as hold the processes cannot share them evenly.
    """
    count = spec.processes
    nodes = math.ceil(count / (most or count))
    if uneven := count % nodes:
        less = count - uneven
        raise InputError(
            f"processes = {count}: cannot be shared evenly by {nodes} nodes of at most {most}; "
            f"take {less} or {less + nodes}"
        )
    return nodes


def job_gpus(spec: AnySpec) -> int:
    """GPUs that a job of runs like ``spec`` takes."""
    return spec.processes if isinstance(spec, Trained) and spec.device == "cuda" else 0
