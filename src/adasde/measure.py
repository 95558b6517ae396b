"""Test functions: what is measured along every trajectory.

Glossary (also the metric names in every table):
  train_loss     mean loss on a fixed subset of the training set, nats
  test_loss      mean loss on the test set, nats
  test_accuracy  share of the test set classified correctly, 0 to 1
  squared_norm   squared Euclidean norm of all trained weights
  gradient_norm  Euclidean norm of the gradient of train_loss
  diverged       1 at the step where the loss, a metric or a weight ceased to be finite; the trajectory ends there
"""

import torch
from torch.nn import functional as F


def loss_and_gradient_norm(model, loss, chunks) -> tuple[float, float]:
    """Mean of ``loss(model, *chunk)`` over the examples of all chunks, and the norm of its gradient."""
    model.zero_grad(set_to_none=True)
    total = sum(len(chunk[0]) for chunk in chunks)
    mean = 0.0
    for chunk in chunks:
        part = loss(model, *chunk) * (len(chunk[0]) / total)
        part.backward()
        mean += part.item()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))).item()
    model.zero_grad(set_to_none=True)
    return mean, norm


@torch.inference_mode()
def classification(model, chunks) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over chunks of (inputs, labels)."""
    loss, correct, total = 0.0, 0, 0
    for inputs, labels in chunks:
        logits = model(inputs)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        total += len(labels)
    return loss / total, correct / total


@torch.inference_mode()
def squared_norm(model) -> float:
    """Squared Euclidean norm of the trained weights (float64 sum)."""
    return sum(p.double().square().sum().item() for p in model.parameters() if p.requires_grad)
