"""Batch-size-invariant Adam: square the gradients of micro-batches, then average them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from adasde.common import InputError, positive, whole
from adasde.scaling.hyperparameters import check_flag
from adasde.scaling.optimizers.checks import Parameters, check_group, closure_loss, refuse_sparse


class InvariantAdam(Optimizer):
    """Batch-size-invariant Adam: it squares the gradients of micro-batches, and then averages the squares.

    A step on k micro-batches takes the place of k steps of the baseline, at any signal over noise:

        m <- beta1^k m + (1 - beta1^k) mean_j g_j
        v <- beta2^k v + (1 - beta2^k) mean_j g_j^2
        theta <- theta - k lr m_hat / (sqrt(v_hat) + eps)

    where g_j is the gradient of micro-batch j, m_hat is m / (1 - beta1^n) after n micro-batches, and so is v_hat. The
    hyperparameters are the baseline's, whose batch is one micro-batch, so nothing is rescaled. The step of k lr limits
    k: where it is too long, training falls behind or diverges. ::

        optimizer = InvariantAdam(model.parameters(), lr=1e-3, micro_batches=4)
        for batch in batches:
            for part in batch.split(32):
                loss(model, part).backward()  # the micro-batch's own mean, not divided by 4
                optimizer.accumulate()
            optimizer.step()

    - With ``micro_batches=1`` it is torch's Adam or AdamW: `step` takes the gradients that stand in .grad, with or
      without a closure.
    - A checkpoint of torch's Adam or AdamW at the baseline loads and goes on as it is: the state has the same names,
      and ``step`` counts micro-batches. In the middle of an accumulation the sums are part of the state.
      ``micro_batches`` is not part of it, and may be changed between steps.
    - A parameter without gradient counts as zero in that micro-batch, and is left alone if it has none in all of them.
    - Clip after each backward pass, before `accumulate`, with the baseline's norm.
    - A GradScaler serves ``micro_batches=1`` as usual. With more of them call ``scaler.unscale_(optimizer)`` before,
      and ``scaler.update()`` after each `accumulate`, and ``optimizer.step()`` itself.
    - Under DistributedDataParallel a micro-batch is what all processes take in one pass; use no ``no_sync``.

    Args:
        params: Parameters, or dictionaries of parameter groups, which may have arguments of their own.
        lr: Learning rate of the baseline, >= 0; default 0.001.
        betas: Decays of m and v of the baseline, each in [0, 1); default (0.9, 0.999).
        eps: Number added to the denominator, >= 0; default 1e-8.
        weight_decay: Weight decay of the baseline, >= 0; default 0.
        decoupled: Whether decay acts as in AdamW (default): k times theta -= lr * weight_decay * theta. Otherwise
            weight_decay * theta is added to the gradient of every micro-batch.
        micro_batches: Micro-batches per step, k, a whole number >= 1; default 1.

    Raises:
        InputError: If a value is out of its range, or a parameter is sharded (DTensor) or complex.

    Source: Wang and Aitchison (arXiv 2402.18824); the form for k micro-batches is ours, from k steps of the baseline at
    fixed weights.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        micro_batches: int = 1,
    ) -> None:
        self.micro_batches = _count(micro_batches)
        self._last: tuple[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] | None = None
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decoupled": decoupled}
        super().__init__(params, {**options, "accumulated": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with arguments of their own, as torch.optim.Optimizer does.

        Args:
            param_group: The parameters under ``params``, and arguments by name; those left out have the defaults.

        Raises:
            InputError: If a value is out of its range, or a parameter is sharded (DTensor) or complex.
        """
        group = {**self.defaults, **param_group}
        if not isinstance(group["betas"], Sequence) or len(group["betas"]) != 2:
            raise InputError(f"betas = {group['betas']!r}: must be two numbers, (beta1, beta2)")
        check_group(group, beta1=group["betas"][0], beta2=group["betas"][1])
        check_flag("decoupled", group["decoupled"])
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            kind = "sharded (DTensor)" if hasattr(p, "device_mesh") else "complex" if p.is_complex() else ""
            if kind:
                self.param_groups.pop()
                raise InputError(f"params: one of shape {tuple(p.shape)} is {kind}; InvariantAdam takes plain tensors")

    @torch.no_grad()
    def accumulate(self, error_if_nonfinite: bool = True) -> None:
        """Take the gradients that stand in .grad as those of one micro-batch, and clear them.

        Args:
            error_if_nonfinite: Whether to refuse gradients that are not finite (default). On a GPU this waits for the
                backward pass. With False they reach the weights, as with torch's Adam.

        Raises:
            InputError: If no parameter has a gradient, or one is sparse or not finite. Nothing has been changed then;
                ``model.zero_grad()`` drops the gradients, and `zero_grad` the whole step.
        """
        if not self._gradients(error_if_nonfinite):
            raise InputError("accumulate: no parameter has a gradient; call it after backward()")
        self._add()
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step from what `accumulate` has gathered.

        Args:
            closure: Function that computes the gradients and returns the loss; only with ``micro_batches=1``.

        Returns:
            The closure's loss, if a closure is given.

        Raises:
            InputError: If `accumulate` was not called ``micro_batches`` times. Nothing has been changed then.
        """
        k = _count(self.micro_batches)
        count = self.param_groups[0]["accumulated"]
        if closure is not None and (k > 1 or count):
            raise InputError(
                f"closure: goes with micro_batches = 1 and no accumulate(), not with {k} and {count}; call "
                "accumulate() after each backward(), and step() without it"
            )
        loss = closure_loss(closure)
        if k == 1 and not count:  # as torch's
            if not self._gradients(error_if_nonfinite=True):
                return loss
            self._add()
        elif count != k:
            wrong = f"{k - count} missing" if count < k else f"{count - k} too many"
            raise InputError(
                f"micro_batches = {k}: step() after {count} accumulate(), {wrong}; set optimizer.micro_batches to take "
                "another number, or drop them by optimizer.zero_grad()"
            )
        taken = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]()
        for group in self.param_groups:
            group["accumulated"] = 0
            taken += self._update(group, k)
        self._last = k, taken
        return loss

    def last_moments(self) -> dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return the moments of the gradients that the last step took, for measuring their noise.

        Call it after `step`, for example in a hook of ``register_step_post_hook``, and before the next `accumulate`.
        Coupled weight decay, a part of the loss, is included.

        Returns:
            Two tensors for each parameter that had a gradient, both of its shape. They are the means over the
            micro-batches of their gradients and of the squares of their gradients.

        Raises:
            InputError: If there was no step yet, or the next accumulation has begun.
        """
        if self._last is None:
            raise InputError("last_moments: call it after step(), and before the next accumulate()")
        k, taken = self._last
        return {p: (total / k, squares / k) for p, total, squares in taken}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, and those that were accumulated for the next step.

        Args:
            set_to_none: Whether gradients become None (default) instead of 0.
        """
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            group["accumulated"] = 0
        for state in self.state.values():
            state.pop("gradient_sum", None)
            state.pop("square_sum", None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Args:
            state_dict: What `state_dict` returned, of this class or of torch's Adam or AdamW.

        Raises:
            InputError: If it is another optimizer's, or has amsgrad or maximize.
        """
        for group in state_dict.get("param_groups", [{}]):
            for option in ("amsgrad", "maximize"):
                if group.get(option):
                    raise InputError(f"{option} = True: InvariantAdam continues Adam and AdamW without it")
            if "betas" not in group or "state" not in state_dict:
                raise InputError("state_dict: must be of InvariantAdam, or of torch's Adam or AdamW")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "micro_batches": self.micro_batches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = self.__dict__.get("param_groups")
        super().__setstate__(state)
        self._last = None
        # A checkpoint of torch's has names of its own, or none; fused Adam keeps counts on the GPU.
        for place, group in enumerate(self.param_groups):
            if "decoupled" not in group:
                group["decoupled"] = group.get("decoupled_weight_decay", own[place]["decoupled"] if own else True)
            group.setdefault("accumulated", 0)
        for values in self.state.values():
            if "step" in values:
                values["step"] = torch.as_tensor(values["step"], dtype=torch.float32, device="cpu")

    def _gradients(self, error_if_nonfinite: bool) -> list[torch.Tensor]:
        """Return the gradients that stand in .grad. InputError if one is sparse or not finite."""
        grads = refuse_sparse(self)
        if grads and error_if_nonfinite:
            norms = torch._foreach_norm(grads)
            if not torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all():
                raise InputError("gradient: not finite, or its square is not; nothing was accumulated")
        return grads

    def _add(self) -> None:
        """Add the gradients that stand in .grad, and their squares, to the sums."""
        self._last = None
        for group in self.param_groups:
            group["accumulated"] += 1
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["weight_decay"] and not group["decoupled"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            waiting = []  # sums and gradients of the parameters that have had a gradient in this step
            for p, g in zip(params, grads, strict=True):
                state = self.state[p]
                if "gradient_sum" in state:
                    waiting.append((state["gradient_sum"], state["square_sum"], g))
                else:
                    state |= {"gradient_sum": g.clone(), "square_sum": g * g}
            if waiting:
                sums, squares, grads = map(list, zip(*waiting, strict=True))
                torch._foreach_add_(sums, grads)
                torch._foreach_addcmul_(squares, grads, grads)

    def _update(self, group: dict[str, Any], k: int) -> Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Take the step of one parameter group; return its parameters, with the sums of gradients and of squares."""
        params = [p for p in group["params"] if "gradient_sum" in self.state.get(p, ())]
        if not params:
            return ()
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if "step" not in state:
                state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state["step"] += k
        sums, squares = ([state.pop(name) for state in states] for name in ("gradient_sum", "square_sum"))
        means, seconds = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        lr, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
        if group["weight_decay"] and group["decoupled"]:
            torch._foreach_mul_(params, (1.0 - lr * group["weight_decay"]) ** k)
        for averages, beta, totals in ((means, beta1, sums), (seconds, beta2, squares)):
            torch._foreach_mul_(averages, beta**k)
            torch._foreach_add_(averages, totals, alpha=(1.0 - beta**k) / k)
        counts = [float(state["step"]) for state in states]
        denominators = torch._foreach_sqrt(seconds)
        torch._foreach_div_(denominators, [math.sqrt(1.0 - beta2**count) for count in counts])
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(params, means, denominators, [-k * lr / (1.0 - beta1**count) for count in counts])
        return zip(params, sums, squares, strict=True)


def _count(micro_batches: Any) -> int:
    return int(whole("micro_batches", positive("micro_batches", micro_batches), least=1))
