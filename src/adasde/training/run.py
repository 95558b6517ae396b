"""The state of one run: it advances by steps, is measured, saved and restored."""

import logging
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from adasde.common import MALFORMED, InputError
from adasde.scaling import optimizers
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.scaling.svag import coefficients
from adasde.training import distributed
from adasde.training.checkpoint import UnusableCheckpoint, read_own_checkpoint, write_checkpoint
from adasde.training.engines import ENGINES, Batch
from adasde.training.sampling import Prefetcher, Sampler
from adasde.training.schedule import Schedule
from adasde.training.seeding import derive_seed, generator_states, set_generator_states
from adasde.workloads.base import Workload

log = logging.getLogger(__name__)

CHUNK = 2048  # samples gathered and normalised at once: few Python calls, and still in cache
Row = tuple[str, int, float, str, float]  # run, step, time, metric, value


class RunSpec(Protocol):
    """What training reads of a spec."""

    run: str  # its id
    optimizer: Any  # hyperparameters, and the variant that implements them
    init_seed: int  # of the initial weights
    batch_size: int
    minibatches: int  # of a step: SVAG takes two
    ell: float  # SVAG level; 1 is a plain run
    sampling: str  # replacement | epoch
    samples: int  # of the whole run, over ell^2
    horizon: float  # SDE time of the whole run at a constant learning rate
    schedule: Schedule
    evaluate: tuple[int, ...]  # samples after which the run is measured
    noise: tuple[int, ...]  # those of them, and perhaps 0, at which the gradient's noise is measured
    stream: tuple[object, ...]  # what tells its random streams from all others
    clip: float | None  # largest norm of the gradient
    precision: str  # float32 | bf16 | tf32
    micro_batch: int | None
    micro_batches: int | None  # base batches of a step whose gradients are squared one by one, under rule invariant
    frozen: str  # none | last-layer
    engine: str  # eager | compile | graph
    tested: int | None  # test examples of an evaluation, the first ones; None for all
    canonical: str  # the spec as JSON with sorted keys
    hash: str


