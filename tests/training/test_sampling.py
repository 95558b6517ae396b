"""Which examples are drawn, batches made ahead of time, and the seeds of random streams."""

import math
from types import SimpleNamespace

import pytest
import torch

from adasde.common import Stopped
from adasde.experiments.artifacts import rows_digest
from adasde.training.loop import train
from adasde.training.sampling import BLOCK, Sampler
from adasde.training.seeding import derive_seed
from conftest import changed, slow


def sampler(sampling, seed=0, places=None):
    """A sampler of ten examples, with a random number for each draw."""
    workload = SimpleNamespace(size=10, randomness=lambda count, generator: (torch.rand(count, generator=generator),))
    return Sampler(workload, sampling, [seed], places)


def test_draws_with_replacement_are_uniform_and_independent():
    draws = sampler("replacement").draw(100_000)[0]
    # Each count is binomial with standard deviation sqrt(n p q) = 95; five of them over ten counts.
    assert (draws.bincount(minlength=10) - 10_000).abs().max() < 5 * 95
    repeats = (draws[1:] == draws[:-1]).float().mean()
    assert abs(repeats - 0.1) < 5 * math.sqrt(0.09 / 1e5)


def test_epochs_are_permutations_without_a_gap():
    own = sampler("epoch")
    draws = torch.cat([own.draw(n)[0] for n in (7, 7, 16)])
    epochs = draws.view(3, 10)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10).expand(3, 10))
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
def test_what_is_drawn_does_not_depend_on_how_it_is_cut(sampling):
    """Nor do the random numbers of each example; blocks of either have an end within."""
    whole = sampler(sampling).draw(2 * BLOCK + 8)
    for size in (1, 8, BLOCK + 4, 2 * BLOCK + 8):
        own = sampler(sampling)
        parts = [own.draw(size) for _ in range((2 * BLOCK + 8) // size)]
        assert all(torch.equal(torch.cat(cut), one) for cut, one in zip(zip(*parts, strict=True), whole, strict=True))


@pytest.mark.parametrize("before", [0, 1, 4, 9])
def test_permutations_of_some_places(before):
    places = torch.tensor([1, 2, 3, 5, 8])
    own = sampler("epoch", places=places)
    drawn = own.draw(20)[0].view(4, 5)
    assert torch.equal(drawn.sort(dim=1).values, places.expand(4, 5))
    assert not torch.equal(drawn[0], drawn[1])
    own = sampler("epoch", places=places)
    if before:
        own.draw(before)
    assert torch.equal(own.rest, drawn.flatten()[before : 5 * (before // 5 + 1)])


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
@pytest.mark.parametrize("before", [0, 3, 10, 13])
def test_a_sampler_goes_on_where_it_was(sampling, before):
    one, other = sampler(sampling), sampler(sampling, 99)
    if before:
        one.draw(before)
    other.restore(one.state())
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(one.draw(25), other.draw(25), strict=True))


def test_streams_differ_by_purpose_and_number():
    seeds = {derive_seed(p, *n) for p in ("data order", "initial weights") for n in ((0,), (1,), (0, 1), (1, 0))}
    assert len(seeds) == 8
    assert derive_seed("data order", 0) == derive_seed("data order", 0)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("options", [slow({}), {"micro_batch": 8}, {"sampling": "epoch"}])
def test_batches_made_ahead_of_time_are_the_same(options, small_spec, task, tmp_path):
    """Also when the run is stopped, and batches that were made ahead are lost."""
    spec = changed(small_spec, **options)
    whole, _ = train(spec, task)
    task.streamed = True
    assert rows_digest(train(spec, task)[0]) == rows_digest(whole)

    def stream(draws):  # two batches ahead
        batches = task.gather(*next(draws)), task.gather(*next(draws))
        for draw in draws:
            yield batches[0]
            batches = batches[1], task.gather(*draw)

    task.stream = stream
    with pytest.raises(Stopped):
        train(spec, task, tmp_path / "c", stopping=lambda: True)
    assert rows_digest(train(spec, task, tmp_path / "c")[0]) == rows_digest(whole)
