"""SVAG: the algebra of its coefficients, its gradient's moments, and one pass against two."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

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
