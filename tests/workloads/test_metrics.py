"""What is measured of the current weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from adasde.scaling.gradient_noise import SpeedMeter
from adasde.workloads.metrics import classification, first, mean_loss, squared_norm


def test_loss_and_gradient_are_those_of_the_whole_set(task):
    model = task.model()
    model.eval()
    images, labels = (torch.cat(parts) for parts in zip(*task.graded, strict=True))
    loss = F.cross_entropy(model(images), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    chunks = list(zip(images.split(130), labels.split(130), strict=True))  # unequal chunks must not matter
    assert math.isclose(mean_loss(model, task.loss, chunks), loss.item(), rel_tol=1e-5)
    found = SpeedMeter(0.1, 0.0).measure(model, task.loss, chunks)
    assert math.isclose(found["gradient_norm"], sum(g.square().sum().item() for g in grads) ** 0.5, rel_tol=1e-4)
    assert 1 > found["speed_k2"] > found["speed_k256"] > 0
    assert all(p.grad is None for p in model.parameters())


def test_accuracy_and_norm_by_hand(task):
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.fill_(2.0)
    inputs, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 1, 1])
    found = classification(model, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])])
    assert math.isclose(found["test_accuracy"], 2 / 3)
    assert math.isclose(found["test_loss"], F.cross_entropy(model(inputs), labels).item(), rel_tol=1e-6)
    assert squared_norm(model) == 2 + 8
    model.bias.requires_grad_(False)
    assert squared_norm(model) == 2


def test_measuring_changes_nothing(task):
    model = task.model().train()
    before = [t.clone() for t in model.state_dict().values()]
    first, second = task.measure(model, SpeedMeter(0.1, 0.0)), task.measure(model, SpeedMeter(0.1, 0.0))
    assert first == second
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


def test_an_evaluation_without_noise_takes_no_gradient(task, monkeypatch):
    model = task.model().train()
    whole = task.measure(model, SpeedMeter(0.1, 0.0))
    monkeypatch.setattr(torch.autograd, "grad", None)
    found = task.measure(model)
    assert found == {name: whole[name] for name in ("train_loss", "test_loss", "test_accuracy", "squared_norm")}
    assert model.training


@pytest.mark.parametrize(("count", "sizes"), [(None, [4, 4, 2]), (99, [4, 4, 2]), (8, [4, 4]), (5, [4, 1]), (1, [1])])
def test_the_first_examples_are_those_of_the_first_chunks(count, sizes):
    numbers = torch.arange(10)
    chunks = list(zip(numbers.split(4), (-numbers).split(4), strict=True))
    found = list(first(iter(chunks), count))
    assert [len(part) for part, _ in found] == sizes
    for part, sign in ((0, 1), (1, -1)):
        assert torch.cat([chunk[part] for chunk in found]).tolist() == [sign * n for n in range(sum(sizes))]


def test_few_test_images_change_the_test_metrics_alone(task):
    model = task.model().train()
    whole, few = (task.measure(model, tested=count) for count in (None, 30))
    images, labels = (torch.cat(parts)[:30] for parts in zip(*task.test, strict=True))
    model.eval()
    assert few["test_accuracy"] == (model(images).argmax(1) == labels).double().mean().item()
    assert {name for name in whole if few[name] != whole[name]} <= {"test_loss", "test_accuracy"}
    assert few["test_loss"] != whole["test_loss"]


def test_an_untrained_network_knows_nothing(task):
    metrics = task.measure(task.model(), SpeedMeter(0.1, 0.0))
    assert abs(metrics["test_loss"] - math.log(10)) < 0.5
    assert metrics["test_accuracy"] < 0.3
