"""What a measurement of the gradient's noise reports: noise scale, speeds, critical batch, lags, a table, a plot."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from adasde.common import InputError, positive, short
from adasde.scaling import lag
from adasde.scaling.gradient_noise import Signal, descents, sums
from adasde.scaling.rescale import betas_of, scaled_group
from adasde.scaling.rules import scaled_batch_size
from adasde.scaling.schedulers import unwrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NoiseReport(ABC):
    """Base class of `MicroBatchNoise` and `NoiseMonitor`: what both report of the noise that they measured.

    Weights count as they move: each with the learning rate and the eps of its parameter group. Those that the optimizer
    does not hold do not count, nor does a group whose rate is 0 while another moves.

    """

    #: Examples per optimizer step.
    batch_size: int
    #: One dictionary per measurement; ``pandas.DataFrame(noise.history)`` is a table. Its columns are ``step``,
    #: optimizer steps; ``examples``, seen so far; ``time``, the SDE's, sum of lr^2; ``batch_size``; ``noise_trace``, tr
    #: Sigma of one example; ``squared_gradient``, |g|^2 without bias, so that it can be below 0;
    #: ``gradient_noise_scale``, examples, NaN where |g|^2 is not above 0; ``critical_batch``, examples; ``speed_k2``
    #: and so on, the predicted speeds.
    history: list[dict[str, float]]

    _takes: ClassVar[tuple[type, ...]] = ()  # optimizers beside those of the square-root rule
    _saved: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "history",
        "_step",
        "_examples",
        "_time",
        "_since",
        "_start",
        "_first_batch",
    )

    def __init__(self, optimizer: torch.optim.Optimizer, batch_size: int) -> None:
        self.optimizer = unwrapped(optimizer)
        if not isinstance(self.optimizer, self._takes):
            for group in self.optimizer.param_groups:
                scaled_group(self.optimizer, group, 1.0, "sqrt")  # refuses what the rule does not cover
        if not self._weights():
            raise self._error("optimizer: trains no parameters")
        self.batch_size, self.history = batch_size, []
        self._step, self._examples, self._time = 0, 0, 0.0
        self._since, self._start = 0, 0.0  # first row, and time, at the present batch size
        self._first_batch = batch_size  # to which the critical batch refers
        self._hyperparameters = self._read_hyperparameters()

    def gradient_noise_scale(self) -> float:
        """Return the gradient noise scale tr Sigma / |g|^2 of the current state, in examples.

        Where groups have different learning rates, both are sums weighted by them.

        Returns:
            The batch size at which noise and gradient are equal, all weights together.

        Raises:
            InputError: If nothing was measured yet, or if the gradient cannot be told from its noise.

        Source: McCandlish et al. 2018 (arXiv 1812.06162), B_simple.
        """
        trace, squared = self._totals()
        if not squared > 0:
            raise self._error("gradient_noise_scale: noise still hides the gradient; measure more steps")
        return trace / squared

    def speeds(self, kappas: Iterable[float]) -> dict[float, float]:
        """Return how fast the loss falls if the square-root rule multiplies the batch, relative to the present batch.

        Args:
            kappas: Batch multipliers, each > 0. Under `InvariantAdam` they multiply its micro-batch, the batch of the
                baseline that it follows.

        Returns:
            kappa -> predicted speed at the current state; 1 where noise dominates.

        Raises:
            InputError: If a kappa is out of its range, or if nothing was measured yet.

        Source: ours, see `adasde.scaling.gradient_noise`.
        """
        return self._speeds([positive("kappa", kappa) for kappa in kappas])

    def critical_batch(self, tolerance: float = 0.1) -> float:
        """Return the largest batch at which the predicted speed, at the current state, is at least 1 - tolerance.

        The speed is relative to the batch size at which measuring began, also after `rescaled`. So the answer is about
        the state, and a batch that grows step by step does not move it.

        Args:
            tolerance: Tolerated loss of speed, between 0 and 1; default 0.1.

        Returns:
            Batch size, in examples, at most 256 times that at the start; that value means "at least".

        Raises:
            InputError: If the tolerance is out of its range, or if nothing was measured yet.

        Source: ours.
        """
        if not 0.0 < tolerance < 1.0:
            raise InputError(f"tolerance = {tolerance:g}: must be between 0 and 1")
        return self._critical_batch(tolerance)

    def lags(self) -> dict[float, float]:
        """Return how far larger batches would have fallen behind by now, as a share of the time so far.

        Returns:
            kappa -> lag from 0 to 1, for every kappa in `adasde.scaling.lag.KAPPAS`. The time counts from
            the first step that was seen, or from the last `rescaled`.

        Raises:
            InputError: Before the first measurement after that, or if every learning rate was 0 so far.

        Source: ours, see `adasde.scaling.lag`.
        """
        rows = self.history[self._since :]
        times = np.array([row["time"] - self._start for row in rows])
        speeds = np.array([[row[f"{lag.SPEED}{kappa}"] for row in rows] for kappa in lag.KAPPAS])
        speeds = speeds.reshape(len(lag.KAPPAS), -1)
        if len(rows) and times[0] > 0:  # the first speeds are those of the time before as well
            times, speeds = np.insert(times, 0, 0.0), np.insert(speeds, 0, speeds[:, 0], axis=1)
        moved = np.append(np.diff(times) > 0, True)[: len(times)]  # of rows at one time the last one counts
        if moved.sum() < 2:
            raise self._error("nothing measured after the start yet; train for more steps, or measure more often")
        return {
            kappa: float(lag.predicted(times[moved], curve[moved])[-1])
            for kappa, curve in zip(lag.KAPPAS, speeds, strict=True)
        }

    def largest_kappa(self) -> float:
        """Return the largest kappa that would have kept the lag within 10 %.

        The estimate covers training up to this step and keeps every beta at or above 0.5. Round the batch down.

        Returns:
            Batch multiplier, relative to the present batch size, at most 256.

        Raises:
            InputError: Where `lags` does.

        Source: ours.
        """
        betas = [float(beta) for group in self.optimizer.param_groups for beta in betas_of(group)]
        return lag.largest_kappa({kappa: [value] for kappa, value in self.lags().items()}, betas)

    def rescaled(self, kappa: float) -> None:
        """Go on measuring after `rescale(optimizer, kappa)`. The lags start anew, relative to the new batch size.

        Args:
            kappa: The batch multiplier given to `rescale`; kappa * batch_size must be a whole number.

        Raises:
            InputError: If it is not, or if the optimizer was rescaled by another kappa.
        """
        self._refuse_other(kappa)
        self.batch_size = scaled_batch_size(self.batch_size, kappa)
        self._hyperparameters = self._read_hyperparameters()
        self._since, self._start = len(self.history), self._time
        self._record()

    def plot(self) -> "Figure":
        """Plot critical batch, gradient noise scale and batch size over the examples seen.

        Returns:
            A matplotlib Figure.

        Raises:
            InputError: If nothing was measured yet.
        """
        if not self.history:
            raise self._error("nothing to plot yet; train for more steps, or measure more often")
        from matplotlib.figure import Figure  # an optional dependency

        columns = {name: [row[name] for row in self.history] for name in self.history[0]}
        examples, critical = columns["examples"], columns["critical_batch"]
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(examples, critical, "o-", ms=3, color="#0072B2", label="critical batch (predicted speed 0.9)")
        axes.plot(examples, columns["gradient_noise_scale"], "s-", ms=3, color="#E69F00", label="gradient noise scale")
        axes.step(examples, columns["batch_size"], "k--", where="post", label="batch size of the training")
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="examples seen", ylabel="batch size (examples)")
        reach = "at least " if critical[-1] >= lag.KAPPAS[-1] * self._first_batch else ""
        axes.set_title(f"Now at batch size {self.batch_size}; the square root holds up to {reach}{critical[-1]:.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to go on measuring.

        Returns:
            Plain numbers, lists and tensors by name.
        """
        return {name.lstrip("_"): copy.deepcopy(getattr(self, name)) for name in self._saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Args:
            state: The dictionary, of the same class and for the same parameters.

        Raises:
            InputError: If it is another's.
        """
        missing = [name for name in self._saved if name.lstrip("_") not in state]
        if missing:
            raise self._error(f"state_dict: holds no {missing[0].lstrip('_')}; it must be of the same class")
        for name in self._saved:
            given, listed = state[name.lstrip("_")], isinstance(getattr(self, name), list)
            if not isinstance(given, list if listed else int | float):
                wanted = "a list" if listed else "a number"
                raise self._error(f"state_dict: {name.lstrip('_')} = {short(given)}: must be {wanted}")
        if self.batch_size and self.batch_size != state["batch_size"]:
            raise self._error(f"state_dict: of batch size {state['batch_size']}, not {self.batch_size}")
        for name in self._saved:
            setattr(self, name, copy.deepcopy(state[name.lstrip("_")]))
        self._hyperparameters = self._read_hyperparameters()  # the optimizer may have loaded its own

    def per_weight(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return what was measured of every weight at the current state.

        Returns:
            The variances of one example's gradient, diag Sigma, and the unbiased estimates of g^2, which may be below
            0: one tensor each per weight tensor, in the optimizer's order.

        Raises:
            InputError: If nothing was measured yet.
        """
        variances, squares = zip(*self._moments(), strict=True)
        return list(variances), list(squares)

    @abstractmethod
    def _moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each weight tensor's variances and estimates of g^2; InputError if nothing was measured yet."""

    @abstractmethod
    def _signals(self) -> Iterator[Signal]:
        """Yield each weight tensor's squares of the gradient, none below 0, and variances; InputError as above."""

    def _base_batch(self) -> int:
        """Return the batch size that kappas multiply."""
        return self.batch_size

    def _weights(self) -> list[tuple[torch.Tensor, float, float]]:
        """Return (weight tensor, how far it moves relative to the others, eps) for all that the optimizer trains."""
        groups = self.optimizer.param_groups
        fastest = self._rate()
        return [
            (weight, float(group["lr"]) / fastest if fastest else 1.0, float(group["eps"]) or 1e-30)
            for group in groups
            for weight in group["params"]
            if weight.requires_grad
        ]

    def _rate(self) -> float:
        """Return the largest learning rate of the groups."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def _speeds(self, kappas: Sequence[float], unit: float = 1.0) -> dict[float, float]:
        """Return the speeds at ``unit`` times each kappa, relative to that at ``unit``."""
        _, rates, eps = zip(*self._weights(), strict=True)
        sigma = (self._base_batch() or 1) ** -0.5  # without a batch nothing was measured, and `_signals` says so
        scaled = [unit, *(unit * kappa for kappa in kappas)]
        first, *others = descents(self._signals(), scaled, sigma, eps, rates)
        return {kappa: other / first if first else 1.0 for kappa, other in zip(kappas, others, strict=True)}

    def _critical_batch(self, tolerance: float, present: dict[float, float] | None = None) -> float:
        """Return the critical batch; ``present`` are the speeds at `KAPPAS` relative to the present batch, if known."""
        unit = self._first_batch / (self._base_batch() or 1)
        known = {1.0: 1.0} | (present if present and unit == 1.0 else self._speeds(lag.KAPPAS, unit))
        high = next((kappa for kappa in known if known[kappa] < 1.0 - tolerance), None)
        if high is None:
            return float(max(known) * self._first_batch)
        low = max(kappa for kappa in known if kappa < high)
        # The inverse square of the speed is linear in kappa if all weights have the same signal over noise, and nearly
        # so between neighbours otherwise.
        first, wanted, last = known[low] ** -2, (1.0 - tolerance) ** -2, known[high] ** -2
        return (low + (high - low) * (wanted - first) / (last - first)) * self._first_batch

    def _totals(self) -> tuple[float, float]:
        """Return tr Sigma and |g|^2 of all weights, each parameter weighted by how it moves."""
        rates = [rate for _, rate, _ in self._weights()]
        found = sums(part for pair in self._moments() for part in pair)
        trace, squared = (sum(rate * total for rate, total in zip(rates, found[k::2], strict=True)) for k in (0, 1))
        return trace, squared

    def _record(self) -> None:
        """Add a row for the current state to the history."""
        (trace, squared), speeds = self._totals(), self._speeds(lag.KAPPAS)
        self.history.append(
            {
                "step": self._step,
                "examples": self._examples,
                "time": self._time,
                "batch_size": self.batch_size,
                "noise_trace": trace,
                "squared_gradient": squared,
                "gradient_noise_scale": trace / squared if squared > 0 else math.nan,
                "critical_batch": self._critical_batch(lag.TOLERATED, speeds),
                **{f"{lag.SPEED}{kappa}": speed for kappa, speed in speeds.items()},
            }
        )

    def _read_hyperparameters(self) -> list[Any]:
        """Return what only a rescaling changes; a scheduler may change the rates and beta1."""
        groups = self.optimizer.param_groups
        return [
            getattr(self.optimizer, "batch_multiplier", 1.0),  # `rescale` multiplies it by its kappa
            getattr(self.optimizer, "micro_batches", 1),
            *((float(betas_of(group)[-1]), float(group["eps"])) for group in groups),
        ]

    def _refuse_other(self, kappa: float) -> None:
        taken = self._read_hyperparameters()[0] / self._hyperparameters[0]
        if not math.isclose(taken, positive("kappa", kappa), rel_tol=1e-9):
            raise self._error(f"kappa = {kappa:g}: the optimizer was rescaled by {taken:g}")

    def _refuse_rescaled(self) -> None:
        if self._read_hyperparameters() != self._hyperparameters:
            raise self._error("the optimizer was rescaled; call .rescaled(kappa), or make a new one")

    def _error(self, text: str) -> InputError:
        return InputError(f"{type(self).__name__}: {text}")


def refuse_sharded(parameters: Iterable[torch.Tensor]) -> None:
    """Raise an InputError if a parameter is part of a larger one: FSDP's, or a DTensor."""
    for parameter in parameters:
        if getattr(parameter, "_fsdp_flattened", False) or hasattr(parameter, "device_mesh"):
            raise InputError("parameters: sharded (FSDP or DTensor); the noise is measured of whole ones, as under DDP")
