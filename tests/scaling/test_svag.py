"""SVAG: the algebra of its coefficients, its gradient's moments, and one pass against two."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from adasde.common import InputError
from adasde.scaling.svag import SVAGLoss, coefficients, minibatches_apart, svag_loss


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
    amplified = SVAGLoss(loss, ell)
    found = []
    for indices in torch.randint(50, (draws, 2 * size)):
        found.append(gradients(model, amplified(model, inputs[indices], targets[indices])))
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


def test_the_loss_of_svag_is_the_reference_s():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(8, 3), torch.randn(8, 1)

    def losses(model, x, y):
        return ((model(x) - y) ** 2)[:, 0]

    def weighted(model, x, y, weights):
        return losses(model, x, y).double() @ weights

    ours = torch.autograd.grad(svag_loss(losses(model, x, y), 3), list(model.parameters()))
    reference = torch.autograd.grad(SVAGLoss(weighted, 3)(model, x, y), list(model.parameters()))
    for a, b in zip(ours, reference, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for wrong in (torch.zeros(3), torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(InputError, match="losses = .* two minibatches of equal size"):
            svag_loss(wrong, 2)


CLASSES = torch.tensor([1.0, 0.2, 5.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "weights_of"),
    [
        ({"weight": CLASSES}, lambda labels: CLASSES[labels]),
        ({"ignore_index": 0}, lambda labels: labels != 0),
        (
            {"weight": CLASSES, "ignore_index": -100},
            lambda labels: torch.where(labels == -100, 0.0, CLASSES[labels.clamp(min=0)]),
        ),
    ],
)
def test_the_loss_of_svag_divides_by_the_weights_as_torch_does(options, weights_of):
    """Class weights and ignore_index: against the gradient of r1 (torch's mean) + r2 (torch's mean)."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3, dtype=torch.float64)
    x, labels = torch.randn(12, 4, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 1, 2, 0])
    if options.get("ignore_index") == -100:
        labels[[1, 2, 7]] = -100
    r1, r2 = coefficients(3)
    one, two = (F.cross_entropy(model(a), b, **options) for a, b in zip(x.chunk(2), labels.chunk(2), strict=True))
    wanted = gradients(model, r1 * one + r2 * two)
    losses = F.cross_entropy(model(x), labels, reduction="none", **options)
    found = gradients(model, svag_loss(losses, 3, weights_of(labels)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    losses = F.cross_entropy(model(x), labels, reduction="none", **options)
    plain = gradients(model, svag_loss(losses, 3))
    assert (plain - wanted).norm() > 0.3 * wanted.norm()  # without the weights


def test_weights_of_one_change_nothing_and_bad_ones_are_refused():
    losses = torch.rand(6, dtype=torch.float64)
    assert svag_loss(losses, 2, torch.ones(6)) == pytest.approx(svag_loss(losses, 2).item(), rel=1e-14)
    for weights, words in (
        (torch.ones(5), r"weights = \(5,\): must have the shape of losses, \(6,\)"),
        (torch.ones(2, 3), r"weights = \(2, 3\): must have the shape of losses"),
        (
            torch.tensor([1, 1, 1, 0, 0, 0]),
            r"weights: must be >= 0, with a finite sum > 0 in each minibatch, not .3.0, 0",
        ),
        (torch.tensor([1, 1, -1, 1, 1, 1]), "weights: must be >= 0"),
        (torch.tensor([1, 1, math.nan, 1, 1, 1]), "weights: must be >= 0"),
        (torch.tensor([1, 1, math.inf, 1, 1, 1]), "weights: must be >= 0"),
    ):
        with pytest.raises(InputError, match=words):
            svag_loss(losses, 2, weights)


class Named(nn.Module):
    """Calls its norm with torch's name for the argument."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(input=x)


def test_a_norm_may_be_called_with_its_argument_by_name():
    model, other, x = Named(), Named(), torch.randn(8, 3) * torch.arange(1, 9)[:, None]
    with minibatches_apart(model):
        found = model(x)
    assert torch.equal(found, torch.cat([other(half) for half in x.chunk(2)]))
    assert torch.equal(model.norm.running_var, other.norm.running_var)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("size", [1, 7])
def test_a_batch_that_has_no_halves_is_refused(size, wrap):
    model = Named()
    words = f"batch = {size} examples: must be two minibatches of equal size"
    with pytest.raises(InputError, match=words), minibatches_apart(model):
        wrap(model)(torch.randn(size, 3))
    assert "forward" not in vars(model.norm)


def test_a_context_in_another_is_refused():
    """It would normalise quarters."""
    model, other, x = Named(), Named(), torch.randn(8, 3) * torch.arange(1, 9)[:, None]
    with minibatches_apart(model):
        for inner in (lambda: minibatches_apart(model), lambda: minibatches_apart(model.norm)):
            with pytest.raises(InputError, match="model: is within minibatches_apart already"), inner():
                pass
        with pytest.raises(InputError, match="model: is within minibatches_apart already"):
            SVAGLoss(lambda model, x, weights: model(x).sum(), 2)(model, torch.randn(8, 3))
        found = model(x)
    assert torch.equal(found, torch.cat([other(half) for half in x.chunk(2)]))
    assert "forward" not in vars(model.norm)


@pytest.mark.parametrize("compiled", ["script", "trace", "a part"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_batch_norm_that_torch_jit_compiled_is_refused(compiled):
    x, model = torch.randn(8, 3), nn.Sequential(Named(), nn.Linear(3, 2))
    if compiled == "a part":
        model[0] = torch.jit.script(model[0])
    else:
        model = torch.jit.script(model) if compiled == "script" else torch.jit.trace(model, x)
    with (
        pytest.raises(
            InputError, match="model: torch.jit compiled its batch norm, .*; give the model as it was before"
        ),
        minibatches_apart(model),
    ):
        pass
    model.eval()  # its norms treat all examples alike
    with minibatches_apart(model):
        model(x)
    with minibatches_apart(torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))):
        pass


@pytest.mark.parametrize("before", [False, True])
def test_torch_compile_keeps_minibatches_apart(before):
    """Also if it compiled the model before."""
    model, other, x = Named(), Named(), torch.randn(8, 3) * torch.arange(1, 9)[:, None]
    compiled = torch.compile(model, backend="eager")
    for each in (compiled, other) if before else ():
        each(x)
    with minibatches_apart(compiled):
        found = compiled(x)
    assert torch.equal(found, torch.cat([other(half) for half in x.chunk(2)]))
    assert torch.equal(compiled(x), other(x))
