"""One run: from a spec to the rows of its trajectory, interruptible anywhere and exactly resumable."""

import ctypes
import hashlib
import io
import json
import logging
import resource
import time
from contextlib import suppress
from pathlib import Path

import torch

from . import optim, scaling, svag
from .errors import InputError
from .schedule import Schedule
from .store import atomic, canonical, write_weights

log = logging.getLogger(__name__)

MAGIC = b"adasde checkpoint 1\n"
CHUNK = 2048  # samples gathered and normalised at once: few Python calls, and still in cache


def stream(purpose: str, *numbers) -> int:
    """Seed of the random stream for one purpose; streams of different purposes or numbers are independent."""
    return int.from_bytes(hashlib.sha256(canonical([purpose, *numbers]).encode()).digest()[:8]) >> 1


class Sampler:
    """Indices of training examples: independent draws with replacement, or one permutation after another.

    Permutations follow each other without a gap, so that no example is dropped when the batch size does not
    divide the size of the data, and every batch size sees the same number of samples.
    """

    def __init__(self, size: int, sampling: str, seed: int):
        self.size, self.replacement = size, sampling == "replacement"
        self.generator = torch.Generator().manual_seed(seed)
        self.start, self.order, self.position = None, None, size

    def draw(self, count: int) -> torch.Tensor:
        """Return the next ``count`` indices, int64 of shape (count,)."""
        if self.replacement:
            return torch.randint(self.size, (count,), generator=self.generator)
        parts = []
        while count:
            if self.position == self.size:
                self._permute()
            taken = self.order[self.position : self.position + count]
            parts.append(taken)
            self.position += len(taken)
            count -= len(taken)
        return torch.cat(parts)

    def state(self) -> dict:
        """Return what `restore` needs to go on with the next index."""
        within = self.position < self.size  # within a permutation, which its starting state draws again
        return {"generator": self.start if within else self.generator.get_state(), "position": self.position}

    def restore(self, state: dict):
        """Go back to the point at which ``state`` was taken."""
        self.generator.set_state(state["generator"])
        if state["position"] < self.size:
            self._permute()
        self.position = state["position"]

    def _permute(self):
        self.start = self.generator.get_state()
        self.order = torch.randperm(self.size, generator=self.generator)
        self.position = 0


