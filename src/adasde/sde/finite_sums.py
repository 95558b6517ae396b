"""Finite sums over real examples as noisy gradient oracles, with exact noise.

f is the mean cross-entropy over n examples. A minibatch drawn with replacement has a gradient whose covariance is
Sigma / batch size, where Sigma is the covariance of the per-example gradients g_i. With n independent normals xi,

  Sigma^{1/2} xi = n^{-1/2} sum_i xi_i (g_i - grad f)    and    diag Sigma = mean_i g_i^2 - (grad f)^2

are exact. In every layer g_i is an outer product of inputs and deltas, so that both are matrix products, and no
per-example gradient is ever formed.
"""

import math
from abc import abstractmethod

import torch
from torch.nn import functional as F

from adasde.common import InputError
from adasde.sde.oracles import NoisyGradientOracle


class FiniteSum(NoisyGradientOracle):
    """Mean cross-entropy of a model over ``inputs`` (n, features), with a constant 1 added, and ``labels`` (n,).

    Subclasses give ``dim`` and `layers`. ``theta`` holds all layers' weights, (inputs, outputs), one after another.
    """

    def __init__(self, inputs, labels):
        if len(inputs) != len(labels):
            raise InputError(f"inputs has shape {tuple(inputs.shape)} and labels {tuple(labels.shape)}: n must agree")
        self.inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        self.labels = labels.long()
        self.classes = int(self.labels.max()) + 1

    @property
    def noise_dim(self):
        """One normal per example."""
        return len(self.inputs)

    @property
    def width(self):
        """All paths' deltas are held at once."""
        return len(self.inputs) * self.classes

    @abstractmethod
    def layers(self, theta, inputs, labels):
        """Return [(inputs, deltas), ...] per layer: g_i of its weights is the outer product of their i-th rows.

        ``inputs`` is (n, features + 1) for all paths, or (paths, n, features + 1); deltas are (paths, n, outputs).
        """

    @abstractmethod
    def logits(self, theta, inputs):
        """Return the model's outputs, (paths, n, classes)."""

    def gradient(self, theta):
        """Return grad f."""
        return _total(self._layers(theta)).div_(self.noise_dim)

    def noise(self, theta, xi):
        """Return the random weighting of the examples' gradients that has covariance Sigma."""
        weights = self._weights(xi)
        return _total([(a, d * weights) for a, d in self._layers(theta)])

    def noise_variance(self, theta):
        """Return diag Sigma."""
        layers = self._layers(theta)
        return self._variance(layers, _total(layers).div_(self.noise_dim))

    def terms(self, theta, xi):
        """Return gradient, noise and noise_variance from one forward and backward pass."""
        layers, weights = self._layers(theta), self._weights(xi)
        gradient = _total(layers).div_(self.noise_dim)
        noise = _total([(a, d * weights) for a, d in layers])
        return gradient, noise, self._variance(layers, gradient)

    def loss(self, theta):
        """Return f."""
        logits = self.logits(theta, self.inputs.to(theta)).mT
        return F.cross_entropy(logits, self.labels.expand(len(theta), -1), reduction="none").mean(1)

    def accuracy(self, theta):
        """Return the share of the examples that are classified correctly, (paths,)."""
        return (self.logits(theta, self.inputs.to(theta)).argmax(2) == self.labels).to(theta).mean(1)

    def _layers(self, theta):
        return self.layers(theta, self.inputs.to(theta), self.labels)

    def _weights(self, xi):
        return ((xi - xi.mean(1, keepdim=True)) / math.sqrt(self.noise_dim)).unsqueeze(2)

    def _variance(self, layers, gradient):
        squares = _total([(a**2, d**2) for a, d in layers]).div_(self.noise_dim)
        # Where all examples agree, rounding would leave a variance just below 0.
        return squares.addcmul_(gradient, gradient, value=-1.0).clamp_(min=0.0)


class SoftmaxRegression(FiniteSum):
    """A linear classifier."""

    def __init__(self, inputs, labels):
        super().__init__(inputs, labels)
        self.dim = self.inputs.shape[1] * self.classes

    def logits(self, theta, inputs):
        """Return the linear scores."""
        return _apply(inputs, theta.view(len(theta), -1, self.classes))

    def layers(self, theta, inputs, labels):
        """Return the one layer."""
        return [(inputs, _deltas(self.logits(theta, inputs), labels))]


