"""Metrics: what is measured along every run.

Glossary (also the metric names in every table):
  train_loss     mean loss on a fixed subset of the training set, nats
  test_loss      mean loss on the test set, nats
  test_accuracy  share of the test set classified correctly, 0 to 1
  log_perplexity mean loss per predicted token on sequences of the validation set, the validation loss, nats
  f1, matthews, pearson, spearman
                 scores of GLUE tasks on their validation sets, up to 1
  squared_norm   squared Euclidean norm of all trained weights
  gradient_norm  Euclidean norm of the gradient of train_loss
  noise_trace    trace of the covariance of a single example's gradient, tr Sigma, from the same subset
  squared_gradient  squared norm of the mean gradient over the whole training set, estimated from the subset without
                 bias: gradient_norm^2 minus the subset's noise, which can fall below 0
  speed_k<kappa> predicted descent of the loss if the square-root rule multiplied this run's batch size by kappa,
                 relative to the run itself, 0 to 1 (scaling/gradient_noise.py)
  diverged       1 at the step where the loss, a metric or a weight ceased to be finite; the trajectory ends there
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasde.scaling import gradient_noise

Chunks = Iterable[tuple[Tensor, ...]]


def evaluate(
    workload: Any, model: nn.Module, sigma: float, eps: float, tested: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Return the metrics on the workload's ``subset`` of the training set, those that ``tested`` returns, and the norm.

    The model is in evaluation mode: no dropout, and batch norm with its running statistics.
    """
    model.eval()
    metrics = loss_and_gradient(model, workload.loss, workload.subset, sigma, eps) | tested()
    model.train()
    return {**metrics, "squared_norm": squared_norm(model)}


def fixed_sample(size: int, count: int) -> Tensor:
    """Return ``count`` of ``size`` places, or all: always the same, and shuffled so that chunks are independent."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]


def loss_and_gradient(
    model: nn.Module, loss: Callable[..., Tensor], chunks: Chunks, sigma: float, eps: float
) -> dict[str, float]:
    """Return train loss, its gradient's norm and noise, and the predicted speeds of a run at noise scale ``sigma``."""
    mean, gradient = gradient_noise.measure(model, loss, chunks)
    return {
        "train_loss": mean,
        "gradient_norm": gradient.norm,
        "noise_trace": gradient.trace,
        "squared_gradient": gradient.squared,
        **{speed(kappa): value for kappa, value in gradient.speeds(gradient_noise.KAPPAS, sigma, eps).items()},
    }


def speed(kappa: float) -> str:
    """Return the name of the metric that holds the predicted speed at ``kappa``."""
    return f"speed_k{kappa:g}"


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
