"""The gradient's noise for free: from the micro-batches, or ranks, whose gradients a training step computes anyway."""

import math
import operator
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel

from adasde.common import InputError, whole
from adasde.scaling.gradient_noise import Signal, clipped
from adasde.scaling.noise_report import NoiseReport, refuse_sharded
from adasde.scaling.optimizers import InvariantAdam
from adasde.scaling.rules import scaled_batch_size

LENGTH = 1000  # most measured steps over which the averages reach
ROW = 10  # measured steps per row of the history


class MicroBatchNoise(NoiseReport):
    """Measures the gradient's noise in the usual loop of gradient accumulation, or over the ranks of DDP.

    Call `accumulate` after each micro-batch's backward pass, before gradients are clipped or unscaled. The optimizer's
    step ends the group of micro-batches and refuses one of another size than before. Call `drop` where gradients are
    dropped without a step. The training stays as it is. ::

        noise = MicroBatchNoise(optimizer, micro_batch_size=8)
        for micro_batches in loader:
            for x, y in micro_batches:
                (loss(model(x), y) / len(micro_batches)).backward()
                noise.accumulate()
            optimizer.step()
            optimizer.zero_grad()

    Take A micro-batches of b examples and their mean gradient gbar. Per weight, the variance of one example's gradient
    is b times the variance of the micro-batches' gradients, and g^2 is gbar^2 less variance / (A b). Both are averaged
    over measured steps, exponentially: over about the last quarter of the training so far, and at most `LENGTH` steps.
    So what was measured early, where everything changes fast, is soon forgotten. The gradient itself is not averaged,
    since it turns within tens of steps. The history gets a row at every tenth measured step. The memory is three
    tensors per weight: two averages and a copy of the gradient.

    Args:
        optimizer: torch's Adam, AdamW, NAdam or RMSprop, one of these wrapped by accelerate or Lightning, or
            `InvariantAdam`, which squares the gradients anyway: do not call this class's `accumulate` then.
        micro_batch_size: Examples per micro-batch, at least 1; under DDP, per backward pass of one rank.
        every: Optimizer steps per measured step, at least 1; default 16, which costs 1 to 3 % of the training. A
            measured step costs 10 to 20 % more; measure more often where the gradient hides in its noise.
        scaler: The torch.amp.GradScaler of the training; default none. Steps that it skips are left out, with a
            RuntimeWarning.
        ddp: The DistributedDataParallel model of the training; default none. Then every backward pass of every rank is
            a micro-batch.

    Raises:
        InputError: If the rule does not cover the optimizer, a value is out of its range, parameters are sharded, or
            several ranks train without ``ddp``.

    Source: ours. McCandlish et al. 2018 (arXiv 1812.06162) use the norms of two gradients only.
    """

    _takes: ClassVar[tuple[type, ...]] = (InvariantAdam,)
    _saved: ClassVar[tuple[str, ...]] = (
        *NoiseReport._saved,
        *("micro_batch_size", "_micro_batches", "_measured", "_mass", "_deviations", "_squares"),
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        micro_batch_size: int,
        every: int = 16,
        scaler: Any = None,
        ddp: torch.nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer, batch_size=0)  # known after the first step
        self.micro_batch_size = whole("micro_batch_size", micro_batch_size, least=1)
        self.every, self._scaler, self._ddp = whole("every", every, least=1), None, ddp
        if scaler is not None and scaler.is_enabled():
            self._scaler = scaler
        self._invariant = isinstance(self.optimizer, InvariantAdam)
        self._ranks = 1 if self._invariant else _ranks(ddp)
        self._parameters = [weight for weight, _, _ in self._weights()]
        refuse_sharded(self._parameters)
        self._micro_batches, self._count = 0, 0  # per step, 0 if not known yet; of this step so far
        self._measured, self._mass = 0, 0.0  # measured steps; weight of all deviations in their average
        self._unit, self._spoiled = 1.0, False  # factor of squares that undoes the scaler; .grad is not finite
        # Averages over measured steps of the micro-batches' squared deviations from their mean, and of its square.
        self._deviations, self._squares = self._zeros(), self._zeros()
        self._before = self._zeros()  # .grad after the last `accumulate`; under DDP first the sum of local squares
        self._passes = [0] * len(self._parameters)  # backward passes of this rank since the last `accumulate`
        ends = self._refuse_changed if self._invariant else self._end_step
        self._hooks = [self.optimizer.register_step_pre_hook(lambda *_: ends())]
        if self._invariant:
            whole("micro_batches", self.optimizer.micro_batches, least=2)
            self._hooks.append(self.optimizer.register_step_post_hook(lambda *_: self._take_moments()))
        elif ddp is not None:
            self._hooks += [p.register_hook(partial(self._see, place)) for place, p in enumerate(self._parameters)]

    def accumulate(self) -> None:
        """Take note of a micro-batch. Call it after its backward pass, when ``.grad`` holds the sum so far.

        Under DDP it does nothing after a backward pass within ``no_sync``, so it may be called there or not.

        Raises:
            InputError: If a gradient is sparse, or not finite while no scaler is there to skip the step; if a step is
                overdue; if the optimizer was rescaled or trains other parameters.
        """
        if self._invariant:
            raise self._error("accumulate: InvariantAdam gathers the gradients; call only its own accumulate()")
        if self._ddp is not None and not self._ddp.require_backward_grad_sync:
            return
        if self._count == 0:
            self._refuse_changed()
        gradients = self._gradients() if self._due() else []
        finite = self._finite(gradients)
        complete = self._count > 0 and (self._ddp is not None or self._count == self._micro_batches)
        if complete and self._scaler is None:
            raise self._error(
                f"accumulate: already called for the {self._count} micro-batches of this step; take it, or .drop()"
            )
        if complete or (finite and self._spoiled):  # gradients were zeroed, but no step was taken
            self._skip()
        self._spoiled = not finite
        self._count = self._count + 1 if self._ddp is None else self._ranks * max(self._passes)
        if gradients and finite:
            self._unit = 1.0 if self._scaler is None else self._scaler.get_scale() ** -2
            (self._add if self._ddp is None else self._add_ranks)(gradients)
        if self._ddp is not None:
            self._passes = [0] * len(self._parameters)

    def rescaled(self, kappa: float, micro_batch_size: int | None = None) -> None:
        """Go on measuring after `rescale(optimizer, kappa)`. The averages are kept; the lags start anew.

        Args:
            kappa: The batch multiplier given to `rescale`.
            micro_batch_size: Examples per micro-batch from now on; default the same as before.

        Raises:
            InputError: Before the first step, or if kappa * batch_size is not a whole number of micro-batches, at
                least 2. Nothing has changed then.
        """
        self._refuse_unmeasured()
        self._refuse_other(kappa)
        size = self.micro_batch_size if micro_batch_size is None else whole("micro_batch_size", micro_batch_size, 1)
        batch_size = scaled_batch_size(self.batch_size, kappa)
        count = batch_size // size
        if count * size != batch_size or count < 2:
            raise self._error(f"micro_batch_size = {size}: batch size {batch_size} must be 2 or more of them")
        variances, squares = self.per_weight()
        self.drop()
        self._micro_batches, self.micro_batch_size, self._mass = count, size, count - 1.0
        torch._foreach_copy_(self._deviations, torch._foreach_mul(variances, self._mass / (count * batch_size)))
        torch._foreach_copy_(self._squares, torch._foreach_add(squares, variances, alpha=1.0 / batch_size))
        super().rescaled(kappa)

    def drop(self) -> None:
        """Forget the micro-batches of a step that is not taken, such as those left at the end of an epoch."""
        self._count, self._spoiled, self._passes = 0, False, [0] * len(self._parameters)

    def remove(self) -> None:
        """Stop measuring: from now on the optimizer steps without `accumulate`."""
        for hook in self._hooks:
            hook.remove()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Args:
            state: The dictionary, of the same micro-batch size and for the same parameters.

        Raises:
            InputError: If it is another's.
        """
        if state.get("micro_batch_size") != self.micro_batch_size:
            given = state.get("micro_batch_size")
            raise self._error(f"state_dict: micro_batch_size = {given}; this one has {self.micro_batch_size}")
        for name in ("deviations", "squares"):
            if [tensor.shape for tensor in state.get(name, ())] != [p.shape for p in self._parameters]:
                raise self._error(f"state_dict: {name}: must be one tensor per trained parameter, of its shape")
        averages = self._deviations, self._squares
        super().load_state_dict(state)
        self._deviations, self._squares = (
            [new.to(old) for new, old in zip(loaded, place, strict=True)]
            for loaded, place in zip((self._deviations, self._squares), averages, strict=True)
        )

    def _moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._refuse_unmeasured()
        # What stands in .grad is the mean, so a micro-batch's part of it is 1 / A of its gradient.
        factor = self._micro_batches * self.batch_size / self._mass
        for deviations, squares in zip(self._deviations, self._squares, strict=True):
            variance = deviations * factor
            yield variance, squares.sub(variance, alpha=1.0 / self.batch_size)

    def _signals(self) -> Iterator[Signal]:
        for variance, estimates in self._moments():
            yield clipped(estimates, variance), variance.clamp(min=0.0)

    def _base_batch(self) -> int:
        return self.micro_batch_size if self._invariant else self.batch_size

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in self._parameters]

    def _due(self) -> bool:
        return self._step % self.every == 0

    def _weight(self) -> float:
        """Return the weight of the present measured step in the averages."""
        return max(4.0 / (self._measured + 4.0), 1.0 / LENGTH)

    def _refuse_changed(self) -> None:
        self._refuse_rescaled()
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        if len(trained) != len(self._parameters) or any(map(operator.is_not, trained, self._parameters)):
            raise self._error("the optimizer trains other parameters than before; make a new one")

    def _gradients(self) -> list[torch.Tensor]:
        """Return what stands in ``.grad``, zeros for None; InputError if it is sparse."""
        found = [p.new_zeros(()).expand_as(p) if p.grad is None else p.grad.detach() for p in self._parameters]
        if any(gradient.layout != torch.strided for gradient in found):
            raise self._error("gradient: sparse; its noise needs dense ones (sparse=False in the embedding)")
        kinds = (before.dtype for before in self._before)
        return [g if g.dtype == kind else g.to(kind) for g, kind in zip(found, kinds, strict=True)]

    def _finite(self, gradients: list[torch.Tensor]) -> bool:
        """Return whether all gradients are finite; InputError if not, and no scaler will skip the step."""
        norms = torch._foreach_norm(gradients) if gradients else []
        if not norms or math.isfinite(torch.stack([norm.to(norms[0].device) for norm in norms]).sum().item()):
            return True
        if self._scaler is None:
            place = next(place for place, norm in enumerate(norms) if not norm.isfinite())
            raise self._error(
                f"gradient of parameter {place}, of shape {tuple(gradients[place].shape)}: not finite; "
                "stop, or give the GradScaler that skips such steps as scaler"
            )
        return False

    def _skip(self) -> None:
        self._count, self._spoiled = 0, False
        text = f"MicroBatchNoise: left out a step after step {self._step}, since the scaler skipped it"
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _add(self, gradients: list[torch.Tensor]) -> None:
        """Average this micro-batch's squared deviation from those before it in the step."""
        number, weight = self._count, self._weight()
        if number == 1:
            torch._foreach_mul_(self._deviations, 1.0 - weight)
            self._mass *= 1.0 - weight
        else:
            # Let d be this micro-batch's part of .grad, and m the mean of the parts before it. The expectation of
            # (number - 1) / number (d - m)^2 is the variance of a part. `_before` becomes (1 - number) (d - m).
            torch._foreach_lerp_(self._before, gradients, weight=1.0 - number)
            value = weight * self._unit / (number * (number - 1))
            torch._foreach_addcmul_(self._deviations, self._before, self._before, value=value)
            self._mass += weight
        torch._foreach_copy_(self._before, gradients)

    def _add_ranks(self, gradients: list[torch.Tensor]) -> None:
        """Average the squared deviations of all backward passes of all ranks in this step."""
        weight = self._weight()
        for passes, squares in zip(self._passes, self._before, strict=True):
            if not passes:
                squares.zero_()
        group: Any = self._ddp.process_group  # type: ignore[union-attr]
        for squares in self._before:
            torch.distributed.all_reduce(squares, group=group)
        torch._foreach_mul_(self._deviations, 1.0 - weight)
        torch._foreach_add_(self._deviations, self._before, alpha=weight * self._unit / self._ranks**2)
        torch._foreach_addcmul_(self._deviations, gradients, gradients, value=-weight * self._unit / self._count)
        self._mass = (1.0 - weight) * self._mass + weight * (self._count - 1)
        torch._foreach_copy_(self._before, gradients)

    def _see(self, place: int, gradient: torch.Tensor) -> None:
        """Add the square of this rank's own gradient, before DDP averages it over ranks."""
        if self._due() and gradient.layout == torch.strided:
            if not self._passes[place]:
                self._before[place].zero_()
            self._before[place].addcmul_(gradient.detach(), gradient.detach())
        self._passes[place] += 1

    def _take_moments(self) -> None:
        """Average what `InvariantAdam` has gathered for its step."""
        weight, count = self._weight(), self.optimizer.micro_batches
        if self._due():
            moments = self.optimizer.last_moments()
            for place, parameter in enumerate(self._parameters):
                mean, squares = moments.get(parameter, (torch.zeros_like(parameter),) * 2)
                self._deviations[place].mul_(1.0 - weight).add_(squares - mean.square(), alpha=weight / count)
                self._before[place].copy_(mean)
            self._mass = (1.0 - weight) * self._mass + weight * (count - 1)
        self._count = count
        self._end_step()

    def _end_step(self) -> None:
        """End the group of micro-batches. It runs before the optimizer's step, so that an error prevents the step."""
        count, self._count = self._count, 0
        if self._spoiled:
            if getattr(self.optimizer, "found_inf", None) is None:
                raise self._error("gradient: not finite, and the scaler does not skip this step; use scaler.step")
            self._skip()  # a fused optimizer sees found_inf and takes no step
            return
        if count < 2:
            raise self._error(f"{count} micro-batches before this step; there must be 2 or more, each accumulated")
        if count != (self._micro_batches or count):
            raise self._error(f"{count} micro-batches before this step, but {self._micro_batches} before others")
        self._micro_batches, self.batch_size = count, count * self.micro_batch_size
        self._first_batch = self._first_batch or self._base_batch()
        due, weight = self._due(), self._weight()
        if due:
            torch._foreach_mul_(self._squares, 1.0 - weight)
            torch._foreach_addcmul_(self._squares, self._before, self._before, value=weight * self._unit)
            self._measured += 1
        self._step, self._examples = self._step + 1, self._examples + self.batch_size
        self._time += self._rate() ** 2 * self.batch_size / self._base_batch()
        if due and self._measured % ROW == 0:
            self._record()

    def _refuse_unmeasured(self) -> None:
        if not self._measured:
            raise self._error("nothing measured yet; the first step is measured")


def _ranks(ddp: torch.nn.Module | None) -> int:
    """Return the number of ranks that share the gradient."""
    if ddp is not None:
        if not isinstance(ddp, DistributedDataParallel):
            raise InputError(f"ddp = {type(ddp).__name__}: must be a DistributedDataParallel model")
        return torch.distributed.get_world_size(ddp.process_group)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        raise InputError("ddp: several ranks train; give the DistributedDataParallel model")
    return 1
