"""svag.py and runs at ell > 1: the algebra, one pass against two, the clock, the streams, and resuming."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adasde.analysis import tables
from adasde.common import InputError
from adasde.experiments import plan
from adasde.experiments.artifacts import rows_digest, write_run
from adasde.scaling.svag import SVAGLoss, coefficients, minibatches_apart
from adasde.training.loop import train
from adasde.training.run import Run


@given(st.floats(0.7072, 1e6))
def test_the_mean_is_kept_and_the_covariance_multiplied(ell):
    r1, r2 = coefficients(ell)
    assert r1 <= r2
    assert math.isclose(r1 + r2, 1.0, abs_tol=1e-15 * ell)
    assert math.isclose(r1**2 + r2**2, ell**2, rel_tol=1e-14)


def test_the_ends_of_the_range():
    assert coefficients(1) == (0.0, 1.0)
    assert coefficients(0.5**0.5) == pytest.approx((0.5, 0.5))
    assert coefficients(math.nextafter(0.5**0.5, 0)) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("ell", "message"),
    [
        (0.7, r"ell = 0.7: must be from 1 / sqrt\(2\) = 0.707107"),
        (0, "ell = 0: must be a finite number > 0"),
        (-2.0, "ell = -2: must be a finite number > 0"),
        (math.nan, "ell = nan: must be a finite number > 0"),
        (math.inf, "ell = inf: must be a finite number > 0"),
        (1e200, r"ell = 1e\+200: must be from"),
    ],
)
def test_other_levels_are_refused(ell, message):
    with pytest.raises(InputError, match=message):
        coefficients(ell)


def test_a_batch_is_two_minibatches(task):
    images, labels = task.gather(torch.arange(33))
    with pytest.raises(InputError, match="batch = 33 examples: must be two minibatches of equal size"):
        SVAGLoss(task.loss, 2)(task.model(), images, labels)


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("ell", [2.0, 3.0])
def test_the_gradient_has_the_mean_of_the_loss_and_ell_squared_times_its_covariance(ell):
    """Against minibatches drawn from 50 examples, for which mean and covariance of the gradient are sums."""
    torch.manual_seed(0)
    size, draws = 4, 5_000
    inputs, targets = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)

    def loss(model, x, y, weights=None):
        losses = (model(x)[:, 0] - y) ** 2 / 2
        return losses.mean() if weights is None else losses @ weights

    own = torch.stack([gradients(model, loss(model, inputs[i : i + 1], targets[i : i + 1])) for i in range(50)])
    mean = own.mean(dim=0)
    covariance = (own - mean).T @ (own - mean) / 50 / size
    svag_loss = SVAGLoss(loss, ell)
    found = []
    for indices in torch.randint(50, (draws, 2 * size)):
        found.append(gradients(model, svag_loss(model, inputs[indices], targets[indices])))
    found = torch.stack(found)
    # Five standard errors, each estimated from the draws themselves.
    error = found.std(dim=0) / draws**0.5
    assert ((found.mean(dim=0) - mean).abs() < 5 * error).all()
    products = (found - mean)[:, :, None] * (found - mean)[:, None, :]
    error = products.std(dim=0) / draws**0.5
    assert ((products.mean(dim=0) - ell**2 * covariance).abs() < 5 * error).all()
    assert (5 * error.diagonal() < 0.2 * ell**2 * covariance.diagonal()).all()  # and the bound tells ell from 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_one_pass_is_two_passes(dtype, tolerance, task):
    """Loss, gradient and running statistics; fashion-resnet is the model with batch norm."""
    torch.manual_seed(0)
    one = task.model().to(dtype).train()
    two = task.model().to(dtype).train()
    two.load_state_dict(one.state_dict())
    images, labels = task.gather(torch.arange(64))
    images = images.to(dtype)
    images[32:] *= 2  # or the statistics of the halves would be close to each other's
    loss = SVAGLoss(task.loss, 2)(one, images, labels)
    r1, r2 = coefficients(2)
    first, second = task.loss(two, images[:32], labels[:32]), task.loss(two, images[32:], labels[32:])
    wanted = r1 * first + r2 * second
    assert abs(loss - wanted) <= tolerance * (abs(r1 * first) + abs(r2 * second))
    found, wanted = gradients(one, loss), gradients(two, wanted)
    assert (found - wanted).norm() <= tolerance * wanted.norm()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), name


def test_the_model_is_left_as_it_was(task):
    """Outside the loss, and in evaluation, batch norm knows of no halves; an error within changes nothing."""
    model = task.model().train()
    images, labels = task.gather(torch.arange(64))
    SVAGLoss(task.loss, 2)(model, images, labels)
    with pytest.raises(IndexError):
        SVAGLoss(task.loss, 2)(model, images, labels - 11)
    assert not any("forward" in vars(module) for module in model.modules())
    model.eval()
    with minibatches_apart(model):
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.fixture
def at_ell(small_spec, config):
    """Spec of the synthetic run at an ell: 40 steps of the plain run, so 160 at ell = 2."""

    def make(ell):
        config["experiments"]["svag-fashion-cnn-adam"]["ell"]["value"] = [1, 2, 4, 1.5]
        runs = plan.plan(config).runs
        name = "sqrt.k1" if ell == 1 else f"svag.l{ell:g}"
        run = runs[f"svag-fashion-cnn-adam.{name}.s0"]
        return {**run, **{key: small_spec[key] for key in ("samples", "horizon", "evaluate", "schedule")}}

    return make


@pytest.mark.parametrize("ell", [1, 2])
def test_a_run_at_ell_covers_the_time_of_the_plain_run_in_ell_squared_steps(ell, at_ell, task):
    spec = at_ell(ell)
    run = Run(spec, task)
    rates, sizes = [], []
    step, loss = run.optimizer.step, run.objective.loss
    run.optimizer.step = lambda: (rates.append(run.optimizer.param_groups[0]["lr"]), step())
    run.objective.loss = lambda model, *batch: (sizes.append(len(batch[0])), loss(model, *batch))[1]
    for _ in range(ell**2):
        run.advance(40)
    assert set(sizes) == {32 if ell == 1 else 64}
    assert len(rates) == 40 * ell**2
    assert math.isclose(run.time(len(rates)), spec["horizon"] * run.schedule.elapsed(1), rel_tol=1e-12)
    # The very sum of the squared learning rates, whose constant run has 40 lr^2.
    plain = at_ell(1)["optimizer"]["lr"]
    assert math.isclose(sum(r**2 for r in rates), 40 * plain**2 * run.schedule.elapsed(1), rel_tol=1e-9)


def test_all_levels_are_measured_at_the_same_samples_and_times(at_ell, task, tmp_path):
    grids = {}
    for ell in (1, 2):
        spec = at_ell(ell)
        rows, _ = train(spec, task)
        write_run(tmp_path / f"{ell}.parquet", rows, spec)
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


def test_a_level_that_is_no_whole_number(at_ell, task):
    rows, _ = train({**at_ell(1.5), "evaluate": [128, 1280]}, task)  # 4 and 40 plain steps
    assert sorted({step for _, step, *_ in rows}) == [0, 9, 90]


def test_levels_share_their_weights_and_not_their_noise(at_ell, task):
    runs = [Run(at_ell(ell), task) for ell in (1, 2, 4)]
    first, *others = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert all(torch.equal(first, other) for other in others)
    draws = [run.draws.draw(50)[0] for run in runs]
    assert not any(torch.equal(a, b) for a, b in zip(draws, draws[1:] + draws[:1], strict=True))


def test_a_step_is_the_plain_optimizer_on_the_combined_gradient(at_ell, task):
    run, by_hand = Run(at_ell(2), task), Run(at_ell(2), task)
    run.advance(3)
    images, labels = task.gather(*by_hand.draws.draw(3 * 64))
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


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
def test_interrupted_and_resumed_is_uninterrupted(sampling, at_ell, task, tmp_path):
    spec = {**at_ell(2), "sampling": sampling}
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
    spec = {**at_ell(2), "schedule": {}}
    spec["optimizer"] = {**spec["optimizer"], "lr": 1e30}
    rows, _ = train(spec, task)
    assert rows[-1][3] == "diverged"
    write_run(tmp_path / "a.parquet", rows, spec)
    table, *_ = tables.collect([tmp_path / "a.parquet"])
    last = table.iloc[-1]
    assert last["samples"] == round(last["step"] * 32 / 4)
    assert math.isclose(last["time"], spec["horizon"] * last["step"] / 160)


def test_the_noise_scale_of_a_run_is_amplified_with_its_noise(at_ell, task):
    """Speeds at larger batches are predicted from the run's own noise, which SVAG makes ell times as large."""
    plain, amplified = Run(at_ell(1), task), Run(at_ell(4), task)
    assert plain.sigma == 32**-0.5
    assert amplified.sigma == pytest.approx(4 * plain.sigma)
