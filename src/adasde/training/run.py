"""One run: from a spec to the rows of its trajectory, interruptible anywhere and exactly resumable."""

import json
import logging
from contextlib import nullcontext, suppress

import torch

from adasde.common import InputError, canonical
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import hyperparameters_named
from adasde.scaling.svag import SVAGLoss, coefficients
from adasde.training import distributed
from adasde.training.checkpoint import read_checkpoint, write_checkpoint
from adasde.training.sampling import Draws, Prefetcher
from adasde.training.schedule import Schedule
from adasde.training.seeding import derive_seed, noise_state, restore_noise

log = logging.getLogger(__name__)

CHUNK = 2048  # samples gathered and normalised at once: few Python calls, and still in cache


class Objective(torch.nn.Module):
    """A task's loss, or that of SVAG, as a module: what wraps modules sees every pass through the model."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch):
        """Return the loss of ``batch``, a scalar."""
        return self.loss(self.model, *batch)


class Run:
    """The state of one run: model, optimizer, draws, step, rows so far; it can be saved and restored.

    A step makes one forward and backward pass over this process's share of the minibatch, or with ``micro_batch`` one
    over every so many of its examples, whose gradients add up to the same. Batch norm takes its statistics over what
    passes at once: the whole minibatch, over all processes, or each micro-batch.
    """

    def __init__(self, spec: dict, task):
        self.spec, self.task = spec, task
        torch.manual_seed(derive_seed("initial weights", spec["init_seed"]))
        self.model = task.model().train().to(task.device)
        if spec.get("frozen"):
            _last_linear(self.model).requires_grad_(False)
        # Batch size, ell and what pre-trained it are in the key: runs that are compared across them share no noise.
        size, ell = spec["batch_size"], spec["ell"]
        keys = (spec["seed"], size, ell, *(spec[key]["run"] for key in spec if key == "parent"))
        torch.manual_seed(derive_seed("dropout", *keys, distributed.rank()))
        self.draws = Draws(task, spec["sampling"], keys)
        self.drawn = size if ell == 1 else 2 * size
        self.share, self.micro = size // distributed.world_size(), spec.get("micro_batch")
        self.factors = (1.0,) if ell == 1 else coefficients(ell)  # of a step's minibatches
        one_pass = ell == 1 or self.micro is not None
        self.objective = Objective(self.model, task.loss if one_pass else SVAGLoss(task.loss, ell))
        if distributed.world_size() > 1:
            if self.micro is None:
                distributed.synchronise_batch_norm(self.model)
            self.objective = distributed.data_parallel(self.objective)
        self.statistics = (
            distributed.RunningStatistics(self.model) if self.micro and distributed.world_size() > 1 else None
        )
        values = dict(spec["optimizer"])
        variant = values.pop("variant")
        self.hyperparameters = hyperparameters_named(**values)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimizers.build(trained, self.hyperparameters, variant)
        self.schedule, self.clip = Schedule(**spec["schedule"]), spec.get("clip")
        self.sigma = ell * size**-0.5  # noise scale of the gradient that a step takes
        self.step, self.rows, self.diverged, self.seconds = 0, [], False, 0.0
        self.ahead = None  # the task's stream of batches, and the states of what has been drawn for it

    def close(self):
        """End what prepares batches ahead."""
        if self.ahead is not None:
            self.ahead.close()

    def time(self, step: int) -> float:
        """SDE time after ``step`` steps: the sum of the squared learning rates of a run that follows ``sqrt``."""
        return self.spec["horizon"] * self.schedule.elapsed(self._progress(step))

    def advance(self, steps: int):
        """Take ``steps`` optimizer steps on freshly drawn minibatches, and note the first loss that is not finite.

        A step of a plain run draws one minibatch, a step of SVAG two: ``drawn`` samples.
        """
        losses = []
        for passes in self._streamed(steps) if hasattr(self.task, "stream") else self._gathered(steps):
            if not self.schedule.constant:
                self._set_learning_rate()
            self.optimizer.zero_grad()
            losses.append(self._backward(passes))
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.step += 1
        finite = distributed.all_reduce_mean(torch.stack(losses)).isfinite()
        if not finite.all():
            first = self.step - steps + int(finite.logical_not().nonzero()[0])
            self._record(first, {"diverged": 1.0})

    def measure(self):
        """Append a row for every test function of the current weights."""
        metrics = distributed.broadcast(lambda: self.task.measure(self.model, self.sigma, self.hyperparameters.eps))
        finite = torch.tensor(list(metrics.values())).isfinite().all()
        self._record(self.step, metrics if finite else {"diverged": 1.0})

    def save(self, path):
        """Write a checkpoint: what it is, the digest of the rest, and every state."""
        noise = distributed.all_gather(noise_state(self.task.device))
        if distributed.rank() == 0:
            write_checkpoint(path, self._state(noise))
        distributed.barrier()

    def _state(self, noise):
        return {
            "spec": canonical(self.spec),
            "step": self.step,
            "rows": self.rows,
            "diverged": self.diverged,
            "seconds": self.seconds,
            "draws": self.ahead.state if self.ahead else self.draws.state(),
            "noise": noise,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, path):
        """Continue from a checkpoint. InputError if it belongs to another spec, naming what differs."""
        state = read_checkpoint(path)
        if state is None:
            return
        _refuse_other_spec(path, json.loads(state["spec"]), self.spec)
        self.step, self.diverged, self.seconds = state["step"], state["diverged"], state["seconds"]
        self.rows = state["rows"]
        self.draws.restore(state["draws"])
        restore_noise(state["noise"][distributed.rank()])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        log.info("%s: resumed at step %d", self.spec["run"], self.step)

    def _gathered(self, steps):
        """Yield the passes of every step, their examples gathered for all steps at once."""
        shares = (distributed.shard(tensor, self.spec["batch_size"]) for tensor in self.draws.draw(steps * self.drawn))
        chunk = self.task.gather(*shares)
        local = self.drawn // distributed.world_size()
        for batch in zip(*(tensor.split(local) for tensor in chunk), strict=True):
            yield [batch] if self.micro is None else zip(*(t.split(self.micro) for t in batch), strict=True)

    def _streamed(self, steps):
        """Yield the passes of every step, which the task prepares ahead of time."""
        if self.ahead is None:
            self.ahead = Prefetcher(self.draws, self.task.stream, self.drawn, self.spec["batch_size"], self.micro)
        for _ in range(steps):
            yield self.ahead.step()

    def _backward(self, passes):
        """Add up the gradients of a step's passes; return its loss, a tensor without gradient."""
        per_minibatch = 1 if self.micro is None else self.share // self.micro
        count = 1 if self.micro is None else per_minibatch * len(self.factors)
        total = None
        for number, batch in enumerate(passes):
            minibatch, place = divmod(number, per_minibatch)
            if self.statistics and place == 0:
                self.statistics.keep()
            last = number == count - 1  # the gradients of all processes are averaged once
            fits = False
            with (
                nullcontext() if last or distributed.world_size() == 1 else self.objective.no_sync(),
                suppress(torch.OutOfMemoryError),
            ):
                loss = self._loss(batch)
                if self.micro is not None:
                    loss = loss * (self.factors[minibatch] / per_minibatch)
                loss.backward()
                fits = True
            if not fits:  # only here has the exception let go of the memory that it met
                tried, fitting = len(batch[0]), self._fitting(batch)
                would = f"micro_batch = {fitting} would fit" if fitting else "not even one fits"
                raise InputError(f"micro_batch = {self.micro}: the device's memory is too small for {tried}; {would}")
            if self.statistics and place == per_minibatch - 1:
                self.statistics.combine(per_minibatch)
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def _fitting(self, batch):
        """Return the largest micro-batch that is found to fit into the device's memory, 0 if none does."""
        size = len(batch[0])
        while size > 1:
            size = next(part for part in range(size // 2, 0, -1) if self.share % part == 0)
            self.optimizer.zero_grad()
            if self.task.device.type == "cuda":
                torch.cuda.empty_cache()
            with suppress(torch.OutOfMemoryError):
                self.task.loss(self.model, *(tensor[:size] for tensor in batch)).backward()
                return size
        return 0

    def _loss(self, batch):
        device = self.task.device.type
        if self.spec.get("precision") != "bf16":
            return self.objective(*batch)
        with torch.autocast(device, torch.bfloat16):
            return self.objective(*batch)

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


def _last_linear(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]


def _refuse_other_spec(path, found, wanted):
    differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if differing:
        field = differing[0]
        raise InputError(
            f"{path}: checkpoint of another spec ({', '.join(differing)} differ; {field} is {found.get(field)} there "
            f"and {wanted.get(field)} here); delete it, or name another file"
        )
