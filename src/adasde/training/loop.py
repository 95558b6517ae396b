"""The training loop: steps, evaluation, checkpoints, progress and stopping."""

import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import torch

from adasde.common import InputError, Stopped, peak_memory
from adasde.scaling.clock import step_count
from adasde.training import distributed
from adasde.training.checkpoint import UnusableCheckpoint, write_weights
from adasde.training.run import CHUNK, Row, Run, RunSpec
from adasde.workloads.base import Workload

log = logging.getLogger(__name__)


def train(
    spec: RunSpec,
    workload: Workload,
    checkpoint: Path | None = None,
    every: float = 10.0,
    report: Callable[[int, int], None] | None = None,
    weights: Path | None = None,
    stopping: Callable[[], bool] = bool,
    start: dict[str, float] | None = None,
    begin: Callable[[Run], None] | None = None,
    earlier: Path | None = None,
    until: tuple[int, Path] | None = None,
) -> tuple[list[Row], dict[str, float | None]]:
    """Train one run; return its rows and facts about the job: seconds, and peak memory in bytes or None.

    An interrupted and resumed run has the rows of an undisturbed one, bit for bit on a CPU. Divergence is a row, not an
    exception. Of several processes that share the run, only the first writes files.

    Args:
        spec: What to train.
        workload: What it is trained on.
        checkpoint: File from which the run continues, if it exists, and to which it is saved. The caller deletes it
            once the rows are safe.
        every: Seconds between two of these.
        report: Called as ``report(step, steps)`` while the run advances.
        weights: File for the final weights.
        stopping: Once it returns True, the run is saved and ends with Stopped.
        start: Metrics at the start, if a run that shares it has measured them.
        begin: Called with the new run, to put it into another state than the usual one.
        earlier: File of a state of this run, from which it continues if it has no checkpoint. One from which it cannot
            continue is left aside, with a warning, as such a checkpoint is.
        until: The run ends after so many samples, and its state goes to the file; by default it comes to its end.
    """
    if spec.batch_size > workload.size:
        raise InputError(f"batch_size = {spec.batch_size}: larger than the {workload.size} training examples")
    end, state = until or (spec.samples, None)
    marks = sorted({*spec.evaluate, end})
    stops = [step_count(samples, spec.batch_size, spec.ell) for samples in marks if samples <= end]
    saves = [path for path in (checkpoint, earlier) if path is not None and Path(path).exists()]
    with torch.random.fork_rng(), closing(_begun(spec, workload, begin, saves)) as run:
        saved = time.monotonic()
        begun = saved - run.seconds
        if not run.rows:
            run.measure(start)
        while run.step < stops[-1] and not run.diverged:
            stop = next(s for s in stops if s > run.step)
            run.advance(min(max(1, CHUNK // run.drawn), stop - run.step))
            if run.step == stop and run.samples in spec.evaluate and not run.diverged:
                run.measure()
            now = time.monotonic()
            run.seconds = now - begun
            due, asked = distributed.any_rank(now - saved >= every and distributed.rank() == 0, stopping())
            if checkpoint is not None and (due or asked):
                run.save(checkpoint)
                saved = time.monotonic()
            if asked:
                raise Stopped(f"{spec.run}: asked to stop at step {run.step}")
            if report is not None:
                report(run.step, stops[-1])
        if state is not None:
            _save_healthy(run, state)
        if weights is not None and distributed.rank() == 0:
            write_weights(weights, run.model.state_dict(), spec.hash)
    peak = torch.cuda.max_memory_allocated(workload.device) if workload.device.type == "cuda" else peak_memory()
    return run.rows, {"seconds": run.seconds, "peak_bytes": peak}


def _begun(spec: RunSpec, workload: Workload, begin: Callable[[Run], None] | None, saves: Sequence[Path]) -> Run:
    """Return the run as the first of ``saves`` holds it, from which it can go on, or else as it begins."""
    run = Run(spec, workload)
    if begin is not None:
        begin(run)
    if not saves:
        return run
    try:
        run.restore(saves[0])
        return run
    except UnusableCheckpoint as error:
        log.warning("%s, starting from %s", error, saves[1] if len(saves) > 1 else "the beginning")
        run.close()
        return _begun(spec, workload, begin, saves[1:])


def _save_healthy(run: Run, path: Path) -> None:
    if run.diverged:
        raise InputError(f"{run.spec.run}: diverged after {run.samples} samples; nothing can branch from it")
    run.save(path)


def prepare_torch(device: torch.device, precision: str) -> None:
    """Set the precision of torch's matrix products, and let a GPU choose its fastest convolutions."""
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = device.type == "cuda"


def keep_memory() -> None:
    """Keep freed blocks below 32 MiB in the process instead of returning them to the kernel after every step.

    Minibatches of 128 images and more run up to 1.5 times as fast. Only glibc has this; elsewhere nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