class Run:
    """One run of ``spec`` on ``workload``.

    Each process takes its shard of every minibatch. A step is one forward and backward pass over all of its examples,
    or one over each micro-batch; under the engine ``compile`` one over each minibatch of SVAG. ``examples`` is the size
    of a pass. Batch norm takes its statistics over the examples that pass at once: the whole minibatch of all
    processes, or each micro-batch. Under the rule ``invariant`` the optimizer takes a gradient for every base batch of
    the minibatch, from one pass or several, and clips each of them.
    """

    def __init__(self, spec: RunSpec, workload: Workload) -> None:
        self.spec, self.workload = spec, workload
        torch.manual_seed(derive_seed("initial weights", spec.init_seed))
        model = workload.model().train().to(workload.device)
        if spec.frozen != "none":
            _last_linear(model).requires_grad_(False)
        if distributed.world_size() > 1:
            model = distributed.synchronise_batch_norm(model, spec.micro_batch)
        self.model = model
        torch.manual_seed(derive_seed("dropout", *spec.stream, spec.batch_size, distributed.rank()))
        self.sampler = Sampler(workload, spec.sampling, spec.stream)
        self.drawn = spec.minibatches * spec.batch_size  # samples of a step
        self.engine = ENGINES[spec.engine]()
        self.examples, self.weights = _passes(spec, self.engine.joins_minibatches)
        self.objective = self.engine.objective(model, workload, spec.ell if len(self.weights) == 1 else 1)
        bf16 = partial(torch.autocast, workload.device.type, torch.bfloat16)
        self.precision = bf16 if spec.precision == "bf16" else nullcontext
        self.schedule = spec.schedule
        self.hyperparameters = spec.optimizer.hyperparameters
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.minibatch = spec.batch_size // (spec.micro_batches or 1)  # samples of a gradient; SVAG combines two
        if spec.micro_batches is None:
            self.optimizer = optimizers.build(self.trained, self.hyperparameters, spec.optimizer.variant)
        else:
            self.optimizer = optimizers.build_invariant(self.trained, self.hyperparameters, spec.micro_batches)
        self.meter = SpeedMeter(spec.ell * spec.batch_size**-0.5, self.hyperparameters.eps)
        self.step, self.rows, self.diverged, self.seconds = 0, [], False, 0.0
        self.prefetcher: Prefetcher | None = None

    def close(self) -> None:
        """End the workers that prepare batches ahead of time."""
        if self.prefetcher is not None:
            self.prefetcher.close()

    def time(self, step: int) -> float:
        """Return the SDE time after ``step`` steps: the sum of the squared learning rates under the rule ``sqrt``."""
        return self.spec.horizon * self.schedule.elapsed(self._progress(step))

    @property
    def samples(self) -> int:
        """Examples that the plain run has seen at this time."""
        return round(self.step * self.spec.batch_size / self.spec.ell**2)

    def advance(self, steps: int) -> None:
        """Take ``steps`` optimizer steps on freshly drawn minibatches; record the first loss that is not finite."""
        losses = []
        with self.workload.kernels(self.examples):
            for batches in self._prefetched(steps) if self.workload.streamed else self._gathered(steps):
                if not self.schedule.constant:
                    self._set_learning_rate()
                losses.append(self.engine.step(self._take, batches, self.optimizer.param_groups[0]["lr"]))
                self.step += 1
        diverged = distributed.any_rank(*torch.stack(losses).isfinite().logical_not().tolist())
        if any(diverged):
            self._record(self.step - steps + diverged.index(True), {"diverged": 1.0})

    def measure(self, known: dict[str, float] | None = None) -> None:
        """Append a row for every metric of the current weights; ``known`` are their values, if they are known."""
        meter = self.meter if self.samples in self.spec.noise else None
        measure = partial(self.workload.measure, self.model, meter, self.spec.tested)
        metrics = known or distributed.broadcast(measure)
        finite = torch.tensor(list(metrics.values())).isfinite().all()
        self._record(self.step, metrics if finite else {"diverged": 1.0})

    def save(self, path: Path) -> None:
        """Write a checkpoint with every state of all processes."""
        generators = distributed.all_gather(generator_states(self.workload.device))
        state = {
            "step": self.step,
            "rows": self.rows,
            "diverged": self.diverged,
            "seconds": self.seconds,
            "draws": self.prefetcher.state if self.prefetcher else self.sampler.state(),
            "generators": generators,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "meter": self.meter.state_dict(),
        }
        if distributed.rank() == 0:
            write_checkpoint(path, self.spec.canonical, state)
        distributed.barrier()

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        UnusableCheckpoint if there is no going on from it, and InputError if it is of another spec. A run that could
        not be restored is of no use.
        """
        state = read_own_checkpoint(path, self.spec.canonical)
        try:
            self.take(state)
        except torch.OutOfMemoryError:  # which is not the checkpoint's fault
            raise
        except (*MALFORMED, RuntimeError) as error:
            raise UnusableCheckpoint(f"{path}: holds other states than this run has") from error
        log.info("%s: resumed at step %d", self.spec.run, self.step)

    def take(self, state: Mapping[str, Any]) -> None:
        """Put the run into a state that `save` has written; errors of many kinds if it is another's."""
        self.step, self.rows = operator.index(state["step"]), [_row(*row) for row in state["rows"]]
        self.diverged, self.seconds = operator.index(state["diverged"]) == 1, float(state["seconds"])
        if not 0 <= self._progress(self.step) < 1 + 1e-9 or {row[0] for row in self.rows} != {self.spec.run}:
            raise ValueError("no step of this run")
        self.sampler.restore(state["draws"])
        set_generator_states(state["generators"][distributed.rank()])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.meter.load_state_dict(state["meter"])
        if (self.meter.before is not None) != any(metric == "noise_trace" for *_, metric, _ in self.rows):
            raise ValueError("another measurement of the noise")
        for parameter, own in getattr(self.optimizer, "state", {}).items():  # torch takes averages of any shape
            if any(part.shape not in ((), parameter.shape) for part in own.values() if isinstance(part, torch.Tensor)):
                raise ValueError("averages of another shape")

    def _gathered(self, steps: int) -> Iterator[Iterable[Batch]]:
        """Yield the batches of each step's passes; the examples of all steps are gathered at once."""
        drawn = self.sampler.draw(steps * self.drawn)
        chunk = self.workload.gather(*(distributed.shard(part, self.minibatch) for part in drawn))
        batches = zip(*(part.split(self.examples) for part in chunk), strict=True)
        for _ in range(steps):
            yield islice(batches, len(self.weights))

    def _prefetched(self, steps: int) -> Iterator[Iterable[Batch]]:
        """Yield the batches of each step's passes, which the workload prepares ahead of time."""
        if self.prefetcher is None:
            stream, size = self.workload.stream, self.minibatch
            self.prefetcher = Prefetcher(self.sampler, stream, self.drawn, size, self.examples)
        for _ in range(steps):
            yield self.prefetcher.step()

    def _take(self, batches: Iterable[Batch], rate: torch.Tensor | None = None) -> torch.Tensor:
        """Take a step; return the sum of its losses. The optimizer's learning rate is ``rate`` if that is given."""
        self.optimizer.zero_grad()
        loss = self._backward(batches)
        self.optimizer.step() if rate is None else self.optimizer.step(rate)
        return loss

    def _backward(self, batches: Iterable[Batch]) -> torch.Tensor:
        """Add up the gradients of a step's passes, and clip them; return the sum of its losses, without gradient.

        Several processes average each gradient once, in its last pass.
        """
        losses, passes = [], len(self.weights) // (self.spec.micro_batches or 1)  # passes of a gradient
        for number, (batch, weight) in enumerate(zip(batches, self.weights, strict=True), start=1):
            last = number % passes == 0
            with nullcontext() if last or distributed.world_size() == 1 else self.objective.no_sync():
                losses.append(self._pass(batch, weight))
            if last and self.spec.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip)
            if last and self.spec.micro_batches is not None:
                self.optimizer.accumulate(error_if_nonfinite=False)  # divergence is a result
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _pass(self, batch: Batch, weight: float) -> torch.Tensor:
        """Add the gradient of the loss times ``weight``; return that product."""
        try:
            with self.precision():
                loss = self.objective(*batch)
            if weight != 1.0:  # which saves 1 % of a step of the small CNN on two images
                loss = loss * weight
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"micro_batch = {self.spec.micro_batch}: the device's memory is too small for {len(batch[0])} "
                "examples at once; try a smaller micro_batch"
            ) from error
        except Exception as error:
            if (failed := self.engine.failed(error)) is None:
                raise
            raise failed from error
        return loss.detach()

    def _progress(self, step: int) -> float:
        return step * self.spec.batch_size / (self.spec.ell**2 * self.spec.samples)

    def _set_learning_rate(self) -> None:
        factor = self.schedule.factor(self._progress(self.step), self._progress(self.step + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.hyperparameters.lr * factor

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        self.diverged = self.diverged or "diverged" in metrics
        time = self.time(step)
        self.rows += [(self.spec.run, step, time, metric, value) for metric, value in metrics.items()]


def _passes(spec: RunSpec, together: bool) -> tuple[int, list[float]]:
    """Return how many examples a pass holds, and the weights with which the losses of a step's passes add up.

    SVAG's two minibatches may go ``together``.
    """
    shard = spec.batch_size // distributed.world_size()
    if spec.micro_batch is None and (together or spec.ell == 1):
        return spec.minibatches * shard, [1.0]
    factors = (1.0,) if spec.ell == 1 else coefficients(spec.ell)
    size = spec.micro_batch or shard
    passes, gradients = shard // size, spec.micro_batches or 1  # of a minibatch
    return size, [factor * gradients / passes for factor in factors for _ in range(passes)]


def _last_linear(model: torch.nn.Module) -> torch.nn.Linear:
    found = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    if not found:
        raise InputError("frozen = 'last-layer': the model has no linear layer; take none")
    return found[-1]


def _row(run: str, step: int, time: float, metric: str, value: float) -> Row:
    return str(run), int(step), float(time), str(metric), float(value)
