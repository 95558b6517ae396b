"""Runs at ell > 1: their clock, their random streams, their step, and resuming."""

import math

import pytest
import torch

from adasde.analysis import tables
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.scaling.svag import coefficients
from adasde.training.loop import train
from adasde.training.run import Run
from conftest import changed, save_run, slow


@pytest.fixture
def config(config):
    config["experiments"]["svag-fashion-cnn-adam"]["ell"]["value"] = [1, 2, 4, 1.5]
    return config


@pytest.mark.parametrize("ell", [1, 2])
def test_a_run_at_ell_covers_the_time_of_the_plain_run_in_ell_squared_steps(ell, at_ell, task):
    spec = at_ell(ell)
    run = Run(spec, task)
    rates, sizes = [], []
    step, objective = run.optimizer.step, run.objective
    run.optimizer.step = lambda: (rates.append(run.optimizer.param_groups[0]["lr"]), step())
    run.objective = lambda *batch: (sizes.append(len(batch[0])), objective(*batch))[1]
    for _ in range(ell**2):
        run.advance(40)
    assert set(sizes) == {32 if ell == 1 else 64}
    assert len(rates) == 40 * ell**2
    assert math.isclose(run.time(len(rates)), spec.horizon * run.schedule.elapsed(1), rel_tol=1e-12)
    # The very sum of the squared learning rates, whose constant run has 40 lr^2.
    plain = at_ell(1).optimizer.lr
    assert math.isclose(sum(r**2 for r in rates), 40 * plain**2 * run.schedule.elapsed(1), rel_tol=1e-9)


def test_all_levels_are_measured_at_the_same_samples_and_times(at_ell, task, tmp_path):
    grids = {}
    for ell in (1, 2):
        spec = at_ell(ell)
        rows, _ = train(spec, task)
        save_run(tmp_path / f"{ell}.parquet", rows, spec)
        table, _, runs = tables.collect([tmp_path / f"{ell}.parquet"])
        assert runs["steps"].tolist() == [40 * ell**2]
        assert runs["samples"].tolist() == [1280]
        assert set(table["ell"]) == {ell}
        grids[ell] = table.drop_duplicates("step")
    assert grids[1]["step"].tolist() == [0, 10, 20, 40]
    assert grids[2]["step"].tolist() == [0, 40, 80, 160]
    for column in ("samples", "epoch"):
        assert grids[1][column].tolist() == grids[2][column].tolist()
    assert grids[2]["time"].tolist() == pytest.approx(grids[1]["time"].tolist(), rel=1e-12)


def test_a_level_that_is_not_a_whole_number(config, small_spec, task):
    same = {key: small_spec.document[key] for key in ("samples", "horizon", "schedule")}
    spec = changed(plan(config).runs["svag-fashion-cnn-adam.svag.l1.5.s0"], **same, evaluate=[128, 1280])
    rows, _ = train(spec, task)  # 4 and 40 plain steps
    assert sorted({step for _, step, *_ in rows}) == [0, 9, 90]


def test_levels_share_their_weights_and_not_their_noise(at_ell, task):
    runs = [Run(at_ell(ell), task) for ell in (1, 2, 4)]
    first, *others = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert all(torch.equal(first, other) for other in others)
    draws = [run.sampler.draw(50)[0] for run in runs]
    assert not any(torch.equal(a, b) for a, b in zip(draws, draws[1:] + draws[:1], strict=True))


def test_a_step_is_the_plain_optimizer_on_the_combined_gradient(at_ell, task):
    run, by_hand = Run(at_ell(2), task), Run(at_ell(2), task)
    run.advance(3)
    images, labels = task.gather(*by_hand.sampler.draw(3 * 64))
    r1, r2 = coefficients(2)
    for k in range(3):
        halves = [(images[n : n + 32], labels[n : n + 32]) for n in (64 * k, 64 * k + 32)]
        by_hand.optimizer.zero_grad()
        (r1 * task.loss(by_hand.model, *halves[0]) + r2 * task.loss(by_hand.model, *halves[1])).backward()
        by_hand._set_learning_rate()
        by_hand.optimizer.step()
        by_hand.step += 1
    for p, q in zip(run.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampling", ["replacement", slow("epoch")])
def test_interrupted_and_resumed_is_uninterrupted(sampling, at_ell, task, tmp_path):
    spec = changed(at_ell(2), sampling=sampling)
    whole, _ = train(spec, task)
    path = tmp_path / "checkpoint"

    class Interrupted(Exception):
        pass

    for step in (32, 72, 112):  # chunks hold 32 steps of 64 samples, and end at the evaluations 40, 80, 160

        def stop(now, steps, step=step):
            if now == step:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(spec, task, path, every=0, report=stop)
    resumed, _ = train(spec, task, path, every=0)
    assert rows_digest(resumed) == rows_digest(whole)


def test_divergence_is_noted_on_the_plain_clock(at_ell, task, tmp_path):
    spec = at_ell(2)
    spec = changed(spec, schedule={}, optimizer={**spec.document["optimizer"], "lr": 1e30})
    rows, _ = train(spec, task)
    assert rows[-1][3] == "diverged"
    save_run(tmp_path / "a.parquet", rows, spec)
    table, *_ = tables.collect([tmp_path / "a.parquet"])
    last = table.iloc[-1]
    assert last["samples"] == round(last["step"] * 32 / 4)
    assert math.isclose(last["time"], spec.horizon * last["step"] / 160)


def test_the_noise_scale_of_a_run_is_amplified_with_its_noise(at_ell, task):
    """Speeds at larger batches are predicted from the run's own noise, which SVAG makes ell times as large."""
    plain, amplified = Run(at_ell(1), task), Run(at_ell(4), task)
    assert plain.meter.sigma == 32**-0.5
    assert amplified.meter.sigma == pytest.approx(4 * plain.meter.sigma)
