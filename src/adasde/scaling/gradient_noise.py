"""Gradient noise: unbiased moments of the per-example gradient, and how much a larger batch would slow training.

Let g be the mean gradient, Sigma the covariance of a single example's gradient and sigma = 1 / sqrt(B) the noise scale.
RMSprop moves weight i by -lr g_i / sqrt(g_i^2 + sigma^2 Sigma_ii). The square-root rule at kappa turns this into
-lr g_i / sqrt(kappa g_i^2 + sigma^2 Sigma_ii) over the same samples. So nothing changes as long as noise dominates,
which section 4.1 of the paper asks for, and training slows down where the mean gradient dominates.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from adasde.common import InputError
from adasde.scaling.lag import KAPPAS, PERSISTENT, SPEED

Signal = tuple[torch.Tensor, torch.Tensor]  # squares of the mean gradient, and the noise of one example


@dataclass(frozen=True)
class Gradient:
    """Moments of the per-example gradient from a sample of ``examples``, with one tensor per weight tensor.

    ``mean`` is the sample's mean gradient, and ``half`` that of every other chunk of it, of ``half_examples`` examples,
    which only the comparison with another time needs. ``variance`` is the unbiased estimate of a single example's
    variance, the diagonal of Sigma.
    """

    mean: list[torch.Tensor]
    variance: list[torch.Tensor]
    examples: int
    half: list[torch.Tensor] = field(default_factory=list)
    half_examples: int = 0

    @property
    def norm(self) -> float:
        """Euclidean norm of the sample's mean gradient."""
        return sum(sums(doubled(mean).square() for mean in self.mean)) ** 0.5

    @property
    def trace(self) -> float:
        """Unbiased estimate of tr Sigma, the noise of one example."""
        return sum(sums(self.variance))

    @property
    def squared(self) -> float:
        """Unbiased estimate of |grad f|^2. It can be below 0, since the sample's own noise is subtracted."""
        return self.norm**2 - self.trace / self.examples

    def speeds(
        self, kappas: Sequence[float], sigma: float, eps: float = 0.0, before: "Gradient | None" = None
    ) -> dict[float, float]:
        """Return how fast the loss falls under the square-root rule at each kappa, relative to kappa = 1.

        The descent is sum_i g_i^2 / (sqrt(kappa g_i^2 + sigma^2 Sigma_ii) + eps). The squares of the sample's mean
        contain its noise, Sigma_ii / examples, which would pass for signal at large kappa. Subtracting it weight by
        weight makes half of the squares negative, and clipping these is biased. So all squares of a tensor are
        multiplied by the one factor that makes its descent unbiased where noise dominates. Measured against the
        gradients of 30,000 images, speeds of the convolutional network from 1,000 images have a bias below 0.04,
        usually 0.01, and a standard deviation of about 0.03. The plain squares give speeds up to 0.13 too low.

        With a gradient from ``before`` along the same run, only that part of the gradient counts which both have: the
        square of the gradient is the product of the two, each from a half of the examples that the other does not
        have. It holds no noise of the samples, and no gradient that comes from the random motion of the weights about
        their path. That motion goes on at every batch size, and it makes up most of the square late in training.
        """
        count, signals = len(self.mean), self.signals() if before is None else self.persistent(before)
        first, *others = descents(signals, (1, *kappas), sigma, [eps] * count, [1.0] * count)
        # If no tensor's gradient can be told from its noise, noise dominates and nothing slows down.
        return {kappa: other / first if first else 1.0 for kappa, other in zip(kappas, others, strict=True)}

    def signals(self) -> Iterator[Signal]:
        """Yield each tensor's (squares of the gradient, noise), in float64, of the weights that some example moves."""
        for mean, variance in zip(self.mean, self.variance, strict=True):
            noisy = variance > 0  # no example moves the other weights, such as those of a pixel that is always black
            noise, squares = doubled(variance[noisy]), doubled(mean[noisy]).square()
            deviation = noise.sqrt()
            kept = 1.0 - deviation.sum() / self.examples / (squares / deviation).sum()
            squares *= kept.nan_to_num(0.0, neginf=0.0).clamp(min=0.0)
            yield squares, noise

    def persistent(self, before: "Gradient") -> Iterator[Signal]:
        """Yield the same of the part of the gradient that this one and the one from ``before`` have in common."""
        pairs = zip(self.variance, self.halves(), before.variance, before.halves(), strict=True)
        for variance, (one, other), variance_before, halves_before in pairs:
            noise = (doubled(variance) + doubled(variance_before.to(variance.device))) / 2
            noisy = noise > 0
            # The samples may be the same examples, whose noise would be alike at both times: not that of their halves.
            one_before, other_before = (half.to(one.device) for half in halves_before)
            product = (one * other_before + other * one_before) / 2
            yield clipped(product[noisy], noise[noisy]), noise[noisy]

    def halves(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each tensor's mean gradients over ``half`` and over all other examples, in float64."""
        for mean, half in zip(self.mean, self.half, strict=True):
            one, rest = doubled(half), self.examples - self.half_examples
            yield one, (self.examples * doubled(mean) - self.half_examples * one) / rest


class SpeedMeter:
    """Measures the gradient's noise along a run, and from it how fast larger batches would train.

    Args:
        sigma: Noise scale of the run's gradients, ell / sqrt(batch size).
        eps: The optimizer's epsilon.
    """

    def __init__(self, sigma: float, eps: float) -> None:
        self.sigma, self.eps = sigma, eps
        self.before: Gradient | None = None

    def measure(
        self, model: torch.nn.Module, loss: Callable[..., torch.Tensor], chunks: Iterable[Sequence[Any]]
    ) -> dict[str, float]:
        """Return the metrics of the gradient at the model's weights, as `adasde.workloads.metrics` explains them.

        The arguments are those of `measure`. From the second time on, the persistent speeds are among the metrics.
        """
        _, now = measure(model, loss, chunks)
        found = {"gradient_norm": now.norm, "noise_trace": now.trace, "squared_gradient": now.squared}
        for name, before in ((SPEED, None), (PERSISTENT, self.before)):
            if name == SPEED or before is not None:
                speeds = now.speeds(KAPPAS, self.sigma, self.eps, before)
                found |= {f"{name}{kappa:g}": speed for kappa, speed in speeds.items()}
        mean, variance, half = ([tensor.cpu() for tensor in part] for part in (now.mean, now.variance, now.half))
        # Which does not fill a GPU's memory:
        self.before = Gradient(mean, variance, now.examples, half, now.half_examples)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {} if self.before is None else dict(vars(self.before))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.before = Gradient(**state) if state else None


def descents(
    signals: Iterable[Signal], kappas: Sequence[float], sigma: float, eps: Sequence[float], rates: Sequence[float]
) -> list[float]:
    """Return the descent of the loss per step under the square-root rule at each kappa, up to the factor sqrt(kappa).

    It is the sum over weights of rate g_i^2 / (sqrt(kappa g_i^2 + sigma^2 Sigma_ii) + eps).

    Args:
        signals: Per tensor the squares of the gradient and the noise of one example, of equal shape.
        kappas: Batch multipliers.
        sigma: Noise scale of a step's gradient, 1 / sqrt(batch size).
        eps: The optimizer's epsilon for each tensor.
        rates: How far each tensor moves: its learning rate, up to a common factor.

    Source: ours, from the step that RMSprop takes; see this module's text.
    """
    found = sums(
        squares / (kappa * squares).add_(noise).sqrt_().add_(small)
        for squares, noise, small in ((s, sigma**2 * n, e) for (s, n), e in zip(signals, eps, strict=True))
        for kappa in kappas
    )
    return [
        sum(rate * part for rate, part in zip(rates, found[place :: len(kappas)], strict=True))
        for place in range(len(kappas))
    ]


def clipped(estimates: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return squares of the gradient that are never below 0, from unbiased estimates of them.

    Where noise dominates, half of the estimates are negative, and clipping them is biased. So the rest is multiplied by
    the one factor that makes the tensor's descent unbiased there. The estimates then scatter like a normal
    distribution. Its positive half is about as uneven as the squares of normally distributed gradients, which decides
    how fast the descent falls with kappa: E x^2 / (E x)^2 is pi for the first and 3 for the second. Where the estimates
    are precise, nothing is clipped.

    Args:
        estimates: Unbiased estimates of g_i^2 of one weight tensor.
        noise: Variances of one example's gradient, of the same shape. Weights without noise keep their squares.

    Source: ours. benchmarks/noise.py measures the bias of speeds at fixed weights.
    """
    squares, precision = estimates.clamp(min=0.0), noise.rsqrt().nan_to_num(0.0, posinf=0.0)
    kept = (estimates * precision).sum() / (squares * precision).sum()
    return torch.where(noise > 0, squares * kept.nan_to_num(0.0).clamp(min=0.0), squares)


def measure(
    model: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    chunks: Iterable[Sequence[Any]],
    weights: Sequence[torch.Tensor] | None = None,
) -> tuple[float, Gradient]:
    """Return the mean of ``loss(model, *chunk)`` over the examples of all chunks, and the moments of its gradient.

    Chunks are independent samples and may differ in size: the sum over M chunks of b times a chunk's squared deviation
    from the mean has the expectation (M - 1) Sigma.

    Args:
        model: The model, in the mode in which it is to be measured.
        loss: ``loss(model, *chunk)`` returns a chunk's mean loss, a scalar tensor.
        chunks: At least two; each is a tuple of tensors, or of nested dictionaries and lists of tensors. The length of
            the first tensor is the number of examples.
        weights: The tensors by which the loss is differentiated; default all trained ones of the model.

    Raises:
        InputError: If there are too few chunks, or one of another form; if a gradient is sparse.
    """
    weights = [p for p in model.parameters() if p.requires_grad] if weights is None else weights
    mean, half, squares = ([torch.zeros_like(p) for p in weights] for _ in range(3))
    losses, examples, half_examples, count = [], 0, 0, 0
    for chunk in chunks:
        if not isinstance(chunk, tuple | list):
            raise InputError(
                f"chunks: each must be a tuple of tensors, the arguments of loss, not {type(chunk).__name__}"
            )
        part, size = loss(model, *chunk), next(lengths(chunk), 0)
        if not size:
            raise InputError("chunks: one holds no examples; each must begin with a tensor of shape (examples, ...)")
        if part.dim():
            raise InputError(f"loss: of shape {tuple(part.shape)}; must be a scalar, the mean over the chunk")
        grads = torch.autograd.grad(part, weights, materialize_grads=True)
        if any(grad.is_sparse for grad in grads):
            raise InputError("gradient: sparse; its noise needs dense ones (sparse=False in the embedding)")
        examples, count = examples + size, count + 1
        losses.append(size * doubled(part.detach()))
        if count % 2:
            half_examples += size
            torch._foreach_add_(half, torch._foreach_sub(grads, half), alpha=size / half_examples)
        # Welford's update. In float32 the difference of the sum of squares and the square of the sum would cancel.
        before = torch._foreach_sub(grads, mean)
        torch._foreach_add_(mean, before, alpha=size / examples)
        torch._foreach_addcmul_(squares, before, torch._foreach_sub(grads, mean), value=size)
    if count < 2:
        raise InputError(f"chunks = {count}: the gradient's variance needs at least two")
    torch._foreach_div_(squares, count - 1)
    return sum(sums(losses)) / examples, Gradient(mean, squares, examples, half, half_examples)


def lengths(part: Any) -> Iterator[int]:
    """Yield the first dimension of every tensor within nested dictionaries and sequences; scalars have none."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if getattr(part, "shape", ()):
        yield part.shape[0]
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from lengths(inner)


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float64."""
    return _off_mps(tensor).double()


def sums(tensors: Iterable[torch.Tensor]) -> list[float]:
    """Return the sum of each tensor in float64. One transfer for all, since each waits for the GPU."""
    found = [_off_mps(tensor).sum(dtype=torch.float64) for tensor in tensors]
    return torch.stack([total.to(found[0].device) for total in found]).tolist() if found else []


def _off_mps(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, on the CPU if it is on Apple's MPS, which has no float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
