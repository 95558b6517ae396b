"""Order of examples: which ones a minibatch holds, and the random numbers for masks, crops and flips."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from adasde.training import distributed
from adasde.training.seeding import derive_seed
from adasde.workloads.base import Workload

BLOCK = 1024  # examples whose random numbers are drawn at once


class Sampler:
    """The examples of a run's minibatches, with the random numbers of each; ``keys`` tell the stream from all others.

    Examples are drawn independently with replacement, or as one permutation after another. Permutations follow each
    other without a gap. So no example is dropped if the batch size does not divide the size of the data. What is drawn
    does not depend on how it is cut into batches: under the same keys every batch size sees the same examples in the
    same order, each with the same random numbers. With ``places``, permutations are of these examples only.
    """

    def __init__(
        self, workload: Workload, sampling: str, keys: Sequence[object], places: torch.Tensor | None = None
    ) -> None:
        size = workload.size
        places = torch.arange(size) if places is None else places

        def independent(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
            return (torch.randint(size, (BLOCK,), generator=generator),)

        def permuted(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
            return (places[torch.randperm(len(places), generator=generator)],)

        def randomness(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
            return workload.randomness(BLOCK, generator)

        order, length = (independent, BLOCK) if sampling == "replacement" else (permuted, len(places))
        self.order = _Stream(derive_seed("data order", *keys), order, length)
        self.randomness = _Stream(derive_seed("model noise", *keys), randomness, BLOCK)

    def draw(self, count: int) -> tuple[torch.Tensor, ...]:
        """Return the arguments of the workload's ``gather``: ``count`` indices and the random numbers of each."""
        return *self.order.take(count), *self.randomness.take(count)

    @property
    def rest(self) -> torch.Tensor:
        """Examples of the present permutation that have not been drawn."""
        return self.order.tensors[0][self.order.position :]

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next draw."""
        return {"order": self.order.state(), "randomness": self.randomness.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.order.restore(state["order"])
        self.randomness.restore(state["randomness"])


class _Stream:
    """Random numbers that are drawn in blocks, so that they do not depend on how many are taken at a time.

    ``block(generator)`` returns tensors of ``length`` numbers each, along the first dimension.
    """

    def __init__(self, seed: int, block: Callable[[torch.Generator], tuple[torch.Tensor, ...]], length: int) -> None:
        self.generator, self.block, self.length = torch.Generator().manual_seed(seed), block, length
        self._next()

    def take(self, count: int) -> tuple[torch.Tensor, ...]:
        """Return the next ``count`` numbers of each tensor; ``count`` is at least 1."""
        parts = []
        while count:
            if self.position == self.length:
                self._next()
            end = min(self.length, self.position + count)
            parts.append([tensor[self.position : end] for tensor in self.tensors])
            count -= end - self.position
            self.position = end
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    def state(self) -> dict[str, Any]:
        """Return the generator's state before the present block, and the position in the block."""
        return {"generator": self.start, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.generator.set_state(state["generator"])
        self._next()
        if not 0 <= state["position"] <= self.length:
            raise ValueError("position outside the block")
        self.position = state["position"]

    def _next(self) -> None:
        self.start, self.position = self.generator.get_state(), 0
        self.tensors = self.block(self.generator)


class Prefetcher:
    """Batches that a workload prepares ahead of time; ``state`` is the sampler's after the last step taken.

    The workload's ``stream(draws)`` makes a batch of every item of ``draws``: the indices and random numbers of one
    pass. A step draws ``drawn`` samples in minibatches of ``size``. This process takes its shard of each, in passes of
    ``examples``.
    """

    def __init__(self, sampler: Sampler, stream: Callable[..., Any], drawn: int, size: int, examples: int) -> None:
        self.sampler, self.drawn, self.size, self.examples = sampler, drawn, size, examples
        self.passes = drawn // distributed.world_size() // examples
        self.states, self.state = deque(), sampler.state()
        self.batches = stream(self._passes())

    def step(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of the next step's passes. ``state`` changes when they have all been taken."""
        yield from islice(self.batches, self.passes)
        self.state = self.states.popleft()

    def close(self) -> None:
        """End the workers."""
        self.batches.close()

    def _passes(self) -> Iterator[tuple[torch.Tensor, ...]]:
        while True:
            drawn = [distributed.shard(tensor, self.size) for tensor in self.sampler.draw(self.drawn)]
            self.states.append(self.sampler.state())
            yield from zip(*(tensor.split(self.examples) for tensor in drawn), strict=True)
