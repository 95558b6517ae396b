"""RMSprop and Adam as the paper defines them, beside what people run under the same names.

=======  =========  ==================================================================================================
Adam     paper      `_FusedAdam`, as torch.optim.Adam: update both averages, correct their bias, then take the step
Adam     invariant  `InvariantAdam`: square the gradients of micro-batches, then average them
RMSprop  paper      `RMSprop`: divide by sqrt(v) from BEFORE the current gradient; no bias correction
RMSprop  torch      torch.optim.RMSprop: divide by sqrt(v) AFTER the current gradient; v starts at 0
RMSprop  authors    `_FusedAdam` with beta1 = 0, as the authors' code: after the current gradient, bias-corrected
=======  =========  ==================================================================================================

All variants of an optimizer have the same limit for lr -> 0 at fixed lr^2 / (1 - beta). `build` and `build_invariant`
choose the implementation of a run: torch's where torch has the same algorithm, ours elsewhere.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from adasde.common import InputError, positive, whole
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters

_Parameters = Iterable[Any]  # parameters, or dictionaries of parameter groups


class RMSprop(Optimizer):
    """RMSprop of the paper: theta -= lr g / (sqrt(v) + eps), and only then v = alpha v + (1 - alpha) g^2.

    Its arguments are torch's, and it works where torch.optim.RMSprop does: schedulers, GradScaler, hooks, checkpoints.

    The paper does not give v at step 0. Starting from 0 would divide the first gradient by eps. So ``v`` is the
    starting value. A coordinate whose gradient was always zero keeps v = 0, and its first non-zero gradient is divided
    by eps. With eps as small as 1e-8 this definition therefore diverges on networks with inactive units, where the two
    other variants do not.

    Args:
        params: Parameters, or dictionaries of parameter groups, which may have arguments of their own.
        lr: Learning rate, >= 0; default 0.01.
        alpha: Decay of the running mean of squared gradients, in [0, 1), the paper's beta; default 0.99.
        eps: Number added to the denominator, >= 0; default 1e-8.
        weight_decay: Coupled weight decay (an L2 term of the loss), >= 0; default 0.
        momentum: Decay of a running sum of the steps, as torch's, >= 0; default 0, since the paper's RMSprop has none.
            OneCycleLR and CyclicLR set it unless they are given cycle_momentum=False.
        v: Second moment before the first step: a number >= 0, or None (default) for the square of the first gradient.

    Raises:
        InputError: If a value is out of its range; in `step`, if a gradient is sparse. Nothing has been changed then.

    Source: the paper's definition; its v at step 0, and momentum, are ours.
    """

    def __init__(
        self,
        params: _Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        v: float | None = None,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "v": v}
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with arguments of their own, as torch.optim.Optimizer does."""
        group = {**self.defaults, **param_group}
        _check_group(group, alpha=group["alpha"])
        for name in ("momentum", "v"):
            _check_number(name, group[name] or 0.0)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. Return the closure's loss, if a closure is given."""
        loss = _loss(closure)
        _refuse_sparse(self)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            for p, g in zip(params, grads, strict=True):
                if not self.state[p]:
                    self.state[p]["v"] = g * g if group["v"] is None else torch.full_like(p, group["v"])
            vs = [self.state[p]["v"] for p in params]
            denominators = torch._foreach_sqrt(vs)
            torch._foreach_add_(denominators, group["eps"])
            if group["momentum"]:
                buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_addcdiv_(buffers, grads, denominators)
                torch._foreach_add_(params, buffers, alpha=-float(group["lr"]))
            else:
                torch._foreach_addcdiv_(params, grads, denominators, value=-float(group["lr"]))
            torch._foreach_mul_(vs, group["alpha"])
            torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["alpha"])
        return loss


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
        params: _Parameters,
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
        """Add parameters with arguments of their own, as torch.optim.Optimizer does."""
        group = {**self.defaults, **param_group}
        if not isinstance(group["betas"], Sequence) or len(group["betas"]) != 2:
            raise InputError(f"betas = {group['betas']!r}: must be two numbers, (beta1, beta2)")
        _check_group(group, beta1=group["betas"][0], beta2=group["betas"][1])
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
        loss = _loss(closure)
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
            For each parameter that had a gradient: the mean over the micro-batches of their gradients, and of the
            squares of their gradients, both of the parameter's shape.

        Raises:
            InputError: If there was no step yet, or the next accumulation has begun.
        """
        if self._last is None:
            raise InputError("last_moments: call it after step(), and before the next accumulate()")
        k, taken = self._last
        return {p: (total / k, squares / k) for p, total, squares in taken}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, and those that were accumulated for the next step."""
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            group["accumulated"] = 0
        for state in self.state.values():
            state.pop("gradient_sum", None)
            state.pop("square_sum", None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, also that of torch's Adam or AdamW."""
        for group in state_dict["param_groups"]:
            for option in ("amsgrad", "maximize"):
                if group.get(option):
                    raise InputError(f"{option} = True: InvariantAdam continues Adam and AdamW without it")
            if "betas" not in group:
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
        grads = _refuse_sparse(self)
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


class _FusedAdam:
    """Adam or AdamW by torch's fused kernel, with the numbers of torch.optim's class and less Python around them.

    A step of a small network, of a millisecond or two, is 2 % shorter. A job is a second shorter, because torch.optim's
    class imports torch's compiler at its first use. ``param_groups`` holds one group, whose ``lr`` schedules set.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"params": self.params, "lr": lr}]
        self.betas, self.eps, self.weight_decay, self.decoupled = betas, eps, weight_decay, decoupled
        self.state = [
            (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), dtype=torch.float32, device=p.device))
            for p in self.params
        ]  # both averages, and the number of steps

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the parameters that have a gradient."""
        given = [(p, p.grad, *state) for p, state in zip(self.params, self.state, strict=True) if p.grad is not None]
        params, grads, first, second, counts = map(list, zip(*given, strict=True))
        (adamw if self.decoupled else adam)(  # torch 2.5 has no argument for decoupled decay
            params, grads, first, second, [], counts, fused=True, amsgrad=False, maximize=False,
            beta1=self.betas[0], beta2=self.betas[1], lr=self.param_groups[0]["lr"], eps=self.eps,
            weight_decay=self.weight_decay,
        )  # fmt: skip

    def as_torch(self) -> torch.optim.Adam:
        """Return torch's Adam with the same parameters and state, for what knows torch's classes only."""
        lr, decoupled = self.param_groups[0]["lr"], self.decoupled
        optimizer = torch.optim.Adam(
            self.params, lr, self.betas, self.eps, self.weight_decay, decoupled_weight_decay=decoupled
        )
        for p, (first, second, steps) in zip(self.params, self.state, strict=True):
            optimizer.state[p] = {"exp_avg": first, "exp_avg_sq": second, "step": steps}
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"lr": self.param_groups[0]["lr"], "state": [list(tensors) for tensors in self.state]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.param_groups[0]["lr"] = state["lr"]
        for own, saved in zip(self.state, state["state"], strict=True):
            for tensor, value in zip(own, saved, strict=True):
                tensor.copy_(value)


def build(
    params: _Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, variant: str = "paper"
) -> Optimizer | _FusedAdam:
    """Return the optimizer that runs ``hyperparameters`` on ``params``, by the implementation called ``variant``."""
    h = hyperparameters
    if variant not in VARIANTS[h.name]:
        raise InputError(f"variant = {variant!r}: {h.name} has {', '.join(VARIANTS[h.name])}")
    shared: dict[str, Any] = {"lr": h.lr, "eps": h.eps, "weight_decay": h.weight_decay}
    if isinstance(h, AdamHyperparameters):
        return _FusedAdam(params, betas=(h.beta1, h.beta2), decoupled=h.decoupled, **shared)
    if variant == "authors":
        return _FusedAdam(params, betas=(0.0, h.beta), **shared)
    if variant == "torch":
        return torch.optim.RMSprop(params, alpha=h.beta, **shared)
    return RMSprop(params, alpha=h.beta, **shared)


def build_invariant(
    params: _Parameters, hyperparameters: AdamHyperparameters | RMSpropHyperparameters, micro_batches: int
) -> InvariantAdam:
    """Return the optimizer that runs the baseline's ``hyperparameters`` on ``micro_batches`` of its batches at a time.

    RMSprop is the authors' variant, Adam with beta1 = 0. The others have no invariant form here.
    """
    h = hyperparameters
    betas = (h.beta1, h.beta2) if isinstance(h, AdamHyperparameters) else (0.0, h.beta)
    decoupled = isinstance(h, AdamHyperparameters) and h.decoupled
    return InvariantAdam(params, h.lr, betas, h.eps, h.weight_decay, decoupled, micro_batches)


def _count(micro_batches: Any) -> int:
    return int(whole("micro_batches", positive("micro_batches", micro_batches), least=1))


def _check_group(group: dict[str, Any], **betas: Any) -> None:
    for name in ("lr", "eps", "weight_decay"):
        _check_number(name, group[name])
    for name, beta in betas.items():
        _check_number(name, beta, below=1.0)


def _check_number(name: str, value: Any, below: float = math.inf) -> None:
    """InputError unless ``value`` is a number in [0, ``below``), or a tensor with one. torch takes lr = 0 as well."""
    number = isinstance(value, int | float) or isinstance(value, torch.Tensor) and value.numel() == 1
    if not (number and 0.0 <= float(value) < below):
        shown = f"{float(value):g}" if number else repr(value)
        raise InputError(f"{name} = {shown}: must be {'in [0, 1)' if below == 1.0 else 'a finite number >= 0'}")


def _loss(closure: Callable[[], float] | None) -> float | None:
    """Return the loss of a step's closure, which computes the gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _refuse_sparse(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the gradients of the optimizer's parameters. InputError if one is sparse."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for g in grads:
        if g.layout != torch.strided:
            raise InputError(
                f"gradient: one of shape {tuple(g.shape)} is sparse; use dense ones (nn.Embedding with sparse=False)"
            )
    return grads
