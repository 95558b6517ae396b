"""Order of examples: which ones a minibatch holds, and the random numbers for masks, crops and flips."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from adasde.training import distributed
from adasde.training.seeding import derive_seed
from adasde.workloads.base import Workload


class Sampler:
    """Indices of training examples: independent draws with replacement, or one permutation after another.

    Permutations follow each other without a gap. So no example is dropped if the batch size does not divide the size of
    the data, and every batch size sees the same number of samples.
    """

    def __init__(self, size: int, sampling: str, seed: int) -> None:
        self.size, self.replacement = size, sampling == "replacement"
        self.generator = torch.Generator().manual_seed(seed)
        # The generator's state before the last permutation, and what is left of that permutation.
        self.start, self.left = self.generator.get_state(), torch.empty(0, dtype=torch.int64)

    def draw(self, count: int) -> torch.Tensor:
        """Return the next ``count`` indices, int64 of shape (count,)."""
        if self.replacement:
            return torch.randint(self.size, (count,), generator=self.generator)
        while len(self.left) < count:
            self.left = torch.cat([self.left, self._permutation()])
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next index."""
        state = self.start if len(self.left) else self.generator.get_state()
        return {"generator": state, "position": self.size - len(self.left)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.generator.set_state(state["generator"])
        self.left = self._permutation()[state["position"] :] if state["position"] < self.size else self.left[:0]

    def _permutation(self) -> torch.Tensor:
        self.start = self.generator.get_state()
        return torch.randperm(self.size, generator=self.generator)


class Draws:
    """The examples of a run's minibatches, with the random numbers of each; ``keys`` tell the run from all others."""

    def __init__(self, workload: Workload, sampling: str, keys: Sequence[object]) -> None:
        self.sampler = Sampler(workload.size, sampling, derive_seed("data order", *keys))
        self.generator = torch.Generator().manual_seed(derive_seed("model noise", *keys))
        self.noise = workload.noise

    def draw(self, count: int) -> tuple[torch.Tensor, ...]:
        """Return the arguments of the workload's ``gather``: the next ``count`` indices and their random numbers.

        Each has the shape (count, ...).
        """
        return self.sampler.draw(count), *self.noise(count, self.generator)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next draw."""
        return {"sampler": self.sampler.state(), "noise": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.sampler.restore(state["sampler"])
        self.generator.set_state(state["noise"])


class Prefetcher:
    """Batches that a workload prepares ahead of time; ``state`` is that of ``draws`` after the last step taken.

    The workload's ``stream(draws)`` makes a batch of every item of ``draws``: the indices and random numbers of one
    pass. A step draws ``drawn`` samples in minibatches of ``size``. This process takes its shard of each, in passes of
    ``examples``.
    """

    def __init__(self, draws: Draws, stream: Callable[..., Any], drawn: int, size: int, examples: int) -> None:
        self.draws, self.drawn, self.size, self.examples = draws, drawn, size, examples
        self.passes = drawn // distributed.world_size() // examples
        self.states, self.state = deque(), draws.state()
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
            drawn = [distributed.shard(tensor, self.size) for tensor in self.draws.draw(self.drawn)]
            self.states.append(self.draws.state())
            yield from zip(*(tensor.split(self.examples) for tensor in drawn), strict=True)
