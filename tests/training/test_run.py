"""The state of a run: its clock, its random streams, what it trains, and how it is restored."""

import math

import pytest
import torch

from adasde.training.run import Run
from conftest import changed


def test_time_is_the_sum_of_squared_learning_rates(small_spec, task):
    run = Run(small_spec, task)
    rates = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (rates.append(run.optimizer.param_groups[0]["lr"]), step())
    run.advance(40)
    base = run.hyperparameters.lr
    assert math.isclose(run.time(40) / small_spec.horizon, sum(r**2 for r in rates) / (40 * base**2), rel_tol=1e-9)
    assert rates[0] < 0.05 * base < rates[10]
    assert math.isclose(rates[30], 0.1 * base, rel_tol=1e-6)


def test_batch_sizes_share_their_clock_and_weights_and_not_their_noise(small_spec, task):
    larger = changed(small_spec, batch_size=160, kappa=5)
    one, two = Run(small_spec, task), Run(larger, task)
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(p, q)
    for samples in small_spec.evaluate:
        assert math.isclose(one.time(samples // 32), two.time(samples // 160), rel_tol=1e-12)
    assert not torch.equal(one.draws.draw(50)[0], two.draws.draw(50)[0])


def test_a_frozen_layer_keeps_its_weights_and_is_not_counted(small_spec, task):
    run = Run(changed(small_spec, frozen="last-layer"), task)
    before, free = run.model[-1].weight.clone(), run.model[0].weight.clone()
    run.advance(5)
    assert torch.equal(run.model[-1].weight, before)
    assert not torch.equal(run.model[0].weight, free)
    run.measure()
    norms = {row[3]: row[4] for row in run.rows}
    assert norms["squared_norm"] == pytest.approx(
        sum(p.square().sum().item() for p in run.model.parameters() if p is not run.model[-1].weight)
        - run.model[-1].bias.square().sum().item(),
        rel=1e-6,
    )
