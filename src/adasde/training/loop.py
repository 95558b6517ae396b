"""TO DESCRIBE."""

import ctypes
import resource
import time
from contextlib import closing, suppress
from pathlib import Path

import torch

from adasde.common import InputError, Stopped
from adasde.scaling.clock import step_count
from adasde.training import distributed
from adasde.training.checkpoint import write_weights
from adasde.training.run import CHUNK, Run


def train(spec: dict, task, checkpoint=None, every: float = 10.0, report=None, weights=None, stopping=bool):
    """Train ``spec`` on ``task``; return the rows (run, step, time, metric, value) and facts about the job.

    With a ``checkpoint`` path the run continues from there if the file exists, and is saved about every
    ``every`` seconds; the caller deletes the file once the rows are safe. ``report(step, steps)`` is called as
    the run advances. The final weights are written to ``weights``, if that is a path. Once ``stopping()`` is true the
    run is saved and ends with Stopped. Of several processes the first alone writes.

    The rows of an interrupted and resumed run equal those of an undisturbed one, bit for bit on a CPU with the
    same number of threads. Divergence is a row, not an exception.
    """
    size = spec["batch_size"]
    if size > task.size:
        raise InputError(f"batch_size = {size}: larger than the {task.size} training examples")
    stops = [step_count(samples, size, spec["ell"]) for samples in spec["evaluate"]]
    with torch.random.fork_rng(), closing(Run(spec, task)) as run:
        if checkpoint is not None and Path(checkpoint).exists():
            run.restore(checkpoint)
        begun = saved = time.monotonic()
        before = run.seconds
        if not run.rows:
            run.measure()  # the start, which all runs of an experiment share
        while run.step < stops[-1] and not run.diverged:
            stop = next(s for s in stops if s > run.step)
            run.advance(min(max(1, CHUNK // run.drawn), stop - run.step))
            if run.step == stop and not run.diverged:
                run.measure()
            run.seconds = before + time.monotonic() - begun
            due = checkpoint is not None and time.monotonic() - saved >= every
            due, stop = distributed.any_rank(due and distributed.rank() == 0, stopping())
            if checkpoint is not None and (due or stop):
                run.save(checkpoint)
                saved = time.monotonic()
            if stop:
                raise Stopped(f"{spec['run']}: asked to stop at step {run.step}")
            if report is not None:
                report(run.step, stops[-1])
        if weights is not None and distributed.rank() == 0:
            write_weights(weights, run.model.state_dict(), spec)
    if task.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(task.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return run.rows, {"seconds": run.seconds, "peak_bytes": peak}


def prepare_torch(device, spec):
    """Set torch up for a run: the precision of its products, and the fastest algorithms on a GPU."""
    tf32 = spec.get("precision") == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = device.type == "cuda"


def keep_memory():
    """Keep freed blocks below 32 MiB in the process instead of returning them to the kernel after every step.

    Minibatches of 128 images and more run up to 1.5 times as fast. glibc only; elsewhere nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
