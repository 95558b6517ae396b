"""What a run draws for its minibatches: which examples, and the random numbers for what is done to them."""

from collections import deque
from itertools import islice

import torch

from adasde.training import distributed
from adasde.training.seeding import derive_seed


class Sampler:
    """Indices of training examples: independent draws with replacement, or one permutation after another.

    Permutations follow each other without a gap, so that no example is dropped when the batch size does not
    divide the size of the data, and every batch size sees the same number of samples.
    """

    def __init__(self, size: int, sampling: str, seed: int):
        self.size, self.replacement = size, sampling == "replacement"
        self.generator = torch.Generator().manual_seed(seed)
        self.start, self.order, self.position = None, None, size

    def draw(self, count: int) -> torch.Tensor:
        """Return the next ``count`` indices, int64 of shape (count,)."""
        if self.replacement:
            return torch.randint(self.size, (count,), generator=self.generator)
        parts = []
        while count:
            if self.position == self.size:
                self._permute()
            taken = self.order[self.position : self.position + count]
            parts.append(taken)
            self.position += len(taken)
            count -= len(taken)
        return torch.cat(parts)

    def state(self) -> dict:
        """Return what `restore` needs to go on with the next index."""
        within = self.position < self.size  # within a permutation, which its starting state draws again
        return {"generator": self.start if within else self.generator.get_state(), "position": self.position}

    def restore(self, state: dict):
        """Go back to the point at which ``state`` was taken."""
        self.generator.set_state(state["generator"])
        if state["position"] < self.size:
            self._permute()
        self.position = state["position"]

    def _permute(self):
        self.start = self.generator.get_state()
        self.order = torch.randperm(self.size, generator=self.generator)
        self.position = 0


class Draws:
    """The examples of a run's minibatches with their noise; ``keys`` tell the run from all others."""

    def __init__(self, task, sampling: str, keys):
        self.sampler = Sampler(task.size, sampling, derive_seed("data order", *keys))
        self.generator = torch.Generator().manual_seed(derive_seed("model noise", *keys))
        self.noise = task.noise

    def draw(self, count: int) -> tuple[torch.Tensor, ...]:
        """Return the next ``count`` indices and their noise, each of shape (count, ...): arguments of task.gather."""
        return self.sampler.draw(count), *self.noise(count, self.generator)

    def state(self) -> dict:
        """Return what `restore` needs to go on with the next draw."""
        return {"sampler": self.sampler.state(), "noise": self.generator.get_state()}

    def restore(self, state: dict):
        """Go back to the point at which ``state`` was taken."""
        self.sampler.restore(state["sampler"])
        self.generator.set_state(state["noise"])


class Prefetcher:
    """Batches that a task prepares ahead of time, and the state of the draws up to the last step that was taken.

    ``stream(draws)`` is the task's: it makes of every item of ``draws``, the indices and noise of one forward pass, a
    batch. A step draws ``drawn`` examples, in minibatches of ``size``, of which this process takes its share; with
    ``micro`` a forward pass sees that many of them.
    """

    def __init__(self, draws: Draws, stream, drawn: int, size: int, micro: int | None):
        self.draws, self.drawn, self.size = draws, drawn, size
        self.examples = micro or drawn // distributed.world_size()
        self.passes = drawn // distributed.world_size() // self.examples
        self.states, self.state = deque(), draws.state()
        self.batches = derive_seed(self._passes())

    def step(self):
        """Yield the batches of the next step's passes; once it is at its end, ``state`` is that after the step."""
        yield from islice(self.batches, self.passes)
        self.state = self.states.popleft()

    def close(self):
        """End the workers."""
        self.batches.close()

    def _passes(self):
        while True:
            drawn = [distributed.shard(tensor, self.size) for tensor in self.draws.draw(self.drawn)]
            self.states.append(self.draws.state())
            yield from zip(*(tensor.split(self.examples) for tensor in drawn), strict=True)
