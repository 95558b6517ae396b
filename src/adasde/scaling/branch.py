"""Try before you trust: branch a run in mid-training at several batch sizes, and see whether the rule holds there."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from adasde.common import InputError, positive, text_table, whole
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.rescale import rescale_alone
from adasde.scaling.rules import scaled_batch_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATIONS = 4  # of each branch, equally far apart
SAMPLE = 1024  # examples from which the forecast measures the gradient's noise
# 0.975 quantiles of Student's t, for 2 to 10 repeats.
_QUANTILES = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Examples(Protocol):
    """Training examples that can be taken out by their places."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, places: Tensor) -> tuple[Tensor, ...]:
        """Return the batch of the examples at ``places`` (examples,), as the loss takes it."""


@dataclass(frozen=True)
class BranchReport:
    """What `branch` found. ``str(report)`` is a table, and ``report.plot()`` the picture.

    Args:
        batch_size: Examples per step at kappa = 1.
        samples: Examples after which the loss was measured, (evaluations,).
        start: The loss at the branch point.
        losses: kappa -> losses, (repeats, evaluations); kappa = 1 is among them.
        forecasts: kappa -> the gap at the end that the gradient's noise at the branch point predicts for the
            square-root rule.
        tolerance: Largest gap that counts as no difference, in the unit of the loss.

    Source: ours.
    """

    batch_size: int
    samples: tuple[int, ...]
    start: float
    losses: dict[float, np.ndarray]
    forecasts: dict[float, float]
    tolerance: float

    @property
    def gaps(self) -> dict[float, tuple[float, float]]:
        """The largest gap in loss to kappa = 1 along the branch, and half the width of its 95 % interval, by kappa."""
        found = {}
        for kappa in self.forecasts:
            pairs = self.losses[kappa] - self.losses[1]  # of the same examples in the same order
            means, repeats = pairs.mean(0), len(pairs)
            place = int(np.abs(means).argmax()) if np.isfinite(means).all() else int((~np.isfinite(means)).argmax())
            quantile = _QUANTILES[repeats - 2] if repeats - 2 < len(_QUANTILES) else 1.96
            found[kappa] = float(means[place]), float(quantile * pairs[:, place].std(ddof=1) / repeats**0.5)
        return found

    @property
    def verdicts(self) -> dict[float, str]:
        """``holds`` or ``breaks`` if the interval of the gap says so, otherwise ``undecided``, by kappa."""
        return {kappa: self._verdict(gap, half) for kappa, (gap, half) in self.gaps.items()}

    @property
    def largest_kappa(self) -> float:
        """The largest kappa tried up to which the rule holds; 1 if it holds nowhere."""
        verdicts = self.verdicts
        return self._up_to(lambda kappa: verdicts[kappa] == "holds")

    @property
    def forecast_kappa(self) -> float:
        """The largest kappa tried up to which the noise at the branch point predicts that the rule holds."""
        return self._up_to(lambda kappa: self.forecasts[kappa] <= self.tolerance)

    def plot(self) -> "Figure":
        """Plot the gap at each kappa with its interval, the forecast, and the tolerance.

        Returns:
            A matplotlib Figure, whose title is the `answer`.
        """
        from matplotlib.figure import Figure  # an optional dependency

        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        panel = figure.subplots()
        kappas = list(self.forecasts)
        gaps = [abs(self.gaps[kappa][0]) for kappa in kappas]
        panel.axhspan(0, self.tolerance, color="0.9", label=f"tolerance, {self.tolerance:g}")
        panel.errorbar(
            kappas,
            gaps,
            [self.gaps[k][1] for k in kappas],
            fmt="o",
            capsize=3,
            color="C0",
            label="measured, 95% interval",
        )
        forecasts = [self.forecasts[kappa] for kappa in kappas]
        panel.plot(kappas, forecasts, "D", markerfacecolor="none", color="C1", label="forecast from the noise")
        panel.set_xscale("log", base=2)
        panel.set_xticks(kappas, [f"{self.batch_size * kappa:g}" for kappa in kappas])
        panel.set_xlabel("batch size")
        panel.set_ylabel(f"largest gap in loss to batch {self.batch_size}")
        panel.set_ylim(0, 1.4 * panel.get_ylim()[1])  # room for the legend
        panel.set_title(self.answer, fontsize="medium")
        panel.legend(frameon=False)
        return figure

    @property
    def answer(self) -> str:
        """Up to which batch size the rule holds, and what was forecast, in one line."""
        forecast = f"forecast {self.batch_size * self.forecast_kappa:g}"
        if self.largest_kappa == 1:
            word = "No" if self.verdicts[min(k for k in self.forecasts if k > 1)] == "breaks" else "Undecided"
            return f"{word}: no batch above {self.batch_size} was seen to follow it ({forecast})"
        return f"Yes, up to batch {self.batch_size * self.largest_kappa:g} ({forecast})"

    def __str__(self) -> str:
        """Return a table with one row per kappa, and the answer."""
        rows = [("kappa", "batch size", "gap in loss", "95% interval", "forecast", "verdict")]
        for kappa, (gap, half) in self.gaps.items():
            interval = f"{gap - half:.4f} to {gap + half:.4f}"
            size, verdict = f"{self.batch_size * kappa:g}", self._verdict(gap, half)
            rows.append((f"{kappa:g}", size, f"{gap:.4f}", interval, f"{self.forecasts[kappa]:.4f}", verdict))
        end = float(self.losses[1][:, -1].mean())
        told = f"at batch {self.batch_size} the loss went from {self.start:.4f} to {end:.4f}"
        seen = f"in {self.samples[-1]} examples; {len(self.losses[1])} repeats, tolerance {self.tolerance:g}"
        return f"{text_table(rows)}\n{told} {seen}\n{self.answer}"

    def _verdict(self, gap: float, half: float) -> str:
        if not math.isfinite(gap) or abs(gap) - half > self.tolerance:
            return "breaks"
        return "holds" if abs(gap) + half <= self.tolerance else "undecided"

    def _up_to(self, holds: Callable[[float], bool]) -> float:
        largest = 1.0
        for kappa in sorted(kappa for kappa in self.forecasts if kappa > 1):
            if not holds(kappa):
                break
            largest = kappa
        return largest


