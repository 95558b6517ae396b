"""The monitor of the gradient's noise: when it measures, what it concludes, what it refuses."""

import pytest
import torch
from torch import nn

from adasde.common import InputError
from adasde.scaling import gradient_noise
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.rescale import rescale


@pytest.fixture
def loop():
    """A regression, its loss, and chunks of its data."""
    torch.manual_seed(1)
    x = torch.randn(400, 5)
    y = x @ torch.arange(5.0)[:, None] + torch.randn(400, 1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    return model, x, y, lambda model, x, y: ((model(x) - y) ** 2).mean()


def test_the_monitor_measures_when_due_and_leaves_the_training_alone(loop):
    model, x, y, loss = loop
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    chunks = list(zip(x.split(20), y.split(20), strict=True))
    model.train()
    state = torch.get_rng_state()
    monitor = NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError, match="has measured the start alone"):
        monitor.largest_kappa()
    for number in range(1, 26):
        drawn = torch.randint(400, (16,))
        optimizer.zero_grad()
        loss(model, x[drawn], y[drawn]).backward()
        optimizer.step()
        monitor(number)
    assert monitor.times == pytest.approx([0.0, 10e-4, 20e-4])
    lags = monitor.lags()
    assert list(lags) == list(gradient_noise.KAPPAS)
    assert all(0 <= a <= b + 1e-9 <= 1 for a, b in zip(list(lags.values()), list(lags.values())[1:], strict=False))
    assert 1 <= monitor.largest_kappa() <= 5 + 1e-9  # where beta1 would be 0.5
    model.eval()
    _, gradient = gradient_noise.measure(model, loss, chunks)
    wanted = gradient.speeds((4,), 0.25, 1e-8)[4]
    fresh = NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    assert fresh.speeds[0][4] == pytest.approx(wanted)
    assert not model.training


def test_where_noise_dominates_the_betas_are_the_limit(loop):
    model, x, _, loss = loop
    y = 100 * torch.randn(400, 1)  # nothing to learn
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    monitor = NoiseMonitor(model, optimizer, 1, loss, zip(x.split(20), y.split(20), strict=True), every=1)
    monitor(1)
    assert monitor.largest_kappa() == pytest.approx(5)
    rescale(optimizer, monitor.largest_kappa())  # without a warning
    with pytest.raises(InputError, match="was rescaled; make a new one with the new batch_size"):
        monitor(2)


def test_what_a_monitor_cannot_measure_is_refused(loop):
    model, x, y, loss = loop
    adam, chunks = torch.optim.Adam(model.parameters()), list(zip(x.split(20), y.split(20), strict=True))
    for optimizer, words in (
        (torch.optim.SGD(model.parameters(), lr=1.0), "optimizer = SGD: must be torch's Adam"),
        (torch.optim.RMSprop(model.parameters(), momentum=0.9), "momentum = 0.9: the rule is for RMSprop without"),
    ):
        with pytest.raises(InputError, match=words):
            NoiseMonitor(model, optimizer, 16, loss, chunks, every=1)
    with pytest.raises(InputError, match="chunks: each must be a tuple of tensors, .* not Tensor"):
        NoiseMonitor(model, adam, 16, loss, x.split(20), every=1)
    with pytest.raises(InputError, match=r"loss: of shape \(20,\); must be a scalar"):
        NoiseMonitor(model, adam, 16, lambda m, a, b: (m(a) - b).square()[:, 0], chunks, every=1)
