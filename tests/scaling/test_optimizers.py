"""Our optimizers against their plain definitions and against torch."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.optim import lr_scheduler as S  # noqa: N812, as cases are written

from adasde.common import InputError
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import VARIANTS, AdamHyperparameters, RMSpropHyperparameters
from scaling.plain_optimizers import plain_adam, plain_authors_rmsprop, plain_rmsprop, plain_torch_rmsprop

STEPS = 100
ADAM = AdamHyperparameters(1e-2, 0.9, 0.99, 1e-6, weight_decay=0.05)
ADAMW = AdamHyperparameters(1e-2, 0.9, 0.99, 1e-6, weight_decay=0.05, decoupled=True)
RMSPROP = RMSpropHyperparameters(1e-2, 0.95, 1e-6, weight_decay=0.05)


@pytest.fixture
def problem():
    """Two starting tensors and 100 random gradients for each, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    starts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    gradients = [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)] for shape in shapes
    ]
    return starts, gradients


def run(make, problem):
    """Trajectories of an optimizer: per tensor a list of its values after each step."""
    starts, gradients = problem
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = make(params)
    paths = [[] for _ in params]
    for k in range(STEPS):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g[k].clone()
        optimizer.step()
        for p, path in zip(params, paths, strict=True):
            path.append(p.detach().clone())
    return paths


def assert_same(paths, others, tolerance=1e-12):
    for path, other in zip(paths, others, strict=True):
        for a, b in zip(path, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def reference(function, problem, *arguments):
    starts, gradients = problem
    return [list(function(s, g, *arguments)) for s, g in zip(starts, gradients, strict=True)]


def rmsprop(**options):
    h = RMSPROP
    return lambda params: optimizers.RMSprop(params, h.lr, h.beta, h.eps, h.weight_decay, **options)


@pytest.mark.parametrize("h", [ADAM, ADAMW])
def test_adam_is_its_definition_and_torchs(h, problem):
    ours = run(lambda params: optimizers.build(params, h), problem)
    assert_same(ours, reference(plain_adam, problem, h))
    kind = torch.optim.AdamW if h.decoupled else torch.optim.Adam
    options = {"lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay}
    assert_same(ours, run(lambda params: kind(params, **options), problem))
    assert_same(ours, run(lambda params: kind(params, fused=True, **options), problem), tolerance=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_papers_definition(momentum, problem):
    start = 0.3
    ours = run(rmsprop(v=start, momentum=momentum), problem)
    starts, gradients = problem
    wanted = [
        list(plain_rmsprop(s, g, RMSPROP, torch.full_like(s, start), momentum))
        for s, g in zip(starts, gradients, strict=True)
    ]
    assert_same(ours, wanted)


def test_rmsprop_starts_from_the_first_gradient_unless_told(problem):
    ours = run(rmsprop(), problem)
    starts, gradients = problem
    for path, start, g in zip(ours, starts, gradients, strict=True):
        first = g[0] + RMSPROP.weight_decay * start
        wanted = start - RMSPROP.lr * first / (first.abs() + RMSPROP.eps)
        torch.testing.assert_close(path[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "definition"), [("torch", plain_torch_rmsprop), ("authors", plain_authors_rmsprop)]
)
def test_the_variants_are_their_definitions(variant, definition, problem):
    ours = run(lambda params: optimizers.build(params, RMSPROP, variant), problem)
    assert_same(ours, reference(definition, problem, RMSPROP))


def test_the_variants_differ(problem):
    paths = {v: run(lambda p, v=v: optimizers.build(p, RMSPROP, v), problem)[0][9] for v in VARIANTS["rmsprop"]}
    assert not torch.allclose(paths["paper"], paths["torch"], atol=1e-3)
    assert not torch.allclose(paths["paper"], paths["authors"], atol=1e-3)
    assert not torch.allclose(paths["torch"], paths["authors"], atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        rmsprop(),
        rmsprop(momentum=0.9),
        lambda params: optimizers.build(params, RMSPROP, "torch"),
        lambda params: optimizers.build(params, RMSPROP, "authors"),
        lambda params: optimizers.build(params, ADAM),
    ],
)
def test_state_dict_carries_everything(make, problem):
    starts, gradients = problem
    params = [torch.nn.Parameter(s.clone()) for s in starts]
    first = make(params)
    for k in range(10):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g[k].clone()
        first.step()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    second = make(copies)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch would share the tensors
    for optimizer, group in ((first, params), (second, copies)):
        for k in range(10, 20):
            for p, g in zip(group, gradients, strict=True):
                p.grad = g[k].clone()
            optimizer.step()
    assert_same([params], [copies], tolerance=0)


def test_groups_have_their_own_rates_and_parameters_without_gradient_stay():
    moving, slow, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = optimizers.RMSprop([{"params": [moving]}, {"params": [slow, still], "lr": 1e-4}], lr=1e-1)
    moving.grad, slow.grad = torch.ones(2), torch.ones(2)
    loss = optimizer.step(lambda: torch.tensor(3.0))
    assert loss == 3.0
    torch.testing.assert_close(moving.detach(), torch.full((2,), 0.9), atol=1e-5, rtol=0)
    torch.testing.assert_close(slow.detach(), torch.full((2,), 0.9999), atol=1e-5, rtol=0)
    assert torch.equal(still.detach(), torch.ones(2))


SCHEDULERS = {
    "OneCycleLR": lambda o: S.OneCycleLR(o, 1e-2, total_steps=12),
    "OneCycleLR without momentum": lambda o: S.OneCycleLR(o, 1e-2, total_steps=12, cycle_momentum=False),
    "CyclicLR": lambda o: S.CyclicLR(o, 1e-4, 1e-2, step_size_up=4),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 10, eta_min=1e-5),
    "LambdaLR from 0": lambda o: S.LambdaLR(o, lambda k: k / 10),
    "SequentialLR": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, total_iters=3), S.ExponentialLR(o, 0.9)], [3]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rmsprop_follows_every_scheduler_of_torch_as_torchs_does(name, problem):
    starts, gradients = problem
    histories = []
    for kind in (optimizers.RMSprop, torch.optim.RMSprop):
        params = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = kind(params, lr=1e-2)
        scheduler, history = SCHEDULERS[name](optimizer), []
        for k in range(10):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g[k].clone()
            optimizer.step()
            scheduler.step()
            history.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        histories.append(history)
        assert all(p.isfinite().all() for p in params)
    assert histories[0] == histories[1]


