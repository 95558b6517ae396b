"""Image classification on images that fit into memory, with small networks of ours and those of the paper."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasde.scaling.gradient_noise import SpeedMeter
from adasde.workloads import networks
from adasde.workloads.base import Workload
from adasde.workloads.metrics import classification, evaluate, first

# Mean and standard deviation of the training pixels on the scale 0 to 1; for fashion32, of those inside the frame.
PIXELS = {
    "fashion": (0.2860, 0.3530),
    "fashion32": (0.2860, 0.3530),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}

CROP = 4  # pixels by which the paper's recipes for CIFAR-10 shift images

# Most images in a pass for which a network trains faster on a CPU without oneDNN, which takes long to start every
# convolution. Time of a step without it over that with it, one thread, torch 2.14: CNN 0.70 with 2 images, 0.84 with 4,
# 1.00 with 7, 1.34 with 16; residual network 0.55 with 2, 0.70 with 8, 0.86 with 16, 1.06 with 32.
WITHOUT_ONEDNN = {"cnn": 6, "resnet": 24}

CHUNK = 250  # images per evaluation batch: small enough to stay in cache
SUBSET = 1000  # training images on which the train loss is measured, and the gradient with its noise
NOISE_CHUNK = 50  # images per gradient of these: twenty gradients estimate the noise, a sixth slower than four of 250


class ImageWorkload(Workload):
    """Classification of uint8 images with cross-entropy.

    ``tensors`` are train-images (n, channels, height, width), train-labels (n,), and the same for test. ``mean`` and
    ``std`` are those of the pixels on the scale 0 to 1, or tuples with one number per channel. With ``crop``, training
    images are mirrored at random and shifted by up to that many pixels, black ones moving in. On a CPU, passes of up to
    ``small`` images do without oneDNN.
    """

    small = 0

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        build: Callable[[], nn.Module],
        mean: float | tuple[float, ...],
        std: float | tuple[float, ...],
        crop: int = 0,
        device: torch.device | str = "cpu",
        small: int = 0,
    ):
        self.device, self.crop, self.build, self.small = torch.device(device), crop, build, small
        self.mean, self.std = (self._per_channel(values) for values in (mean, std))
        self.images, self.labels = tensors["train-images"].to(device), tensors["train-labels"].to(device).long()
        few = self.images[:SUBSET], self.labels[:SUBSET]
        self.subset, self.graded = self._chunks(*few, CHUNK), self._chunks(*few, NOISE_CHUNK)
        self.test = self._chunks(tensors["test-images"].to(device), tensors["test-labels"].to(device).long(), CHUNK)

    @property
    def size(self) -> int:
        return len(self.images)

    def model(self) -> nn.Module:
        """Return a new network; channels-last weights make convolutions on a CPU up to a quarter faster."""
        return self.build().to(memory_format=torch.channels_last)

    def randomness(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Sample flip flags (count,) and crop offsets (count, 2); empty if augmentation is off."""
        if not self.crop:
            return ()
        mirrored = torch.rand(count, generator=generator) < 0.5
        return mirrored, torch.randint(2 * self.crop + 1, (count, 2), generator=generator)

    def gather(self, indices: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return normalised images (len(indices), channels, height, width) and labels (len(indices),)."""
        indices = indices.to(self.device)
        # index_select copies whole images; indexing copies single bytes, fifteen times as slowly.
        images = self.images.index_select(0, indices)
        if self.crop:
            images = self._augmented(images, *(randomness or self.randomness(len(indices))))
        return self._normalised(images), self.labels[indices]

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy in nats, or its weighted sum over the images."""
        if weights is None:
            return F.cross_entropy(model(images), labels)
        losses = F.cross_entropy(model(images), labels, reduction="none")
        return losses @ weights.to(losses.dtype)

    @contextmanager
    def kernels(self, examples: int) -> Iterator[None]:
        """Switch oneDNN off for few images, and NNPACK, which torch would take in its place from 16 images on."""
        if self.device.type != "cpu" or examples > self.small:
            yield
            return
        before = torch.backends.mkldnn.enabled
        with torch.backends.nnpack.flags(enabled=False):
            torch.backends.mkldnn.enabled = False
            try:
                yield
            finally:
                torch.backends.mkldnn.enabled = before

    def measure(self, model: nn.Module, meter: SpeedMeter | None = None, tested: int | None = None) -> dict[str, float]:
        return evaluate(self, model, meter, lambda: classification(model, first(self.test, tested)))

    def _augmented(self, images, mirrored, corners):
        """Mirror some images and crop each at its corner within a black frame."""
        mirrored, corners = mirrored.to(self.device), corners.to(self.device)
        height, width = images.shape[2:]
        framed = F.pad(images, (self.crop,) * 4)
        columns = torch.arange(width, device=self.device)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns) + corners[:, 1:]
        rows = torch.arange(height, device=self.device) + corners[:, :1]
        # Take rows first, which are copied whole, and then single pixels.
        places = rows[:, None, :, None].expand(-1, images.shape[1], -1, framed.shape[3])
        framed = framed.gather(2, places)
        return framed.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], height, -1))

    def _normalised(self, images):
        pixels = images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _per_channel(self, values):
        """Return a number as it is, and a tuple as a tensor that broadcasts over images."""
        if not isinstance(values, tuple):
            return values
        return torch.tensor(values, device=self.device).view(-1, 1, 1)

    def _chunks(self, images, labels, size):
        return list(zip(self._normalised(images).split(size), labels.split(size), strict=True))


BUILDERS = {
    "cnn": networks.fashion_cnn,
    "resnet": networks.fashion_resnet,
    "vgg16": networks.vgg16,
    "resnet56": networks.resnet56,
    "resnet50": networks.resnet50,
}


def load(name: str, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> ImageWorkload:
    """Return the workload called ``name``, which is <images>-<network>, on the arrays of its data set."""
    images, _, network = name.partition("-")
    if images == "fashion32":
        tensors = {key: _as_cifar(value) if key.endswith("images") else value for key, value in tensors.items()}
    # The paper's recipes flip and crop; Fashion-MNIST in its own form is used as it is.
    crop = CROP if images != "fashion" else 0
    small = WITHOUT_ONEDNN.get(network, 0)
    return ImageWorkload(tensors, BUILDERS[network], *PIXELS[images], crop=crop, device=device, small=small)


def _as_cifar(images):
    """Bring Fashion-MNIST into CIFAR-10's form: a black frame around the images, and three equal colours."""
    return F.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