class Run:
    """The state of one run: model, optimizer, sampler, step, rows so far; it can be saved and restored."""

    def __init__(self, spec: dict, task):
        self.spec, self.task = spec, task
        torch.manual_seed(stream("initial weights", spec["init_seed"]))
        self.model = task.model().train()
        # Batch size, ell and what pre-trained it are in the key: runs that are compared across them share no noise.
        size, ell = spec["batch_size"], spec["ell"]
        keys = (spec["seed"], size, ell, *(spec[key]["run"] for key in spec if key == "parent"))
        torch.manual_seed(stream("model noise", *keys))
        self.sampler = Sampler(task.size, spec["sampling"], stream("data order", *keys))
        self.drawn, self.loss = (size, task.loss) if ell == 1 else (2 * size, svag.Loss(task.loss, ell))
        values = dict(spec["optimizer"])
        variant = values.pop("variant")
        self.hyperparameters = scaling.optimizer(**values)
        self.optimizer = optim.build(self.model.parameters(), self.hyperparameters, variant)
        self.schedule, self.clip = Schedule(**spec["schedule"]), spec.get("clip")
        self.sigma = ell * size**-0.5  # noise scale of the gradient that a step takes
        self.step, self.rows, self.diverged, self.seconds = 0, [], False, 0.0

    def time(self, step: int) -> float:
        """SDE time after ``step`` steps: the sum of the squared learning rates of a run that follows ``sqrt``."""
        return self.spec["horizon"] * self.schedule.elapsed(self._progress(step))

    def advance(self, steps: int):
        """Take ``steps`` optimizer steps on freshly drawn minibatches, and note the first loss that is not finite.

        A step of a plain run draws one minibatch, a step of SVAG two: ``drawn`` samples.
        """
        chunk = self.task.gather(self.sampler.draw(steps * self.drawn))
        losses = []
        for batch in zip(*(tensor.split(self.drawn) for tensor in chunk), strict=True):
            if not self.schedule.constant:
                self._set_learning_rate()
            self.optimizer.zero_grad()
            loss = self.loss(self.model, *batch)
            loss.backward()
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            losses.append(loss.detach())
            self.step += 1
        finite = torch.stack(losses).isfinite()
        if not finite.all():
            first = self.step - steps + int(finite.logical_not().nonzero()[0])
            self._record(first, {"diverged": 1.0})

    def measure(self):
        """Append a row for every test function of the current weights."""
        metrics = self.task.measure(self.model, self.sigma, self.hyperparameters.eps)
        finite = torch.tensor(list(metrics.values())).isfinite().all()
        self._record(self.step, metrics if finite else {"diverged": 1.0})

    def save(self, path):
        """Write a checkpoint: what it is, the digest of the rest, and every state."""
        state = {
            "spec": canonical(self.spec),
            "step": self.step,
            "rows": self.rows,
            "diverged": self.diverged,
            "seconds": self.seconds,
            "sampler": self.sampler.state(),
            "noise": torch.get_rng_state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic(path) as temporary:
            temporary.write_bytes(MAGIC + hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())

    def restore(self, path):
        """Continue from a checkpoint. InputError if it belongs to another spec, naming what differs."""
        content = Path(path).read_bytes()
        start = len(MAGIC) + hashlib.sha256().digest_size
        if not content.startswith(MAGIC):
            raise InputError(f"checkpoint = {path}: holds something else; name another file")
        if hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
            log.warning("%s: damaged checkpoint, starting from the beginning", path)
            return
        state = torch.load(io.BytesIO(content[start:]), weights_only=True)
        _refuse_other_spec(path, json.loads(state["spec"]), self.spec)
        self.step, self.diverged, self.seconds = state["step"], state["diverged"], state["seconds"]
        self.rows = state["rows"]
        self.sampler.restore(state["sampler"])
        torch.set_rng_state(state["noise"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        log.info("%s: resumed at step %d", self.spec["run"], self.step)

    def _progress(self, step):
        return step * self.spec["batch_size"] / (self.spec["ell"] ** 2 * self.spec["samples"])

    def _set_learning_rate(self):
        factor = self.schedule.factor(self._progress(self.step), self._progress(self.step + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.hyperparameters.lr * factor

    def _record(self, step, metrics):
        self.diverged = self.diverged or "diverged" in metrics
        moment = self.time(step)
        self.rows += [(self.spec["run"], step, moment, metric, value) for metric, value in metrics.items()]


def train(spec: dict, task, checkpoint=None, every: float = 10.0, report=None, weights=None):
    """Train ``spec`` on ``task``; return the rows (run, step, time, metric, value) and facts about the job.

    With a ``checkpoint`` path the run continues from there if the file exists, and is saved about every
    ``every`` seconds; the caller deletes the file once the rows are safe. ``report(step, steps)`` is called as
    the run advances. The final weights are written to ``weights``, if that is a path.

    The rows of an interrupted and resumed run equal those of an undisturbed one, bit for bit on a CPU with the
    same number of threads. Divergence is a row, not an exception.
    """
    size = spec["batch_size"]
    if size > task.size:
        raise InputError(f"batch_size = {size}: larger than the {task.size} training examples")
    stops = [scaling.steps(samples, size, spec["ell"]) for samples in spec["evaluate"]]
    with torch.random.fork_rng():
        run = Run(spec, task)
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
            now = time.monotonic()
            run.seconds = before + now - begun
            if checkpoint is not None and now - saved >= every:
                run.save(checkpoint)
                saved = time.monotonic()
            if report is not None:
                report(run.step, stops[-1])
        if weights is not None:
            write_weights(weights, run.model.state_dict(), spec)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return run.rows, {"seconds": run.seconds, "peak_bytes": peak}


def keep_memory():
    """Keep freed blocks below 32 MiB in the process instead of returning them to the kernel after every step.

    Minibatches of 128 images and more run up to 1.5 times as fast. glibc only; elsewhere nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def _refuse_other_spec(path, found, wanted):
    differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if differing:
        field = differing[0]
        raise InputError(
            f"{path}: checkpoint of another spec ({', '.join(differing)} differ; {field} is {found.get(field)} there "
            f"and {wanted.get(field)} here); delete it, or name another file"
        )