def test_rmsprop_goes_with_a_grad_scaler_and_hooks():
    """A step whose gradients overflow is left out, and the others are those of unscaled gradients."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    scaled, plain = (optimizers.RMSprop([p], lr=1e-2) for p in params)
    scaler, calls = torch.amp.GradScaler("cpu", init_scale=1024.0), []
    scaled.register_step_post_hook(lambda *_: calls.append("post"))
    for factor in (1.0, 2.0, torch.inf, 3.0):
        for p, optimizer in zip(params, (scaled, plain), strict=True):
            optimizer.zero_grad()
            loss = (factor * p).square().sum()
            if optimizer is scaled:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            elif factor < torch.inf:
                loss.backward()
                optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=0)
    assert calls == ["post"] * 3


def test_sparse_gradients_are_refused_and_nothing_is_changed():
    table, weight = torch.nn.Embedding(5, 2, sparse=True), torch.nn.Parameter(torch.ones(2))
    optimizer = optimizers.RMSprop([{"params": [weight]}, {"params": table.parameters()}])
    (table(torch.tensor([1, 1])).sum() + weight.sum()).backward()
    with pytest.raises(InputError, match=r"gradient: one of shape \(5, 2\) is sparse; use dense ones"):
        optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(2))
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr = -1: must be a finite number >= 0"),
        ({"lr": "fast"}, "lr = 'fast': must be a finite number >= 0"),
        ({"alpha": 1.0}, r"alpha = 1: must be in \[0, 1\)"),
        ({"eps": float("nan")}, "eps = nan: must be a finite number >= 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1: must be a finite number >= 0"),
        ({"momentum": -0.9}, "momentum = -0.9: must be a finite number >= 0"),
        ({"v": -1.0}, "v = -1: must be a finite number >= 0"),
    ],
)
def test_bad_values_are_refused_also_in_groups(options, message):
    first, second = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    with pytest.raises(InputError, match=message):
        optimizers.RMSprop([first], **options)
    optimizer = optimizers.RMSprop([first], lr=0.0)  # as torch allows
    with pytest.raises(InputError, match=message):
        optimizer.add_param_group({"params": [second], **options})
    assert len(optimizer.param_groups) == 1


def test_unknown_variants_are_refused():
    params = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(InputError, match="variant = 'torhc': rmsprop has paper, torch, authors"):
        optimizers.build(params, RMSPROP, "torhc")


def test_a_parameter_without_gradient_stays_under_adam():
    moving, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = optimizers.build([moving, still], ADAM)
    moving.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(moving.detach(), torch.full((2,), 1.0 - ADAM.lr), atol=1e-5, rtol=0)
    assert torch.equal(still.detach(), torch.ones(2))
    optimizer.zero_grad()
    assert moving.grad is None


@pytest.mark.parametrize("h", [ADAM, ADAMW])
def test_a_gradient_that_comes_only_at_times_is_counted_as_torch_counts_it(h, problem):
    starts, gradients = problem
    paths = []
    for kind in ("ours", "torch"):
        params = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = optimizers.build(params, h) if kind == "ours" else optimizers.build(params, h).as_torch()
        for k in range(12):
            params[0].grad = gradients[0][k].clone()
            params[1].grad = gradients[1][k].clone() if k % 3 else None
            optimizer.step()
        paths.append([params])
        counts = (optimizer if kind == "torch" else optimizer.as_torch()).state
        assert [counts[p]["step"].item() for p in params] == [12, 8]
    assert_same(*paths)


def test_as_torch_shares_the_state_and_steps_of_either_are_those_of_the_other(problem):
    starts, gradients = problem
    params, others = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    alone, ours = optimizers.build(others, ADAM), optimizers.build(params, ADAM)
    for k in range(9):
        for p, q, g in zip(params, others, gradients, strict=True):
            p.grad, q.grad = g[k].clone(), g[k].clone()
        alone.step()
        (ours.as_torch() if k % 3 == 1 else ours).step()
    assert_same([params], [others])
    for p in params:
        ours.as_torch().state[p]["step"].copy_(3)
    assert ours.count.tolist() == [3.0, 3.0]


def test_a_run_does_not_import_torchs_compiler():
    """It would take each job a second."""
    code = """
import sys, torch
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.optimizers import build
p = torch.nn.Parameter(torch.ones(2))
optimizer = build([p], AdamHyperparameters(1e-3, 0.9, 0.99, 1e-8))
p.square().sum().backward()
optimizer.step()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
