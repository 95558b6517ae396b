"""train.py and measure.py: the loop, its clock and its streams; resuming, divergence, and what is measured."""

import math

import pytest
import torch
from torch.nn import functional as F

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.training.sampling import Sampler
from adasde.training.seeding import derive_seed
from adasde.workloads.metrics import classification, loss_and_gradient, squared_norm


def by_metric(rows, metric):
    return [value for _, _, _, name, value in rows if name == metric]


def test_a_run_learns_and_is_measured_when_it_should_be(small_spec, task):
    rows, facts = train({**small_spec, "schedule": {}, "evaluate": [32, 640, 1280]}, task)
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
    other, _ = train({**small_spec, "seed": 1}, task)
    assert rows_digest(rows) != rows_digest(other)


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
def test_interrupted_anywhere_and_resumed_is_uninterrupted(sampling, small_spec, task, tmp_path):
    spec = {**small_spec, "sampling": sampling, "evaluate": [96, 320, 640, 1280]}
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


def test_a_checkpoint_of_another_spec_is_refused_by_name(small_spec, task, tmp_path):
    path = tmp_path / "checkpoint"
    train(small_spec, task, path, every=0)
    with pytest.raises(InputError, match=r"checkpoint of another spec \(seed differ; seed is 0 there and 3 here\)"):
        train({**small_spec, "seed": 3}, task, path)


def test_a_damaged_checkpoint_costs_the_work_and_nothing_else(small_spec, task, tmp_path, caplog):
    path = tmp_path / "checkpoint"
    whole, _ = train(small_spec, task, path, every=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again, _ = train(small_spec, task, path, every=0)
    assert "damaged checkpoint" in caplog.text
    assert rows_digest(again) == rows_digest(whole)


def test_time_is_the_sum_of_squared_learning_rates(small_spec, task):
    run = Run(small_spec, task)
    rates = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (rates.append(run.optimizer.param_groups[0]["lr"]), step())
    run.advance(40)
    base = run.hyperparameters.lr
    assert math.isclose(run.time(40) / small_spec["horizon"], sum(r**2 for r in rates) / (40 * base**2), rel_tol=1e-9)
    assert rates[0] < 0.05 * base < rates[10]
    assert math.isclose(rates[30], 0.1 * base, rel_tol=1e-6)


def test_batch_sizes_share_their_clock_and_weights_and_not_their_noise(small_spec, task):
    larger = {**small_spec, "batch_size": 160, "kappa": 5}
    one, two = Run(small_spec, task), Run(larger, task)
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(p, q)
    for samples in small_spec["evaluate"]:
        assert math.isclose(one.time(samples // 32), two.time(samples // 160), rel_tol=1e-12)
    assert not torch.equal(one.draws.draw(50)[0], two.draws.draw(50)[0])


def test_divergence_is_a_row_that_says_when(small_spec, task):
    spec = {**small_spec, "schedule": {}, "optimizer": {**small_spec["optimizer"], "lr": 1e30}}
    rows, _ = train(spec, task)
    run, step, time, metric, value = rows[-1]
    assert (metric, value) == ("diverged", 1.0)
    assert 0 < step < 40
    assert math.isclose(time, small_spec["horizon"] * step / 40)


def test_a_batch_larger_than_the_data_is_refused(small_spec, task):
    with pytest.raises(InputError, match="batch_size = 640: larger than the 600 training examples"):
        train({**small_spec, "batch_size": 640}, task)


def test_draws_with_replacement_are_uniform_and_independent():
    draws = Sampler(10, "replacement", 0).draw(100_000)
    # Each count is binomial with standard deviation sqrt(n p q) = 95; five of them over ten counts.
    assert (draws.bincount(minlength=10) - 10_000).abs().max() < 5 * 95
    repeats = (draws[1:] == draws[:-1]).float().mean()
    assert abs(repeats - 0.1) < 5 * math.sqrt(0.09 / 1e5)


def test_epochs_are_permutations_without_a_gap():
    sampler = Sampler(10, "epoch", 0)
    draws = torch.cat([sampler.draw(n) for n in (7, 7, 16)])
    epochs = draws.view(3, 10)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10).expand(3, 10))
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
@pytest.mark.parametrize("before", [0, 3, 10, 13])
def test_a_sampler_goes_on_where_it_was(sampling, before):
    sampler, other = Sampler(10, sampling, 0), Sampler(10, sampling, 99)
    if before:
        sampler.draw(before)
    other.restore(sampler.state())
    assert torch.equal(sampler.draw(25), other.draw(25))


def test_streams_differ_by_purpose_and_number():
    seeds = {derive_seed(p, *n) for p in ("data order", "initial weights") for n in ((0,), (1,), (0, 1), (1, 0))}
    assert len(seeds) == 8
    assert derive_seed("data order", 0) == derive_seed("data order", 0)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_loss_and_gradient_are_those_of_the_whole_set(task):
    model = task.model()
    model.eval()
    images, labels = (torch.cat(parts) for parts in zip(*task.subset, strict=True))
    loss = F.cross_entropy(model(images), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    chunks = list(zip(images.split(130), labels.split(130), strict=True))  # unequal chunks must not matter
    found = loss_and_gradient(model, task.loss, chunks, 0.1, 0.0)
    assert math.isclose(found["train_loss"], loss.item(), rel_tol=1e-5)
    assert math.isclose(found["gradient_norm"], sum(g.square().sum().item() for g in grads) ** 0.5, rel_tol=1e-4)
    assert 1 > found["speed_k2"] > found["speed_k256"] > 0
    assert all(p.grad is None for p in model.parameters())


def test_accuracy_and_norm_by_hand(task):
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.fill_(2.0)
    inputs, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, accuracy = classification(model, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])])
    assert math.isclose(accuracy, 2 / 3)
    assert math.isclose(loss, F.cross_entropy(model(inputs), labels).item(), rel_tol=1e-6)
    assert squared_norm(model) == 2 + 8
    model.bias.requires_grad_(False)
    assert squared_norm(model) == 2


def test_measuring_changes_nothing(task):
    model = task.model().train()
    before = [t.clone() for t in model.state_dict().values()]
    first, second = task.measure(model, 0.1, 0.0), task.measure(model, 0.1, 0.0)
    assert first == second
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


def test_an_untrained_network_knows_nothing(task):
    metrics = task.measure(task.model(), 0.1, 0.0)
    assert abs(metrics["test_loss"] - math.log(10)) < 0.5
    assert metrics["test_accuracy"] < 0.3
