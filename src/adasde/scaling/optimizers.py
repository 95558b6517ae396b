"""RMSprop and Adam as the paper defines them, beside what practice runs under the same names.

=================  ==========================================================================================
``RMSprop``        the paper: the step divides by sqrt(v) from BEFORE the current gradient; no bias correction
``TorchRMSprop``   torch.optim.RMSprop: the step divides by sqrt(v) AFTER the current gradient; v starts at 0
``AuthorsRMSprop`` the authors' code: Adam with beta1 = 0, so after the current gradient and bias-corrected
``Adam``           the paper, which is torch.optim.Adam: averages first, both bias-corrected, then the step
=================  ==========================================================================================

All share the limit lr -> 0 at fixed lr^2 / (1 - beta). `build` picks the implementation for a run: torch's
fused kernels where they compute the same algorithm, ours where torch has none. ``reference_*`` are the
definitions once more, one tensor and one line each, for the tests to compare with.
"""

import torch
from torch.optim import Optimizer

from adasde.common import InputError
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters


class RMSprop(Optimizer):
    """RMSprop of the paper: theta -= lr g / (sqrt(v) + eps), and only then v = beta v + (1 - beta) g^2.

    The paper leaves v at step 0 open, and 0 would divide the first gradient by eps alone. ``v`` is its
    starting value: a number, or None for the square of the first gradient. A coordinate whose gradient was
    always zero keeps v = 0, and its first non-zero gradient is then divided by eps: with eps as small as
    1e-8 this definition diverges on networks with inactive units, where the two variants do not.
    """

    def __init__(self, params, lr=1e-2, beta=0.99, eps=1e-8, weight_decay=0.0, v=None):
        RMSpropHyperparameters(lr, beta, eps, weight_decay)  # checks the ranges
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps, "weight_decay": weight_decay, "v": v})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; returns the closure's loss, if one is given."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            params, grads = _with_gradient(group)
            if not params:
                continue
            for p, g in zip(params, grads, strict=True):
                if not self.state[p]:
                    start = g * g if group["v"] is None else torch.full_like(p, group["v"])
                    self.state[p]["v"] = start
            vs = [self.state[p]["v"] for p in params]
            denominators = torch._foreach_sqrt(vs)
            torch._foreach_add_(denominators, group["eps"])
            torch._foreach_addcdiv_(params, grads, denominators, value=-group["lr"])
            torch._foreach_mul_(vs, group["beta"])
            torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["beta"])
        return loss


class Adam(Optimizer):
    """Adam of the paper, written out; the same algorithm as torch.optim.Adam, or AdamW with ``decoupled``."""

    def __init__(self, params, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False):
        AdamHyperparameters(lr, beta1, beta2, eps, weight_decay, decoupled)  # checks the ranges
        defaults = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "decoupled": decoupled})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; returns the closure's loss, if one is given."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            params, grads = _with_gradient(group)
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                self.state[p]["step"] += 1
            if group["decoupled"]:
                torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
            ms, vs = ([self.state[p][name] for p in params] for name in ("m", "v"))
            torch._foreach_lerp_(ms, grads, 1.0 - group["beta1"])
            torch._foreach_mul_(vs, group["beta2"])
            torch._foreach_addcmul_(vs, grads, grads, value=1.0 - group["beta2"])
            steps = [self.state[p]["step"] for p in params]
            denominators = torch._foreach_sqrt(vs)
            torch._foreach_div_(denominators, [(1.0 - group["beta2"] ** k) ** 0.5 for k in steps])
            torch._foreach_add_(denominators, group["eps"])
            scales = [-group["lr"] / (1.0 - group["beta1"] ** k) for k in steps]
            torch._foreach_addcdiv_(params, ms, denominators, scales)
        return loss


class TorchRMSprop(torch.optim.RMSprop):
    """torch's RMSprop under the names used here; v is updated first, starts at 0 and is not bias-corrected."""

    def __init__(self, params, lr=1e-2, beta=0.99, eps=1e-8, weight_decay=0.0):
        RMSpropHyperparameters(lr, beta, eps, weight_decay)
        super().__init__(params, lr=lr, alpha=beta, eps=eps, weight_decay=weight_decay)


class AuthorsRMSprop(torch.optim.Adam):
    """What the authors' code runs as RMSprop: torch's Adam with beta1 = 0, hence with bias correction."""

    def __init__(self, params, lr=1e-2, beta=0.99, eps=1e-8, weight_decay=0.0, **options):
        RMSpropHyperparameters(lr, beta, eps, weight_decay)
        super().__init__(params, lr=lr, betas=(0.0, beta), eps=eps, weight_decay=weight_decay, **options)


def build(params, hyperparameters, variant="paper"):
    """Optimizer that runs ``hyperparameters`` (scaling.Adam or scaling.RMSprop) on ``params``.

    ``variant`` is one of scaling.VARIANTS. The paper's Adam runs as torch's fused Adam or AdamW, the same algorithm.
    """
    h = hyperparameters
    name = "adam" if isinstance(h, AdamHyperparameters) else "rmsprop"
    if variant not in VARIANTS[name]:
        raise InputError(f"variant = {variant!r}: {name} has {', '.join(VARIANTS[name])}")
    if name == "adam":
        fused = torch.optim.AdamW if h.decoupled else torch.optim.Adam
        betas = (h.beta1, h.beta2)
        return fused(params, lr=h.lr, betas=betas, eps=h.eps, weight_decay=h.weight_decay, fused=True)
    if variant == "authors":
        return AuthorsRMSprop(params, h.lr, h.beta, h.eps, h.weight_decay, fused=True)
    return {"paper": RMSprop, "torch": TorchRMSprop}[variant](params, h.lr, h.beta, h.eps, h.weight_decay)


def reference_rmsprop(theta, gradients, h, v):
    """Plain RMSprop of the paper: yields theta after each of the ``gradients``, starting from second moment ``v``."""
    for g in gradients:
        g = g + h.weight_decay * theta
        theta = theta - h.lr * g / (v.sqrt() + h.eps)
        v = h.beta * v + (1 - h.beta) * g**2
        yield theta


def reference_torch_rmsprop(theta, gradients, h):
    """Plain RMSprop of torch: v first, from 0, no bias correction."""
    v = torch.zeros_like(theta)
    for g in gradients:
        g = g + h.weight_decay * theta
        v = h.beta * v + (1 - h.beta) * g**2
        theta = theta - h.lr * g / (v.sqrt() + h.eps)
        yield theta


def reference_authors_rmsprop(theta, gradients, h):
    """Plain RMSprop of the authors' code: v first, from 0, bias-corrected."""
    v = torch.zeros_like(theta)
    for k, g in enumerate(gradients, start=1):
        g = g + h.weight_decay * theta
        v = h.beta * v + (1 - h.beta) * g**2
        theta = theta - h.lr * g / ((v / (1 - h.beta**k)).sqrt() + h.eps)
        yield theta


def reference_adam(theta, gradients, h):
    """Plain Adam of the paper: yields theta after each of the ``gradients``; m and v start at 0."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for k, g in enumerate(gradients, start=1):
        if h.decoupled:
            theta = theta - h.lr * h.weight_decay * theta
        else:
            g = g + h.weight_decay * theta
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        theta = theta - h.lr * (m / (1 - h.beta1**k)) / ((v / (1 - h.beta2**k)).sqrt() + h.eps)
        yield theta


def _evaluate(closure):
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _with_gradient(group):
    """Parameters of a group that have a gradient, and those gradients with coupled decay added."""
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    if group["weight_decay"] and not group.get("decoupled") and params:
        grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
    return params, grads
