"""Runs under the rule `invariant`: their specs, their steps, resuming, and what is refused."""

import pytest
import torch
from torch import nn

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.experiments.specs import Trained
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed, slow

CLOSE = 1e-5  # between sums in another order, relative to the weights' scale


def ours(value):
    return {"value": value, "source": "ours"}


def planned(config, experiment="fashion-cnn-adam", kappa=4, **options):
    config["experiments"][experiment] |= {key: ours(value) for key, value in options.items()}
    config["experiments"][experiment]["rules"]["invariant"] = ours([kappa])
    return plan(config).runs


@pytest.fixture
def invariant_spec(small_spec):
    """Four base batches of 32 in a step: 10 steps, three evaluations, with a schedule."""
    return changed(
        small_spec, rule="invariant", kappa=4, batch_size=128, micro_batch=32, samples=1280, evaluate=[128, 640, 1280]
    )


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_a_spec_is_the_baselines_but_for_its_batch(config):
    before, after = plan(config).runs, planned(config)
    assert all(after[run].hash == spec.hash for run, spec in before.items())
    assert all(spec.micro_batches is None for spec in before.values() if isinstance(spec, Trained))
    runs = planned(config, clip=0.5)  # of each base batch, so it stays
    base, spec = (runs[f"fashion-cnn-adam.{name}.s1"].document for name in ("sqrt.k1", "invariant.k4"))
    assert {key for key in spec if spec[key] != base.get(key)} == {"run", "rule", "kappa", "batch_size", "micro_batch"}
    assert (spec["batch_size"], spec["micro_batch"], spec["kappa"]) == (128, 32, 4)
    assert runs["fashion-cnn-adam.invariant.k4.s1"].micro_batches == 4
    assert planned(config, micro_batch=8)["fashion-cnn-adam.invariant.k4.s0"].micro_batch == 8
    del config["branches"]  # of 16 examples per step
    assert planned(config, micro_batch=16, processes=2)["fashion-cnn-adam.invariant.k4.s0"].micro_batch == 16


@pytest.mark.parametrize(
    ("optimizer", "h", "clip"),
    [
        (
            {"name": "adam", "variant": "paper", "lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6,
             "weight_decay": 0.1, "decoupled": True},
            AdamHyperparameters(1e-3, 0.9, 0.99, 1e-6, 0.1, decoupled=True),
            0.05,
        ),
        (
            {"name": "rmsprop", "variant": "authors", "lr": 1e-3, "beta": 0.99, "eps": 1e-2, "weight_decay": 0.1},
            RMSpropHyperparameters(1e-3, 0.99, 1e-2, 0.1),
            None,
        ),
    ],
)  # fmt: skip
def test_a_run_squares_the_gradient_of_every_base_batch(optimizer, h, clip, invariant_spec, task):
    """Against the formulas, on the examples that the run draws; batch norm sees a base batch."""
    # With seed 0 rounding puts a unit of the residual network to the other side of its threshold.
    spec = changed(invariant_spec, optimizer=optimizer, schedule={}, clip=clip, seed=1)
    run, by_hand = Run(spec, task), Run(spec, task)
    run.advance(3)
    images, labels = task.gather(*by_hand.sampler.draw(3 * 128))
    beta1, beta2, decoupled = (h.beta1, h.beta2, True) if optimizer["name"] == "adam" else (0.0, h.beta, False)
    params = list(by_hand.model.parameters())
    m, v = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    for step in range(3):
        found = []
        for n in range(128 * step, 128 * (step + 1), 32):
            grads = torch.autograd.grad(task.loss(by_hand.model, images[n : n + 32], labels[n : n + 32]), params)
            norm = torch.cat([g.flatten() for g in grads]).norm()
            assert clip is None or norm > clip
            factor, decay = clip / norm if clip else 1.0, 0.0 if decoupled else h.weight_decay
            found.append([factor * g + decay * p.detach() for g, p in zip(grads, params, strict=True)])
        count = 4 * (step + 1)
        for place, p in enumerate(params):
            g = torch.stack([grads[place] for grads in found])
            m[place] = beta1**4 * m[place] + (1 - beta1**4) * g.mean(0)
            v[place] = beta2**4 * v[place] + (1 - beta2**4) * g.square().mean(0)
            if decoupled:
                p.data.mul_((1 - h.lr * h.weight_decay) ** 4)
            means, seconds = m[place] / (1 - beta1**count), v[place] / (1 - beta2**count)
            p.data.sub_(4 * h.lr * means / (seconds.sqrt() + h.eps))
    assert torch.allclose(weights(run), weights(by_hand), rtol=0, atol=10 * CLOSE)
    for one, other in zip(run.model.buffers(), by_hand.model.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=CLOSE)


