"""The optimizers' definitions, plainly written for one tensor, to compare the fast ones with.

Each function yields theta after each of the ``gradients``. ``h`` are the hyperparameters.
"""

import torch


def plain_rmsprop(theta, gradients, h, v, momentum=0.0):
    """RMSprop of the paper: divide by the second moment from before the gradient; it starts from ``v``."""
    total = torch.zeros_like(theta)
    for g in gradients:
        g = g + h.weight_decay * theta
        total = momentum * total + g / (v.sqrt() + h.eps)
        theta = theta - h.lr * total
        v = h.beta * v + (1 - h.beta) * g**2
        yield theta


def plain_torch_rmsprop(theta, gradients, h):
    """RMSprop of torch: update v first; it starts at 0, and its bias is not corrected."""
    v = torch.zeros_like(theta)
    for g in gradients:
        g = g + h.weight_decay * theta
        v = h.beta * v + (1 - h.beta) * g**2
        theta = theta - h.lr * g / (v.sqrt() + h.eps)
        yield theta


def plain_authors_rmsprop(theta, gradients, h):
    """RMSprop of the authors' code: update v first; it starts at 0, and its bias is corrected."""
    v = torch.zeros_like(theta)
    for k, g in enumerate(gradients, start=1):
        g = g + h.weight_decay * theta
        v = h.beta * v + (1 - h.beta) * g**2
        theta = theta - h.lr * g / ((v / (1 - h.beta**k)).sqrt() + h.eps)
        yield theta


def plain_adam(theta, gradients, h):
    """Adam of the paper: update m and v first; both start at 0, and their bias is corrected."""
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


def plain_invariant_adam(theta, gradients, h):
    """Batch-size-invariant Adam; each of ``gradients`` lists those of a step's micro-batches, with None for zero."""
    m, v, count = torch.zeros_like(theta), torch.zeros_like(theta), 0
    for micro_batches in gradients:
        k = len(micro_batches)
        if all(g is None for g in micro_batches):
            yield theta
            continue
        given = [g for g in micro_batches if g is not None]
        if not h.decoupled:
            given = [g + h.weight_decay * theta for g in given]
        count += k
        m = h.beta1**k * m + (1 - h.beta1**k) * sum(given) / k
        v = h.beta2**k * v + (1 - h.beta2**k) * sum(g**2 for g in given) / k
        if h.decoupled:
            for _ in range(k):
                theta = theta - h.lr * h.weight_decay * theta
        theta = theta - k * h.lr * (m / (1 - h.beta1**count)) / ((v / (1 - h.beta2**count)).sqrt() + h.eps)
        yield theta
