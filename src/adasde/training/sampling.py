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
    """The examples of a run's minibatches, with the random numbers of each; ``keys`` tell the run from all others.

    Examples are drawn independently with replacement, or as one permutation after another. Permutations follow each
    other without a gap. So no example is dropped if the batch size does not divide the size of the data, and every
    batch size sees the same number of samples.
    """

    def __init__(self, workload: Workload, sampling: str, keys: Sequence[object]) -> None:
        self.size, self.noise, self.replacement = workload.size, workload.noise, sampling == "replacement"
        self.order = torch.Generator().manual_seed(derive_seed("data order", *keys))
        self.changes = torch.Generator().manual_seed(derive_seed("model noise", *keys))
        # The state of ``order`` before the last permutation, and the rest of that permutation.
        self.start, self.rest = self.order.get_state(), torch.empty(0, dtype=torch.int64)

    def draw(self, count: int) -> tuple[torch.Tensor, ...]:
        """Return the arguments of the workload's ``gather``: ``count`` indices and the random numbers of each."""
        return self._indices(count), *self.noise(count, self.changes)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next draw."""
        order = self.start if len(self.rest) else self.order.get_state()
        return {
            "sampler": {"generator": order, "position": self.size - len(self.rest)},
            "noise": self.changes.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.changes.set_state(state["noise"])
        self.order.set_state(state["sampler"]["generator"])
        position = state["sampler"]["position"]
        self.rest = self._permutation()[position:] if position < self.size else self.rest[:0]

    def _indices(self, count: int) -> torch.Tensor:
        if self.replacement:
            return torch.randint(self.size, (count,), generator=self.order)
        while len(self.rest) < count:
            self.rest = torch.cat([self.rest, self._permutation()])
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def _permutation(self) -> torch.Tensor:
        self.start = self.order.get_state()
        return torch.randperm(self.size, generator=self.order)


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
