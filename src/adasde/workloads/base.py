"""The base classes of this package: `Workload`, abstract, what a run trains, and `Dataset`, what a workload learns."""

from __future__ import annotations  # names torch's types without importing torch, which planning does without

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from adasde.common import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adasde.scaling.gradient_noise import SpeedMeter


class Workload(ABC):
    """Data, model, loss and metrics under one name: all that training needs to know of what it trains.

    Training reads batches from `gather` or, if the workload is ``streamed``, from `stream`: examples that take long to
    make are made there ahead of time.
    """

    device: torch.device  #: where its model and its batches are
    streamed: bool = False  #: whether training reads from `stream`

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of training examples."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a new model whose weights are drawn from torch's global generator.

        Returns:
            The model, in training mode.
        """

    def randomness(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw the random numbers that change examples, such as masks or crops. By default there are none.

        Args:
            count: Number of examples.
            generator: torch generator, or None (default) for torch's global one.

        Returns:
            Tensors whose first dimension is ``count``.
        """
        return ()

    @abstractmethod
    def gather(self, indices: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return the training examples at ``indices`` (examples,) as a batch.

        Args:
            indices: Places of examples, int64.
            randomness: What `randomness` drew for these examples; drawn anew if left out.

        Returns:
            The arguments of `loss` after the model, tensors whose first dimension is ``examples``.
        """

    def stream(self, draws: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batch of every item of ``draws``.

        Args:
            draws: Arguments of `gather`: for every batch the indices, and what `randomness` drew for them.
                It need not end.

        Yields:
            What `gather` returns.
        """
        for indices, *randomness in draws:
            yield self.gather(indices, *randomness)

    @abstractmethod
    def loss(self, model: nn.Module, *batch: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            model: The model.
            batch: What `gather` returned.
            weights: A weight per example, (examples,); then the loss is the sum of weights times losses, as SVAG needs
                it. Default none.

        Returns:
            The loss, a scalar.
        """

    def compiled_loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Return the loss of a batch, as `loss` does, in the form that torch.compile makes most of. Default: `loss`.

        Args:
            model: The model.
            batch: What `gather` returned.

        Returns:
            The loss, a scalar; up to rounding that of `loss`.
        """
        return self.loss(model, *batch)

    def kernels(self, examples: int) -> AbstractContextManager[None]:
        """Return a context in which passes forward and back are fast. By default it does nothing.

        Args:
            examples: Number of examples per pass.

        Returns:
            The context. It undoes at its end what it changed, so that nothing outside depends on what ran before.
        """
        return nullcontext()

    @abstractmethod
    def measure(self, model: nn.Module, meter: SpeedMeter | None = None, tested: int | None = None) -> dict[str, float]:
        """Return the metrics of the current weights; metrics.py explains their names.

        Args:
            model: The model, which is in training mode before and after.
            meter: Measures the gradient and its noise as well, which costs several times the rest; default none.
            tested: Number of test examples, the first ones; by default all that the workload tests.

        Returns:
            Values by name.
        """


class Form(NamedTuple):
    """What an array is made of: the type of its numbers, and the shape of one item."""

    dtype: str
    item: tuple[int, ...] = ()


class Dataset:
    """A data set in the registry: what it is, and the module that makes its arrays. Entries are frozen dataclasses.

    The module has functions ``facts(dataset, folder)`` and ``make(dataset, folder)``. It is imported only when the data
    set is prepared, since planning does without the libraries that this needs.
    """

    name: str  #: in the registry, and of its folder
    licence: str
    download_bytes: int  #: of its files as they are fetched
    prepared_bytes: int  #: of its arrays
    train_size: int  #: training examples, counted in ``unit``
    test_size: int  #: test examples, counted in ``unit``
    unit: str  #: what sizes count, such as examples or tokens
    forms: Mapping[str, Form] = MappingProxyType({})  #: its arrays, by name; others are made again
    module: ClassVar[str]
    tolerance: ClassVar[float] = 0.02  #: relative error of sizes; other versions of libraries change them a little

    def facts(self, folder: Path) -> dict[str, str]:
        """Return what the arrays are made from.

        Args:
            folder: The data set's folder.

        Returns:
            Hashes by file.
        """
        return import_module(self.module).facts(self, folder)

    def make(self, folder: Path) -> list[str]:
        """Write the arrays as .npy files.

        Args:
            folder: The data set's folder.

        Returns:
            Names of the arrays.

        Raises:
            InputError: If files that they are made from are missing.
        """
        return import_module(self.module).make(self, folder)

    def packed_form(self) -> Dataset:
        """Return the entry whose arrays also hold the files themselves.

        Returns:
            The entry, of the same name.

        Raises:
            InputError: If the data set has no such form.
        """
        raise InputError(f"packed: {self.name} has no packed form; leave it out, or name imagenet")
