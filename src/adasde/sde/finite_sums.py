"""Finite sums over real examples as noisy gradient oracles with exact noise.

f is the mean cross-entropy over n examples. A minibatch drawn with replacement has a gradient whose covariance is
Sigma / batch size, where Sigma is the covariance of the per-example gradients g_i. With n independent normals xi,

  Sigma^{1/2} xi = n^{-1/2} sum_i xi_i (g_i - grad f)    and    diag Sigma = mean_i g_i^2 - (grad f)^2

are exact. In every layer g_i is an outer product of inputs and deltas. So both sums are matrix products, and no
per-example gradient is ever formed.
"""

import math
from abc import abstractmethod

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from adasde.common import InputError
from adasde.sde.oracles import DelegatingOracle, NoisyGradientOracle

_Layers = list[tuple[Tensor, Tensor]]  # inputs and deltas of every layer


class FiniteSum(NoisyGradientOracle):
    """The mean cross-entropy of a model over examples, as an oracle with one normal per example.

    A subclass sets ``dim`` and defines `logits` and `layers`. ``theta`` holds the weights of all layers, each of shape
    (inputs, outputs), one after another.

    Args:
        inputs: Features of the examples, (n, features); a constant 1 is appended.
        labels: Their classes, (n,), counted from 0.

    Raises:
        InputError: If ``inputs`` and ``labels`` differ in n.

    Source: ours. Sigma is the exact covariance of a single example's gradient, as in the paper's oracle of minibatches.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        if len(inputs) != len(labels):
            raise InputError(f"inputs has shape {tuple(inputs.shape)} and labels {tuple(labels.shape)}: n must agree")
        self.inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        self.labels = labels.long()
        self.classes = int(self.labels.max()) + 1

    @property
    def noise_dim(self) -> int:
        return len(self.inputs)

    @property
    def width(self) -> int:
        return len(self.inputs) * self.classes  # the deltas of all examples

    @abstractmethod
    def layers(self, theta: Tensor, inputs: Tensor, labels: Tensor) -> _Layers:
        """Return (inputs, deltas) of every layer: g_i of its weights is the outer product of their i-th rows.

        Args:
            theta: Weights, (paths, dim).
            inputs: Features with the constant 1, (n, features + 1) for all paths, or (paths, n, features + 1).
            labels: Classes, (n,) or (paths, n).

        Returns:
            A pair per layer, in the order of ``theta``. It holds the layer's inputs, shaped as above, and the
            derivatives of each example's loss by the layer's outputs, (paths, n, outputs).
        """

    @abstractmethod
    def logits(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Return the model's outputs.

        Args:
            theta: Weights, (paths, dim).
            inputs: Features with the constant 1, (n, features + 1) for all paths, or (paths, n, features + 1).

        Returns:
            The logits, (paths, n, classes).
        """

    def gradient(self, theta: Tensor) -> Tensor:
        return _total(self._layers(theta)).div_(self.noise_dim)

    def noise(self, theta: Tensor, xi: Tensor) -> Tensor:
        weights = self._weights(xi)
        return _total([(a, d * weights) for a, d in self._layers(theta)])

    def noise_variance(self, theta: Tensor) -> Tensor:
        layers = self._layers(theta)
        return self._variance(layers, _total(layers).div_(self.noise_dim))

    def terms(self, theta: Tensor, xi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layers, weights = self._layers(theta), self._weights(xi)
        gradient = _total(layers).div_(self.noise_dim)
        noise = _total([(a, d * weights) for a, d in layers])
        return gradient, noise, self._variance(layers, gradient)

    def loss(self, theta: Tensor) -> Tensor:
        logits = self.logits(theta, self.inputs.to(theta)).mT
        return F.cross_entropy(logits, self.labels.expand(len(theta), -1), reduction="none").mean(1)

    def accuracy(self, theta: Tensor) -> Tensor:
        """Return the share of the examples that are classified correctly.

        Args:
            theta: Weights, (paths, dim).

        Returns:
            The accuracy from 0 to 1, (paths,).
        """
        return (self.logits(theta, self.inputs.to(theta)).argmax(2) == self.labels).to(theta).mean(1)

    def _layers(self, theta: Tensor) -> _Layers:
        return self.layers(theta, self.inputs.to(theta), self.labels)

    def _weights(self, xi: Tensor) -> Tensor:
        return ((xi - xi.mean(1, keepdim=True)) / math.sqrt(self.noise_dim)).unsqueeze(2)

    def _variance(self, layers: _Layers, gradient: Tensor) -> Tensor:
        squares = _total([(a**2, d**2) for a, d in layers]).div_(self.noise_dim)
        # If all examples agree, rounding would leave a variance just below 0.
        return squares.addcmul_(gradient, gradient, value=-1.0).clamp_(min=0.0)


class SoftmaxRegression(FiniteSum):
    """A linear classifier.

    Args:
        inputs: Features of the examples, (n, features); a constant 1 is appended.
        labels: Their classes, (n,), counted from 0.

    Raises:
        InputError: If ``inputs`` and ``labels`` differ in n.

    Source: ours.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        super().__init__(inputs, labels)
        self.dim = self.inputs.shape[1] * self.classes

    def logits(self, theta: Tensor, inputs: Tensor) -> Tensor:
        return _apply(inputs, theta.view(len(theta), -1, self.classes))

    def layers(self, theta: Tensor, inputs: Tensor, labels: Tensor) -> _Layers:
        return [(inputs, _deltas(self.logits(theta, inputs), labels))]


class HiddenLayer(FiniteSum):
    """A network with one hidden layer of tanh units.

    Args:
        inputs: Features of the examples, (n, features); a constant 1 is appended.
        labels: Their classes, (n,), counted from 0.
        hidden: Number of hidden units; default 16.

    Raises:
        InputError: If ``inputs`` and ``labels`` differ in n.

    Source: ours.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, hidden: int = 16) -> None:
        super().__init__(inputs, labels)
        self.hidden = hidden
        self.dim = self.inputs.shape[1] * hidden + (hidden + 1) * self.classes

    def logits(self, theta: Tensor, inputs: Tensor) -> Tensor:
        return self._forward(theta, inputs)[2]

    def layers(self, theta: Tensor, inputs: Tensor, labels: Tensor) -> _Layers:
        second, activations, logits = self._forward(theta, inputs)
        deltas = _deltas(logits, labels)
        hidden = activations[..., :-1]
        back = (deltas @ second[:, :-1].mT).mul_(1.0 - hidden**2)
        return [(inputs, back), (activations, deltas)]

    def _forward(self, theta: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        split = self.inputs.shape[1] * self.hidden
        first = theta[:, :split].view(len(theta), -1, self.hidden)
        second = theta[:, split:].view(len(theta), -1, self.classes)
        hidden = _apply(inputs, first).tanh_()
        activations = F.pad(hidden, (0, 1), value=1.0)
        return second, activations, activations @ second


class Minibatch(DelegatingOracle):
    """A finite sum whose sampled gradients are those of real minibatches, drawn with replacement, and not Gaussian.

    The ``sigma`` of a simulation must be 1 / sqrt(batch_size), the noise scale of such a minibatch; otherwise `sample`
    raises an InputError.

    Args:
        oracle: The finite sum.
        batch_size: Examples per minibatch, at least 1.

    Source: the authors' code draws minibatches with replacement.
    """

    oracle: FiniteSum

    def __init__(self, oracle: FiniteSum, batch_size: int) -> None:
        super().__init__(oracle)
        self.batch_size = batch_size

    @property
    def width(self) -> int:
        return self.batch_size * self.oracle.inputs.shape[1]  # each path has a minibatch of its own

    def sample(self, theta: Tensor, sigma: float, generator: Generator | None) -> Tensor:
        if not math.isclose(sigma**2 * self.batch_size, 1.0, rel_tol=1e-6):
            raise InputError(
                f"sigma = {sigma:g}: a minibatch of {self.batch_size} has sigma = {self.batch_size**-0.5:g}"
            )
        drawn = torch.randint(self.oracle.noise_dim, (len(theta), self.batch_size), generator=generator)
        inputs = self.oracle.inputs.to(theta).index_select(0, drawn.flatten()).view(*drawn.shape, -1)
        labels = self.oracle.labels[drawn]
        return _total(self.oracle.layers(theta, inputs, labels)).div_(self.batch_size)


def pooled(images: Tensor, labels: Tensor, count: int, side: int = 7) -> tuple[Tensor, Tensor]:
    """Return inputs (count, side^2) and labels (count,) of the first ``count`` images, averaged to ``side`` x ``side``.

    ``images`` are uint8 (n, 1, height, width) with height a multiple of ``side``. The inputs are float32 with mean 0
    and variance 1 over all pixels.
    """
    pixels = F.avg_pool2d(images[:count].float(), images.shape[-1] // side).flatten(1)
    return (pixels - pixels.mean()) / pixels.std(), labels[:count].long()


def _apply(inputs: Tensor, weights: Tensor) -> Tensor:
    """Return inputs @ weights per path: (n, i) or (paths, n, i), (paths, i, o) -> (paths, n, o)."""
    return torch.einsum("ni,pio->pno" if inputs.ndim == 2 else "pni,pio->pno", inputs, weights)


def _total(layers: _Layers) -> Tensor:
    """Return the sum of the examples' gradients, outer products of inputs and deltas: (paths, dim)."""
    sums = [torch.einsum("ni,pno->pio" if a.ndim == 2 else "pni,pno->pio", a, d) for a, d in layers]
    return torch.cat([part.flatten(1) for part in sums], dim=1)


def _deltas(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the derivative of each example's cross-entropy by its logits, (paths, n, classes)."""
    # By hand, since torch's softmax takes ten times as long over so short a last dimension.
    deltas = (logits - logits.amax(2, keepdim=True)).exp_()
    deltas /= deltas.sum(2, keepdim=True)
    index = labels.expand(deltas.shape[:2]).unsqueeze(2)
    return deltas.scatter_add_(2, index, deltas.new_full((1, 1, 1), -1.0).expand(index.shape))
