"""ImageNet with ResNet-50: worker processes decode and augment images ahead of the step that takes them."""

import io
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from adasde.common import InputError
from adasde.workloads.data.imagenet import Images
from adasde.workloads.metrics import fixed_sample
from adasde.workloads.vision import NOISE_CHUNK, SUBSET, ImageWorkload

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue, as torchvision's models take them
RESOLUTION, RESIZED = 224, 256  # side of the images that a network sees; shorter side before their centre is cut out
CHUNK = 100  # images per evaluation batch
PIECE = 32  # images that a worker decodes at a time, so that all workers share in every batch
AHEAD = 4  # pieces per worker that are decoded or in work before they are asked for


class ImageNetWorkload(ImageWorkload):
    """Classification of JPEG files with cross-entropy, as torchvision's reference trains and tests it.

    ``tensors`` are the arrays that data/imagenet.py describes, and ``folder`` is theirs. Training images are random
    crops of any size and shape, resized and flipped by chance; measured images are centre crops. A batch depends only
    on the draws, not on ``workers``, the number of processes that decode it (0: this one does).
    """

    streamed = True

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        folder: Path,
        build: Callable[[], nn.Module],
        device: torch.device | str = "cpu",
        workers: int = 0,
        resolution: int = RESOLUTION,
    ):
        self.build, self.device = build, torch.device(device)
        self.mean, self.std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        self.workers = workers
        self.train, self.tested = (Crops(Images(tensors, split, folder), resolution) for split in ("train", "test"))
        self.measured = fixed_sample(self.size, SUBSET)  # the first images are all of one class

    @property
    def size(self) -> int:
        return len(self.train.images)

    def randomness(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Sample the seeds of the images' crops, (count,)."""
        return (torch.randint(2**63 - 1, (count,), generator=generator),)

    def gather(self, indices: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return normalised images (len(indices), 3, height, width), cropped by the seeds ``randomness``, and labels.

        This process makes the batch, which equals that of `stream`.
        """
        return next(self._batches(self.train, [(indices, *(randomness or self.randomness(len(indices))))], workers=0))

    def stream(self, draws: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        """Yield a batch for every (indices, seeds) of ``draws``, reading ahead as far as images are decoded ahead.

        The workers end with the iterator. InputError names an image that cannot be decoded.
        """
        return self._batches(self.train, draws, self.workers)

    @property
    def subset(self) -> Iterator[tuple[Tensor, ...]]:
        """Chunks of the training images on which the train loss is measured."""
        return self._chunks(self.train, self.measured, CHUNK)

    @property
    def graded(self) -> Iterator[tuple[Tensor, ...]]:
        """Chunks of the same images, for the gradient and its noise."""
        return self._chunks(self.train, self.measured, NOISE_CHUNK)

    @property
    def test(self) -> Iterator[tuple[Tensor, ...]]:
        """Chunks of all test images."""
        return self._chunks(self.tested, torch.arange(len(self.tested.images)), CHUNK)

    def _chunks(self, crops, indices, size):
        return self._batches(crops, ((chunk, None) for chunk in indices.split(size)), self.workers)

    def _batches(self, crops, draws, workers):
        """Yield a batch for every (indices, seeds) of ``draws``: random crops by seed, or centre crops for None."""
        drawn = deque()

        def pieces():
            for indices, seeds in draws:
                drawn.append(indices)
                listed = [None] * len(indices) if seeds is None else seeds.tolist()
                pairs = list(zip(indices.tolist(), listed, strict=True))
                yield from (pairs[start : start + PIECE] for start in range(0, len(pairs), PIECE))

        # Forked processes share the arrays instead of copying them. DataLoader gives each one thread.
        processes = {
            "num_workers": workers,
            "prefetch_factor": AHEAD,
            "multiprocessing_context": "fork",
            "worker_init_fn": _leave_signals,
        }
        loader = DataLoader(
            crops,
            batch_size=None,
            sampler=pieces(),
            generator=torch.Generator(),  # or it would draw from the global one, which is the model's
            pin_memory=self.device.type == "cuda",
            **(processes if workers else {}),
        )
        batch = []
        for piece in loader:
            if isinstance(piece, InputError):
                raise piece
            batch.append(piece.to(self.device, non_blocking=True))
            if sum(map(len, batch)) == len(drawn[0]):
                labels = crops.images.labels[drawn.popleft()]
                yield self._normalised(torch.cat(batch)), labels.to(self.device, non_blocking=True)
                batch = []


class Crops:
    """Crops of images, made from their files in the worker processes."""

    def __init__(self, images: Images, resolution: int):
        self.images = images
        resized = round(resolution * RESIZED / RESOLUTION)
        self.random = transforms.Compose([transforms.RandomResizedCrop(resolution), transforms.RandomHorizontalFlip()])
        self.centre = transforms.Compose([transforms.Resize(resized), transforms.CenterCrop(resolution)])

    def __getitem__(self, pairs: list[tuple[int, int | None]]) -> Tensor | InputError:
        """Return a uint8 tensor (len(pairs), 3, height, width), channels last, for pairs of image and seed or None.

        An InputError is returned, not raised: DataLoader would wrap one raised in a worker into a traceback.
        """
        try:
            return torch.from_numpy(np.stack([self._crop(*pair) for pair in pairs])).permute(0, 3, 1, 2)
        except InputError as error:
            return error

    def _crop(self, number, seed):
        try:
            # Some files are grey, some are CMYK, and one is a PNG.
            image = Image.open(io.BytesIO(self.images.read(number))).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(f"{self.images.where(number)}: not an image, or a damaged one ({reason})") from error
        if seed is None:
            return np.asarray(self.centre(image))
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)  # the source of torchvision's random numbers
            return np.asarray(self.random(image))


def _leave_signals(_):
    """Ignore Ctrl-C and the end of a Slurm job: the process that asked for images saves the run, then ends these."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def load(
    name: str, tensors: Mapping[str, Tensor], folder: Path, workers: int, device: torch.device | str = "cpu"
) -> ImageNetWorkload:
    """Return the workload called ``name`` on the arrays of its data set, which lie in ``folder``."""
    return ImageNetWorkload(tensors, folder, BUILDERS[name], device, workers)


BUILDERS = {"imagenet-resnet50": torchvision.models.resnet50}
