"""The training loop: evaluation, divergence, interruption and resuming."""

import math

import pytest
import torch

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.training.loop import train
from conftest import changed


def by_metric(rows, metric):
    return [value for _, _, _, name, value in rows if name == metric]


def test_a_run_learns_and_is_measured_when_it_should_be(small_spec, task):
    rows, facts = train(changed(small_spec, schedule={}, evaluate=[32, 640, 1280]), task)
    assert [step for _, step, _, name, _ in rows if name == "test_loss"] == [0, 1, 20, 40]
    losses = by_metric(rows, "train_loss")
    assert losses[-1] < 0.7 * losses[0]
    assert by_metric(rows, "test_accuracy")[-1] > 0.3
    assert facts["seconds"] > 0
    assert facts["peak_bytes"] > 1e7


def test_the_same_spec_gives_the_same_bits(small_spec, task):
    rows, _ = train(small_spec, task)
    torch.rand(7)  # a run owes nothing to torch's global generator, and leaves it alone
    state = torch.get_rng_state()
    again, _ = train(small_spec, task)
    assert rows_digest(rows) == rows_digest(again)
    assert torch.equal(state, torch.get_rng_state())
    other, _ = train(changed(small_spec, seed=1), task)
    assert rows_digest(rows) != rows_digest(other)


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
def test_interrupted_anywhere_and_resumed_is_uninterrupted(sampling, small_spec, task, tmp_path):
    spec = changed(small_spec, sampling=sampling, evaluate=[96, 320, 640, 1280])
    whole, _ = train(spec, task)
    path = tmp_path / "checkpoint"

    class Interrupted(Exception):
        pass

    for step in (3, 10, 20):  # the chunks of this run end at its evaluations

        def stop(now, steps, step=step):
            if now == step:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(spec, task, path, every=0, report=stop)
        assert path.exists()
    resumed, _ = train(spec, task, path, every=0)
    assert rows_digest(resumed) == rows_digest(whole)


def test_divergence_is_a_row_that_says_when(small_spec, task):
    spec = changed(small_spec, schedule={}, optimizer={**small_spec.document["optimizer"], "lr": 1e30})
    rows, _ = train(spec, task)
    run, step, time, metric, value = rows[-1]
    assert (metric, value) == ("diverged", 1.0)
    assert 0 < step < 40
    assert math.isclose(time, small_spec.horizon * step / 40)


def test_a_batch_larger_than_the_data_is_refused(small_spec, task):
    with pytest.raises(InputError, match="batch_size = 640: larger than the 600 training examples"):
        train(changed(small_spec, batch_size=640, evaluate=[1280]), task)
