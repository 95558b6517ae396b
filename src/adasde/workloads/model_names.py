"""Workloads by configuration alone: a library's model, a data set, a size and options, in one string without torch.

``timm/vit_tiny_patch16_224@fashion-mnist?size=64&depth=4`` is a `ModelName` as text. Only this order is accepted, so
that equal workloads have equal names.
"""

import difflib
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote

from adasde.common import InputError, one_line, short

Kind = Literal["vision", "language"]


@dataclass(frozen=True)
class Learned:
    """A data set as models see it. ``size`` is that of its registered workloads, and the default."""

    title: str
    kind: Kind
    size: int  #: pixels of a side, or tokens of a sequence
    classes: int  #: of images, or tokens in the vocabulary
    channels: int = 0  #: of images


DATA = {
    "fashion-mnist": Learned("Fashion-MNIST", "vision", 28, 10, channels=1),
    "cifar-10": Learned("CIFAR-10", "vision", 32, 10, channels=3),
    "imagenet": Learned("ImageNet", "vision", 224, 1000, channels=3),
    "wiki-mini": Learned("a Wikipedia extract", "language", 64, 1024),
    "wikitext-103": Learned("WikiText-103", "language", 1024, 50_257),
}
KINDS: dict[str, Kind] = {"timm": "vision", "torchvision": "vision", "transformers": "language"}
DOES = {"vision": "classify images", "language": "predict text"}
# Options that are no choice: the workload or the spec sets them, or they name weights, and runs start from new ones.
TAKEN = {
    "timm": (
        "num_classes",
        "img_size",
        "device",
        "dtype",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
    ),
    "torchvision": ("num_classes", "image_size", "weights", "progress"),
    "transformers": ("vocab_size", "dtype", "torch_dtype"),
}
LARGEST = 2**16  # of a size
_FORM = re.compile(r"(?P<model>[^@?]+)@(?P<data>[^@?]+)\?(?P<options>[^?]+)")


@dataclass(frozen=True)
class ModelName:
    """A model of a library on a data set.

    Attributes:
        library: ``timm``, ``torchvision`` or ``transformers``.
        architecture: The library's name of the model; of transformers, the type of its configuration.
        data: Name of the data set.
        size: Pixels of a side of the images, or tokens of a sequence.
        options: Options of the model, by the library's names. What is left out has the library's default.

    Raises:
        InputError: If one of them is unknown, of the wrong kind or out of range. Only building the model tells whether
            the library knows the architecture and its options.
    """

    library: str
    architecture: str
    data: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        model, kind = f"{self.library}/{self.architecture}".rstrip("/"), KINDS.get(self.library)
        if kind is None or not re.fullmatch(r"[A-Za-z0-9_.-]+", self.architecture):
            alone = "" if "/" in model else "; the name of a registered workload is written without model"
            raise InputError(f"model = {short(model)}: must be {', '.join(f'{name}/NAME' for name in KINDS)}{alone}")
        fitting = ", ".join(name for name, learned in DATA.items() if learned.kind == kind)
        if self.data not in DATA or DATA[self.data].kind != kind:
            raise InputError(f"data = {short(self.data)}: models of {self.library} {DOES[kind]}; must be {fitting}")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= LARGEST:
            raise InputError(f"size = {short(self.size)}: must be a whole number from 1 to {LARGEST}")
        for option, value in self.options.items():
            if not re.fullmatch(r"[A-Za-z]\w*", option):
                raise InputError(f"options: {short(option)} is not the name of an option")
            if option in TAKEN[self.library]:
                raise InputError(f"options.{option}: is not a choice; a run sets it, and starts from new weights")
            _text(option, value)
        # The one channel of grey images is repeated, which gives any number of them.
        fits = type(self.channels) is int and (self.channels == self.learned.channels or self.learned.channels == 1)
        if kind == "vision" and not (fits and self.channels > 0):
            raise InputError(
                f"options.in_chans = {short(self.channels)}: images of {self.data} have "
                f"{self.learned.channels} channels"
            )

    def __str__(self) -> str:
        options = [f"{name}={_text(name, self.options[name])}" for name in sorted(self.options)]
        return f"{self.library}/{self.architecture}@{self.data}?{'&'.join([f'size={self.size}', *options])}"

    @property
    def learned(self) -> Learned:
        """The data set as models see it."""
        return DATA[self.data]

    @property
    def channels(self) -> int:
        """Channels that the model takes: those of the data where it can be told, and otherwise three."""
        return self.options.get("in_chans", self.learned.channels) if self.library == "timm" else 3

    @property
    def title(self) -> str:
        """Name in figures: the model and its data, with the options as far as there is room."""
        options = ", ".join(f"{name} {value}" for name, value in sorted(self.options.items()))
        changed = f" ({textwrap.shorten(options, 48, placeholder=' ...')})" if options else ""
        return f"{self.architecture}{changed} on {self.learned.title}"


