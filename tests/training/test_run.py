"""The state of a run: its clock and random streams, what it trains, its passes, precision and memory."""

import math

import pytest
import torch
from torch import nn

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed

CLOSE = 1e-5  # between sums in another order, relative to the weights' scale


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


def test_batch_sizes_share_their_clock_weights_and_examples(small_spec, task):
    """And not what dropout draws, nor the examples of another seed."""
    larger = changed(small_spec, batch_size=160, kappa=5)
    (one, first), (two, other) = ((Run(spec, task), torch.initial_seed()) for spec in (small_spec, larger))
    assert first != other
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(p, q)
    for samples in small_spec.evaluate:
        assert math.isclose(one.time(samples // 32), two.time(samples // 160), rel_tol=1e-12)
    drawn = torch.cat([one.sampler.draw(32)[0] for _ in range(10)])
    assert torch.equal(drawn, torch.cat([two.sampler.draw(160)[0] for _ in range(2)]))
    assert not torch.equal(drawn, Run(changed(larger, seed=1), task).sampler.draw(320)[0])


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


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("ell", [1, 2])
@pytest.mark.parametrize("micro", [4, 16, 32])
def test_micro_batches_add_up_to_the_batch(ell, micro, at_ell, tensors):
    """Without batch norm, whose statistics are those of a pass, a step is the same however it is cut."""
    task = ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)
    whole, cut = Run(at_ell(ell), task), Run(changed(at_ell(ell), micro_batch=micro), task)
    for run in (whole, cut):
        run.advance(20)
    assert torch.allclose(weights(whole), weights(cut), rtol=0, atol=CLOSE)
    assert not torch.equal(weights(whole), weights(Run(at_ell(ell), task)))


def test_batch_norm_sees_a_micro_batch_or_the_whole(small_spec, resnet):
    seen = {}
    for micro in (None, 8):
        run = Run(changed(small_spec, micro_batch=micro), resnet)
        sizes = seen[micro] = []
        norm = next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
        norm.register_forward_hook(lambda module, args, out, sizes=sizes: sizes.append(len(args[0])))
        run.advance(2)
    assert seen == {None: [32, 32], 8: [8] * 8}


def test_svag_passes_micro_batches_of_one_minibatch_each(at_ell, resnet):
    """Whole minibatches as micro-batches are the two passes of the definition."""
    one, two = Run(at_ell(2), resnet), Run(changed(at_ell(2), micro_batch=32), resnet)
    for run in (one, two):
        run.advance(10)
    assert torch.allclose(weights(one), weights(two), rtol=0, atol=10 * CLOSE)


def test_interrupted_with_micro_batches_is_uninterrupted(small_spec, resnet, tmp_path):
    spec = changed(small_spec, micro_batch=8)
    whole, _ = train(spec, resnet)

    def stop(now, steps):
        if now == 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(spec, resnet, tmp_path / "c", every=0, report=stop)
    assert rows_digest(train(spec, resnet, tmp_path / "c")[0]) == rows_digest(whole)


def test_bf16_is_close_and_not_the_same(small_spec, task):
    exact, _ = train(small_spec, task)
    rough, _ = train(changed(small_spec, precision="bf16"), task)
    assert rows_digest(exact) != rows_digest(rough)
    last = {row[3]: row[4] for row in exact}
    assert {row[3]: row[4] for row in rough}["train_loss"] == pytest.approx(last["train_loss"], rel=0.2)


@pytest.mark.parametrize("micro", [None, 16])
def test_too_little_memory_is_said_in_one_line(micro, small_spec, task, monkeypatch):
    plain = type(task).loss

    def limited(self, model, images, labels, weights=None):
        if len(images) > 9 and model.training:
            raise torch.OutOfMemoryError("no")
        return plain(self, model, images, labels, weights)

    monkeypatch.setattr(type(task), "loss", limited)
    with pytest.raises(InputError) as refused:
        train(changed(small_spec, micro_batch=micro), task)
    assert str(refused.value) == (
        f"micro_batch = {micro}: the device's memory is too small for {micro or 32} examples at once; "
        "try a smaller micro_batch"
    )
    train(changed(small_spec, micro_batch=8), task)
