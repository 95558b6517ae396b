"""Image classification: a small network without normalisation and a small residual network with batch norm."""

import torch
from torch import nn
from torch.nn import functional as F

from .. import measure

# Mean and standard deviation of the training pixels, on the scale 0 to 1.
PIXELS = {"fashion": (0.2860, 0.3530)}

CHUNK = 250  # images per evaluation batch: small enough to stay in cache
SUBSET = 1000  # training images on which the train loss, its gradient and the gradient's noise are measured
NOISE_CHUNK = 50  # images per gradient of these: twenty tell the noise, a sixth slower than four of 250


class ImageTask:
    """Classification of uint8 images with cross-entropy.

    ``tensors`` are train-images (n, channels, height, width), train-labels (n,), and the same for test.
    """

    def __init__(self, tensors, build, mean, std):
        self.images, self.labels = tensors["train-images"], tensors["train-labels"].long()
        self.build, self.mean, self.std = build, mean, std
        self.subset = self._chunks(self.images[:SUBSET], self.labels[:SUBSET], NOISE_CHUNK)
        self.test = self._chunks(tensors["test-images"], tensors["test-labels"].long(), CHUNK)

    @property
    def size(self) -> int:
        """Number of training images."""
        return len(self.images)

    def model(self) -> nn.Module:
        """Return a new network; channels-last weights make convolutions on a CPU up to a quarter faster."""
        return self.build().to(memory_format=torch.channels_last)

    def gather(self, indices):
        """Return normalised images (len(indices), channels, height, width) and labels (len(indices),)."""
        # index_select copies whole images; indexing copies single bytes, fifteen times as slowly.
        return self._normalised(self.images.index_select(0, indices)), self.labels[indices]

    def loss(self, model, images, labels, weights=None):
        """Mean cross-entropy in nats, or its weighted sum over the images; ``weights`` has shape (images,)."""
        if weights is None:
            return F.cross_entropy(model(images), labels)
        losses = F.cross_entropy(model(images), labels, reduction="none")
        return losses @ weights.to(losses.dtype)

    def measure(self, model, sigma, eps) -> dict[str, float]:
        """Return the test functions, batch norm using its running statistics; see the glossary in measure.py."""
        model.eval()
        training = measure.loss_and_gradient(model, self.loss, self.subset, sigma, eps)
        test_loss, test_accuracy = measure.classification(model, self.test)
        model.train()
        return {
            **training,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "squared_norm": measure.squared_norm(model),
        }

    def _normalised(self, images):
        pixels = images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _chunks(self, images, labels, size):
        return list(zip(self._normalised(images).split(size), labels.split(size), strict=True))


def fashion_cnn() -> nn.Module:
    """Two strided convolutions and a linear layer, no normalisation; 20,746 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        ChannelsLastFlatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def fashion_resnet() -> nn.Module:
    """Two strided residual blocks of widths 16 and 32 with batch norm, after a strided convolution; 18,626 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, 16, stride=2),
        Block(16, 32, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class ChannelsLastFlatten(nn.Module):
    """Flatten (images, channels, height, width) in the order in which channels-last memory holds it.

    nn.Flatten would copy, and hand the ReLU before it a gradient in another order than its output, whose backward
    pass then runs element by element: a training step took 7% (B = 32) to 25% (B = 512) longer.
    """

    def forward(self, x):
        """Map to (images, height * width * channels), without a copy if ``x`` is channels-last."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        """Map (images, inputs, height, width) to (images, outputs, height / stride, width / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


BUILDERS = {"fashion-cnn": fashion_cnn, "fashion-resnet": fashion_resnet}


def load(name: str, tensors) -> ImageTask:
    """Return the image task called ``name`` on the arrays of its data set."""
    return ImageTask(tensors, BUILDERS[name], *PIXELS[name.partition("-")[0]])