def branch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    examples: tuple[Tensor, ...] | Examples,
    held: tuple[Tensor, ...] | Callable[[torch.nn.Module], float],
    batch_size: int,
    kappas: Sequence[float] = (2, 4, 8, 16),
    tolerance: float = 0.01,
    repeats: int = 3,
    rule: str = "sqrt",
    betas: str = "linear",
    micro_batch: int | None = None,
) -> BranchReport:
    """Train copies of a run on from where it is, at several batch sizes, and report where the rule holds.

    Every copy is rescaled, sees the same examples in the same order, and is compared with the copy at kappa = 1. The
    learning rate stays constant. The model and the optimizer themselves are left as they are.

    Args:
        model: The model, in mid-training.
        optimizer: Its optimizer, one that `rescale` covers.
        loss: ``loss(model, *batch)`` returns the mean loss of a batch, a scalar tensor.
        examples: Training examples that the run has not seen: tensors whose first dimension counts them, or an object
            with ``len(examples)`` and ``examples[places]``. At least four steps of the largest batch; below 512 a
            ScalingWarning says that the forecast is uncertain. A branch that sees its parent's examples again is closer
            to it than a larger batch is in training.
        held: Tensors on which ``loss`` is measured in eval mode, or a function of the model that returns the loss.
        batch_size: Examples per step so far, at least 1.
        kappas: Batch multipliers to try, each > 0, one of them above 1; default 2, 4, 8, 16. 1 itself is always tried.
        tolerance: Largest gap that counts as no difference, in the unit of the loss; default 0.01.
        repeats: Orders of the examples, at least 2; default 3. Intervals are over these.
        rule: Name of the rule; default the square-root rule.
        betas: ``linear`` (default) or ``half-life``, as in `rescale`.
        micro_batch: Examples per forward pass, over which batch norm takes its statistics and which bounds the memory;
            default the whole batch.

    Returns:
        The report.

    Raises:
        InputError: If the rule does not cover the optimizer or a kappa, there are too few examples, or the held-out
            loss is not finite, at the branch point or at kappa = 1.

    Source: weak approximation holds from any initial state of the SDE (theorem 4.2 of the paper). The comparison in
        branches is ours.
    """
    batch_size, repeats = whole("batch_size", batch_size, least=1), whole("repeats", repeats, least=2)
    sizes = branch_sizes(batch_size, kappas)
    if micro_batch is not None:
        micro_batch = whole("micro_batch", micro_batch, least=1)
    data = _Tensors(examples) if isinstance(examples, tuple | list) else examples
    count = _interval(len(data), sizes)
    positive("tolerance", tolerance)
    measure = held if callable(held) else _held_loss(loss, held)
    for kappa in sizes:  # refuses before anything is trained
        rescale_alone(_copies(model, optimizer)[1], kappa, rule, betas=betas)
    start = measure(model)
    _check_finite([start], "at the branch point")
    speeds = _speeds(*_copies(model, optimizer), loss, data, batch_size, [kappa for kappa in sizes if kappa != 1])
    losses: dict[float, list[list[float]]] = {kappa: [] for kappa in sizes}
    for repeat in range(repeats):
        parts = _order(len(data), seed=repeat)[: EVALUATIONS * count].split(count)
        for kappa, size in sizes.items():
            own, own_optimizer = _copies(model, optimizer)
            rescale_alone(own_optimizer, kappa, rule, betas=betas)
            step = partial(_step, own, own_optimizer, loss, data, micro_batch=micro_batch or size)
            found = _train(step, [part.split(size) for part in parts], partial(measure, own), repeat)
            if kappa == 1:
                _check_finite(found, "at kappa = 1")
            losses[kappa].append(found)
    arrays = {kappa: np.array(found) for kappa, found in losses.items()}
    fallen = start - float(arrays[1.0][:, -1].mean())
    forecasts = {kappa: abs((1.0 - speed) * fallen) for kappa, speed in speeds.items()}
    marks = tuple(count * (number + 1) for number in range(EVALUATIONS))
    return BranchReport(batch_size, marks, start, arrays, forecasts, tolerance)