def composed(model: str, data: str, size: int | None = None, options: Mapping[str, Any] | None = None) -> ModelName:
    """Return the name of a workload from the parts that a config gives.

    Args:
        model: ``timm/NAME``, ``torchvision/NAME`` or ``transformers/TYPE``.
        data: Name of the data set.
        size: Pixels of a side, or tokens of a sequence; by default those of the data set's registered workloads.
        options: Options of the model, by the library's names; default none.

    Raises:
        InputError: If one of them is unknown, of the wrong kind or out of range.
    """
    library, _, architecture = model.partition("/")
    default = DATA[data].size if data in DATA else 1
    return ModelName(library, architecture, data, default if size is None else size, dict(options or {}))


def parsed(name: str) -> ModelName:
    """Return the parts of a name.

    Args:
        name: As `ModelName` is written.

    Raises:
        InputError: If it is not written so; the message shows how it would be.
    """
    found = _FORM.fullmatch(name)
    if not found:
        raise InputError(f"workload = {short(name)}: a model must be LIBRARY/NAME@DATA?size=SIZE, then &OPTION=VALUE")
    values = {}
    for part in found["options"].split("&"):
        option, _, text = part.partition("=")
        values[option] = _value(unquote(text))
    try:
        model = composed(found["model"], found["data"], values.pop("size", None), values)
    except InputError as error:
        raise InputError(f"workload.{error}") from error
    if str(model) != name:
        raise InputError(f"workload = {short(name)}: must be written {str(model)}")
    return model


def nearest(name: str, known: Collection[str]) -> str:
    """Return up to three of the ``known`` names as text: those that begin with ``name``, or else those most like it."""
    longer = [other for other in known if other.startswith(name)]
    return ", ".join(longer[:3] or difflib.get_close_matches(name, known, 3, cutoff=0.0))


def unknown_option(model: ModelName, option: str, known: Collection[str]) -> InputError:
    """Return the error of an option that a model does not have; ``known`` are those that it has, by name."""
    names = [name for name in known if name not in TAKEN[model.library] and not name.startswith("_")]
    return InputError(
        f"workload.options.{option}: is not an option of {model.library}/{model.architecture}; "
        f"nearest: {nearest(option, names)}"
    )


def check_numbers(model: ModelName, defaults: Mapping[str, Any]) -> None:
    """Raise an InputError if an option is true or false where its default is a number: True would pass as 1.

    Args:
        model: The model.
        defaults: The library's defaults of the model's options, by name; of those that are known.
    """
    for option, value in model.options.items():
        if isinstance(value, bool) and type(default := defaults.get(option)) in (int, float):
            raise InputError(f"workload.options.{option} = {value}: must be a number, such as the default {default}")


@contextmanager
def refusing(model: ModelName) -> Iterator[None]:
    """Turn an error of a model's library, which can be of any kind, into an InputError of one line.

    Args:
        model: What is built or tried meanwhile.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"workload = {model}: {model.library} refuses it: {one_line(words, 300)}") from error


def _text(option: str, value: Any) -> str:
    """Return a value as text: JSON, or without quotes where it cannot be taken for another value."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"options.{option} = {short(value)}: must be numbers, text, lists, true or false") from error
    bare = isinstance(value, str) and value != "" and _value(value) == value
    return quote(value if bare else text, safe="/:,[]{}\"'+*()")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
