"""Image classification with any model of timm or torchvision, named by a config."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from adasde.common import InputError
from adasde.workloads.imagenet import ImageNetWorkload
from adasde.workloads.model_names import ModelName, check_numbers, nearest, parsed, refusing, unknown_option
from adasde.workloads.vision import CROP, NOISE_CHUNK, PIXELS, SUBSET, ImageWorkload

__all__ = ["NOISE_CHUNK", "SUBSET", "build", "load", "trial"]

# The name by which a library's models take the size of images, if they take it.
SIZE_OPTION = {"timm": "img_size", "torchvision": "image_size"}
LARGE = 64  # pixels of a side above which images are made for each pass: those of many steps would take gigabytes


def build(model: ModelName) -> nn.Module:
    """Return a new model, its weights drawn from torch's global generator.

    Args:
        model: The model. Dropout and stochastic depth are as its options say, and otherwise the library's default.

    Raises:
        InputError: If the library knows no such model or option, or refuses a value; then with its own words.
    """
    if model.library == "timm":
        timm = import_module("timm")  # which takes twice as long to import as torch
        names, create = timm.list_models(), partial(timm.create_model, model.architecture, in_chans=model.channels)
    else:
        models = import_module("torchvision.models")
        names, create = models.list_models(module=models), partial(models.get_model, model.architecture)
    if model.architecture not in names:
        raise InputError(
            f"workload.model = '{model.library}/{model.architecture}': {model.library} has no such image classifier; "
            f"nearest: {nearest(model.architecture, names)}"
        )
    create = partial(create, num_classes=model.learned.classes)
    with refusing(model):
        network = _created(model, create, {SIZE_OPTION[model.library]: model.size})
        check_numbers(model, _defaults(network))
    return network


def _created(model, create, size):
    try:
        return create(**model.options, **size)
    except TypeError as error:
        # Python's words, or timm's, which has a list.
        unknown = re.search(r"unexpected keyword argument(?:\(s\):)? \[?'(\w+)'", str(error))
        if unknown and unknown[1] in model.options:
            raise unknown_option(model, unknown[1], _defaults(create())) from None
        if not (unknown and unknown[1] in size):
            check_numbers(model, _defaults(create()))
            raise
    return _created(model, create, {})  # one that takes any size


def _defaults(network):
    """Defaults of the options of a network's class; those that its library passes on to other places are not told."""
    return {name: option.default for name, option in inspect.signature(type(network)).parameters.items()}


class _Model(ImageWorkload):
    """A workload whose model may have any batch norm."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        try:
            return super().loss(model, images, labels, weights)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                f"batch_size, micro_batch: a pass holds {len(images)} example, and batch norm would see one value per "
                "channel; it needs two examples"
            ) from error


class ModelWorkload(_Model):
    """Images that are resized for the model: bilinear, with antialiasing. The one channel of grey images is repeated.

    The arrays keep the size of the data set; see `ImageWorkload` for them.
    """

    def __init__(self, model: ModelName, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu"):
        self.resolution, self.channels = model.size, model.channels
        self.streamed = model.size > LARGE
        # As for the registered workloads: the paper's recipes flip and crop, Fashion-MNIST is used as it is.
        pixels, crop = ("fashion", 0) if model.data == "fashion-mnist" else ("cifar10", CROP)
        super().__init__(tensors, partial(build, model), *PIXELS[pixels], crop=crop, device=device)

    def _normalised(self, images):
        pixels = super()._normalised(images)
        if pixels.shape[-1] != self.resolution:
            size = (self.resolution, self.resolution)
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        pixels = pixels.expand(-1, self.channels, -1, -1) if pixels.shape[1] == 1 else pixels
        return pixels.contiguous(memory_format=torch.channels_last)

    def _chunks(self, images, labels, size):
        return _Measured(self, images.split(size), labels.split(size))


class _Measured:
    """Chunks of images that are resized whenever they are read, since all of them might not fit into memory."""

    def __init__(self, workload, images, labels):
        self.workload, self.images, self.labels = workload, images, labels

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for images, labels in zip(self.images, self.labels, strict=True):
            yield self.workload._normalised(images), labels


class ModelImageNetWorkload(_Model, ImageNetWorkload):
    """ImageNet with any model; see `ImageNetWorkload`."""


def trial(model: ModelName, network: nn.Module, examples: int) -> Tensor:
    """Return the loss of a pass over ``examples`` images with nothing in them, on the network's device.

    Raises:
        InputError: If the network cuts images into patches that leave some of them out, or returns something else than
            scores of the classes.
    """
    device = next(network.parameters()).device
    with register_module_forward_pre_hook(partial(_check_patches, model)):
        scores = network(torch.zeros(examples, model.channels, model.size, model.size, device=device))
    wanted = (examples, model.learned.classes)
    if not isinstance(scores, Tensor) or scores.shape != wanted:
        found = f"of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        way_out = "; options: {aux_logits: false} may help" if getattr(network, "aux_logits", False) else ""
        raise InputError(
            f"workload.model = '{model.library}/{model.architecture}': returns {found}, and not scores "
            f"(examples, classes) of shape {wanted}{way_out}"
        )
    return F.cross_entropy(scores, torch.zeros(examples, dtype=torch.long, device=device))


def _check_patches(model, layer, inputs):
    """InputError if a layer cuts images into patches, and pixels are left over, which no weight would see.

    A hook, since only the pass tells whether a model pads its images before.
    """
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != model.channels or layer.kernel_size != layer.stride:
        return
    patch, size = math.lcm(*layer.stride), inputs[0].shape[-1]
    if layer.padding in ((0, 0), "valid") and (unseen := size % patch):
        fitting = " or ".join(str(n) for n in (size - unseen, size - unseen + patch) if n)
        raise InputError(
            f"workload.size = {model.size}: patches of {patch} pixels leave {unseen} of {size} unseen; "
            f"take {fitting}, or another options.patch_size"
        )


def load(
    name: str,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    workers: int = 0,
) -> ImageWorkload:
    """Return the workload called ``name`` on the arrays of its data set; of ImageNet, they lie in ``folder``."""
    model = parsed(name)
    if folder is not None:
        return ModelImageNetWorkload(tensors, folder, partial(build, model), device, workers, model.size)
    return ModelWorkload(model, tensors, device)