class HiddenLayer(FiniteSum):
    """A network with one hidden layer of ``hidden`` tanh units."""

    def __init__(self, inputs, labels, hidden: int = 16):
        super().__init__(inputs, labels)
        self.hidden = hidden
        self.dim = self.inputs.shape[1] * hidden + (hidden + 1) * self.classes

    def logits(self, theta, inputs):
        """Return the scores."""
        return self._forward(theta, inputs)[2]

    def layers(self, theta, inputs, labels):
        """Return both layers."""
        second, activations, logits = self._forward(theta, inputs)
        deltas = _deltas(logits, labels)
        hidden = activations[..., :-1]
        back = (deltas @ second[:, :-1].mT).mul_(1.0 - hidden**2)
        return [(inputs, back), (activations, deltas)]

    def _forward(self, theta, inputs):
        split = self.inputs.shape[1] * self.hidden
        first = theta[:, :split].view(len(theta), -1, self.hidden)
        second = theta[:, split:].view(len(theta), -1, self.classes)
        hidden = _apply(inputs, first).tanh_()
        activations = F.pad(hidden, (0, 1), value=1.0)
        return second, activations, activations @ second


class Minibatch(NoisyGradientOracle):
    """A finite sum whose sampled gradients are those of real minibatches, drawn with replacement, not Gaussian ones.

    ``sigma`` of a simulation must be 1 / sqrt(batch_size), the noise that such a minibatch has.
    """

    def __init__(self, oracle: FiniteSum, batch_size: int):
        self.oracle, self.batch_size, self.dim = oracle, batch_size, oracle.dim

    @property
    def noise_dim(self):
        """As of the finite sum."""
        return self.oracle.noise_dim

    @property
    def width(self):
        """Each path holds a minibatch of its own."""
        return self.batch_size * self.oracle.inputs.shape[1]

    def gradient(self, theta):
        """Return grad f."""
        return self.oracle.gradient(theta)

    def noise(self, theta, xi):
        """Return the finite sum's noise."""
        return self.oracle.noise(theta, xi)

    def noise_variance(self, theta):
        """Return diag Sigma."""
        return self.oracle.noise_variance(theta)

    def sample(self, theta, sigma, generator):
        """Return the mean gradient of a fresh minibatch for every path."""
        if not math.isclose(sigma**2 * self.batch_size, 1.0, rel_tol=1e-6):
            raise InputError(
                f"sigma = {sigma:g}: a minibatch of {self.batch_size} has sigma = {self.batch_size**-0.5:g}"
            )
        drawn = torch.randint(self.oracle.noise_dim, (len(theta), self.batch_size), generator=generator)
        inputs = self.oracle.inputs.to(theta).index_select(0, drawn.flatten()).view(*drawn.shape, -1)
        labels = self.oracle.labels[drawn]
        return _total(self.oracle.layers(theta, inputs, labels)).div_(self.batch_size)


def pooled(images, labels, count: int, side: int = 7):
    """Return (inputs (count, side^2), labels (count,)) of the first ``count`` images, averaged to ``side`` x ``side``.

    ``images`` are uint8 (n, 1, height, width) with height a multiple of ``side``; inputs are float32, of mean 0 and
    variance 1 over all pixels.
    """
    pixels = F.avg_pool2d(images[:count].float(), images.shape[-1] // side).flatten(1)
    return (pixels - pixels.mean()) / pixels.std(), labels[:count].long()


def _apply(inputs, weights):
    """Return inputs @ weights per path: (n, i) or (paths, n, i), (paths, i, o) -> (paths, n, o)."""
    return torch.einsum("ni,pio->pno" if inputs.ndim == 2 else "pni,pio->pno", inputs, weights)


def _total(layers):
    """Return the examples' gradients, outer products of inputs and deltas, summed: -> (paths, dim)."""
    sums = [torch.einsum("ni,pno->pio" if a.ndim == 2 else "pni,pno->pio", a, d) for a, d in layers]
    return torch.cat([part.flatten(1) for part in sums], dim=1)


def _deltas(logits, labels):
    """Return the derivative of each example's cross-entropy by its logits, (paths, n, classes)."""
    # By hand, since torch's softmax over so short a last dimension takes ten times as long.
    deltas = (logits - logits.amax(2, keepdim=True)).exp_()
    deltas /= deltas.sum(2, keepdim=True)
    index = labels.expand(deltas.shape[:2]).unsqueeze(2)
    return deltas.scatter_add_(2, index, deltas.new_full((1, 1, 1), -1.0).expand(index.shape))