@pytest.mark.parametrize("micro", [4, 16])
def test_a_base_batch_may_take_several_passes(micro, invariant_spec, tensors):
    """Without batch norm, whose statistics are those of a pass, a step is the same however it is cut."""
    task = ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)
    spec = changed(invariant_spec, clip=0.5)
    whole, cut = Run(spec, task), Run(changed(spec, micro_batch=micro), task)
    for run in (whole, cut):
        run.advance(10)
    assert torch.allclose(weights(whole), weights(cut), rtol=0, atol=CLOSE)
    assert not torch.allclose(weights(whole), weights(Run(spec, task)), atol=100 * CLOSE)


def test_batch_norm_sees_a_base_batch(invariant_spec, resnet):
    run, sizes = Run(invariant_spec, resnet), []
    norm = next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    run.advance(2)
    assert sizes == [32] * 8


@pytest.mark.parametrize("options", [slow({}), {"micro_batch": 8, "clip": 0.5, "sampling": "epoch"}])
def test_interrupted_and_resumed_is_uninterrupted(options, invariant_spec, task, tmp_path):
    """Also with batches that are made ahead of time."""
    spec = changed(invariant_spec, **options)
    whole, _ = train(spec, task)
    path = tmp_path / "checkpoint"
    for step in (1, 5):

        def stop(now, steps, step=step):
            if now == step:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            train(spec, task, path, every=0, report=stop)
    assert rows_digest(train(spec, task, path)[0]) == rows_digest(whole)
    task.streamed = True
    assert rows_digest(train(spec, task)[0]) == rows_digest(whole)


def test_a_run_follows_the_baseline_where_the_square_root_does_not_yet(small_spec, invariant_spec, task):
    """From the start, where the gradient dominates: 40 steps of the baseline in 10."""
    losses = {}
    for name, spec in (
        ("baseline", small_spec),
        ("invariant", invariant_spec),
        ("sqrt", changed(invariant_spec, rule="sqrt", optimizer=_scaled(small_spec))),
    ):
        rows, _ = train(changed(spec, schedule={}, evaluate=[1280]), task)
        losses[name] = next(value for *_, metric, value in reversed(rows) if metric == "train_loss")
    assert abs(losses["invariant"] - losses["baseline"]) < 0.3 * abs(losses["sqrt"] - losses["baseline"])


def _scaled(spec):
    return {**spec.document["optimizer"], **vars(spec.optimizer.hyperparameters.scaled(4))}


def test_divergence_is_a_row(invariant_spec, task):
    optimizer = {**invariant_spec.document["optimizer"], "lr": 1e30}
    rows, _ = train(changed(invariant_spec, schedule={}, optimizer=optimizer, evaluate=[1280]), task)
    assert rows[-1][3:] == ("diverged", 1.0)
    assert 0 < rows[-1][1] < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": 1.5}, r"kappa = 1.5: rule 'invariant' takes a whole number of base batches"),
        ({"kappa": 0.5}, r"kappa = 0.5: rule 'invariant' takes a whole number of base batches"),
        ({"kappa": 3, "micro_batch": None}, "micro_batch = None: must divide the 32 examples of a base batch"),
        ({"micro_batch": 64}, "micro_batch = 64: must divide the 32 examples of a base batch that each of 1 processes"),
        ({"processes": 2}, "micro_batch = 32: must divide the 16 examples of a base batch that each of 2 processes"),
        ({"ell": 2}, "ell = 2: does not go with rule 'invariant'"),
    ],
)
def test_specs_that_cannot_be_run_are_refused(options, message, invariant_spec):
    size = int(32 * options.get("kappa", 4))
    options = {"batch_size": size, "samples": 10 * size, "evaluate": [10 * size], "micro_batch": 16, **options}
    if "processes" in options:
        options["micro_batch"] = 32
    with pytest.raises(InputError, match=message) as caught:
        changed(invariant_spec, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", ["paper", "torch"])
def test_variants_of_rmsprop_without_an_invariant_form_are_refused(variant, config):
    config["experiments"]["fashion-resnet-rmsprop"]["optimizer"]["variant"] = ours(variant)
    message = f"fashion-resnet-rmsprop: optimizer.variant = '{variant}': rule 'invariant' is Adam's; RMSprop has it as"
    with pytest.raises(InputError, match=message):
        planned(config, "fashion-resnet-rmsprop")