def branch_sizes(batch_size: int, kappas: Sequence[float]) -> dict[float, int]:
    """Return the batch size of every branch by kappa, 1 first. InputError unless one kappa is above 1."""
    sizes = {1.0: batch_size} | {
        float(kappa): scaled_batch_size(batch_size, kappa)
        for kappa in sorted(positive("kappas", kappa) for kappa in kappas)
        if kappa != 1
    }
    if max(sizes) == 1:
        raise InputError(f"kappas = {tuple(kappas)}: must hold one above 1")
    return sizes


def _check_finite(losses: Sequence[float], place: str) -> None:
    """Raise an InputError if a loss with which branches are compared is not finite, since none is far from it."""
    for loss in losses:
        if not math.isfinite(loss):
            raise InputError(f"held: a loss of {loss:g} {place}; must be finite, since branches are compared with it")


def _interval(available: int, sizes: dict[float, int]) -> int:
    """Return the examples between two evaluations, a multiple of every batch size. InputError if there are too few."""
    interval = math.lcm(*sizes.values())
    count = available // (EVALUATIONS * interval) * interval
    if count < 1:
        raise InputError(
            f"examples = {available}: too few; {EVALUATIONS} evaluations of batches of {max(sizes.values())} need "
            f"{EVALUATIONS * interval}"
        )
    return count


def _speeds(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    data: Examples,
    batch_size: int,
    kappas: Sequence[float],
) -> dict[float, float]:
    """Return the speed at each kappa that the noise of the gradient predicts."""
    places = _order(len(data), seed=0)[:SAMPLE]
    chunks = [data[part] for part in places.split(max(1, len(places) // 20))]
    with torch.random.fork_rng():
        return NoiseMonitor(model, optimizer, batch_size, loss, chunks, every=1).speeds(kappas)


def _train(
    step: Callable[[Tensor], None], parts: Sequence[Sequence[Tensor]], measure: Callable[[], float], seed: int
) -> list[float]:
    """Take a step on every batch of every part, and return the loss after each part."""
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batches in parts:
            for batch in batches:
                step(batch)
            found.append(measure())
    return found


def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


class _Tensors:
    """Examples that stand in tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            raise InputError(
                f"examples: tensors of {[len(tensor) for tensor in tensors]} examples; every tensor must have the same "
                "number of examples"
            )
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, places: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor[places.to(tensor.device)] for tensor in self.tensors)


def _copies(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return copies that belong together: the optimizer's parameters are those of the model."""
    try:
        return copy.deepcopy((model, optimizer))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"model: cannot be copied ({error})") from error


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    data: Examples,
    batch: Tensor,
    micro_batch: int,
) -> None:
    optimizer.zero_grad()
    for part in batch.split(micro_batch):
        (loss(model, *data[part]) * (len(part) / len(batch))).backward()
    if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
        raise InputError("loss: must depend on the model that it is called with, and the optimizer hold its parameters")
    optimizer.step()


def _held_loss(loss: Callable[..., Tensor], held: tuple[Tensor, ...]) -> Callable[[torch.nn.Module], float]:
    if not len(_Tensors(held)):
        raise InputError("held: holds no examples")

    def measure(model: torch.nn.Module) -> float:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                parts = list(zip(*(tensor.split(500) for tensor in held), strict=True))
                total = sum(float(loss(model, *part)) * len(part[0]) for part in parts)
        finally:
            for module, mode in modes:
                module.training = mode
        return total / len(held[0])

    return measure
