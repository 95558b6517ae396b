"""Metrics: what is measured along every run.

Glossary (also the metric names in every table):
  train_loss     mean loss on a fixed subset of the training set, nats
  test_loss      mean loss on the test set, nats
  test_accuracy  share of the test set classified correctly, 0 to 1
  log_perplexity mean loss per predicted token on sequences of the validation set, the validation loss, nats
  f1, matthews, pearson, spearman
                 scores of GLUE tasks on their validation sets, up to 1
  squared_norm   squared Euclidean norm of all trained weights
  gradient_norm  Euclidean norm of the mean gradient over a fixed subset of the training set, perhaps a larger one
  noise_trace    trace of the covariance of a single example's gradient, tr Sigma, from that subset
  squared_gradient  squared norm of the mean gradient over the whole training set, estimated from the subset without
                 bias: gradient_norm^2 minus the subset's noise, which can fall below 0
  speed_k<kappa> predicted descent of the loss if the square-root rule multiplied this run's batch size by kappa,
                 relative to the run itself, 0 to 1 (scaling/gradient_noise.py)
  persistent_speed_k<kappa>  the same, from that part of the gradient which persists since the last measurement
  diverged       1 at the step where the loss, a metric or a weight ceased to be finite; the trajectory ends there
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasde.scaling.gradient_noise import SpeedMeter

__all__ = ["evaluate", "fixed_sample"]  # for workloads of your own; the others are this package's

Chunks = Iterable[tuple[Tensor, ...]]


def evaluate(
    workload: Any, model: nn.Module, meter: SpeedMeter | None, held_out: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Return the metrics of a workload's model: what `Workload.measure` returns.

    The model is in evaluation mode meanwhile: no dropout, and batch norm with its running statistics.

    Args:
        workload: The workload. Its ``subset`` and ``graded`` are lists of batches of training examples.
        model: The model, which is in training mode afterwards.
        meter: Measures the gradient on ``graded``, its noise and the predicted speeds; None leaves them out.
        held_out: Returns the metrics on test examples by name; called without arguments.

    Returns:
        Values by name, which are the train loss on ``subset``, what ``held_out`` returns, the squared norm of the
        weights, and what the ``meter`` measures.
    """
    model.eval()
    metrics = {"train_loss": mean_loss(model, workload.loss, workload.subset), **held_out()}
    metrics["squared_norm"] = squared_norm(model)
    if meter is not None:
        metrics |= meter.measure(model, workload.loss, workload.graded)
    model.train()
    return metrics


def first(chunks: Chunks, count: int | None) -> Chunks:
    """Yield chunks of the first ``count`` examples, the last one perhaps cut; all chunks for None."""
    left = math.inf if count is None else count
    for chunk in chunks:
        if left <= 0:
            return
        yield chunk if len(chunk[0]) <= left else tuple(part[:left] for part in chunk)
        left -= len(chunk[0])


def fixed_sample(size: int, count: int) -> Tensor:
    """Return places of examples: always the same, and shuffled so that chunks of them are independent.

    Args:
        size: Number of examples.
        count: Number of places wanted.

    Returns:
        Distinct places, int64 (min(size, count),).
    """
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]


@torch.inference_mode()
def mean_loss(model: nn.Module, loss: Callable[..., Tensor], chunks: Chunks) -> float:
    """Return the mean loss over all examples of the chunks, which may differ in size."""
    losses, sizes = zip(*((loss(model, *chunk).double(), len(chunk[0])) for chunk in chunks), strict=True)
    return sum(size * part for size, part in zip(sizes, torch.stack(losses).tolist(), strict=True)) / sum(sizes)


@torch.inference_mode()
def classification(model: nn.Module, chunks: Chunks) -> dict[str, float]:
    """Return test loss and test accuracy over chunks of (inputs, labels)."""
    found, total = [], 0
    for inputs, labels in chunks:
        logits = model(inputs)
        correct = (logits.argmax(1) == labels).sum()
        found.append(torch.stack([F.cross_entropy(logits, labels, reduction="sum").double(), correct.double()]))
        total += len(labels)
    loss, correct = map(sum, zip(*torch.stack(found).tolist(), strict=True))  # one wait for a GPU, not one per chunk
    return {"test_loss": loss / total, "test_accuracy": correct / total}


@torch.inference_mode()
def squared_norm(model: nn.Module) -> float:
    """Return the squared Euclidean norm of the trained weights, summed in float64."""
    return sum(torch.stack([p.double().square().sum() for p in model.parameters() if p.requires_grad]).tolist())
