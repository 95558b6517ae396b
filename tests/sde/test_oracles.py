"""Oracles in closed form and finite sums: exact means and covariances, against brute force and Monte Carlo."""

import math

import pytest
import torch

from adasde.common import InputError
from adasde.sde.finite_sums import HiddenLayer, Minibatch, SoftmaxRegression, pooled
from adasde.sde.oracles import DoubleWell, Linear, NoisyGradientOracle, Quadratic

CLOSED = [Linear([1.0, -0.3], [0.5, 2.0]), Quadratic([1.0, 0.25], state=0.3), DoubleWell(2)]
N = 64


def examples(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, 6, generator=generator, dtype=dtype)
    return inputs, torch.arange(N) % 4


SUMS = [SoftmaxRegression(*examples()), HiddenLayer(*examples(), hidden=3)]


def points(oracle, paths=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(paths, oracle.dim, generator=generator, dtype=torch.float64)


def per_example(oracle, theta):
    """Gradients of every example at one point, (n, dim), each by automatic differentiation of its own loss."""
    rows = []
    for i in range(oracle.noise_dim):
        at = theta.clone().requires_grad_()
        logits = oracle.logits(at[None], oracle.inputs[i : i + 1])[0]
        loss = torch.nn.functional.cross_entropy(logits, oracle.labels[i : i + 1])
        rows.append(torch.autograd.grad(loss, at)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("oracle", [*CLOSED, *SUMS], ids=lambda o: type(o).__name__)
def test_gradient_is_that_of_the_loss(oracle):
    theta = points(oracle).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.loss(theta).sum(), theta)
    torch.testing.assert_close(oracle.gradient(theta.detach()), gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("oracle", SUMS, ids=lambda o: type(o).__name__)
def test_finite_sum_covariance_is_brute_force_over_examples(oracle):
    theta = points(oracle)
    root = oracle.noise(theta[:1].expand(N, -1), torch.eye(N, dtype=torch.float64))  # the columns of Sigma^{1/2}
    gradients = per_example(oracle, theta[0])
    deviations = gradients - gradients.mean(0)
    sigma = deviations.T @ deviations / N
    torch.testing.assert_close(root.T @ root, sigma, rtol=0, atol=1e-10)
    torch.testing.assert_close(oracle.noise_variance(theta)[0], sigma.diagonal(), rtol=0, atol=1e-10)
    torch.testing.assert_close(oracle.gradient(theta)[0], gradients.mean(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("oracle", [*CLOSED, *SUMS], ids=lambda o: type(o).__name__)
def test_terms_are_the_three_methods(oracle):
    theta = points(oracle)
    xi = torch.randn(3, oracle.noise_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = oracle.gradient(theta), oracle.noise(theta, xi), oracle.noise_variance(theta)
    for term, method in zip(oracle.terms(theta, xi), expected, strict=True):
        torch.testing.assert_close(term.expand_as(theta), method.expand_as(theta), rtol=0, atol=1e-12)


@pytest.mark.parametrize("oracle", [CLOSED[1], Minibatch(SUMS[0], 4)], ids=["gaussian", "minibatch"])
def test_samples_have_the_gradients_mean_and_covariance(oracle):
    count, sigma = 200_000, 0.5
    theta = points(oracle, paths=1)
    generator = torch.Generator().manual_seed(3)
    gap = oracle.sample(theta.expand(count, -1), sigma, generator) - oracle.gradient(theta)
    variance = sigma**2 * oracle.noise_variance(theta).expand_as(theta)[0]
    # Five standard errors, of the mean and of the variance; kurtosis is estimated from the sample.
    assert ((gap.mean(0)).abs() < 5 * (variance / count).sqrt() + 1e-12).all()
    error = ((gap**2).var(0) / count).sqrt()
    assert (((gap**2).mean(0) - variance).abs() < 5 * error + 1e-12).all()


def test_minibatch_refuses_another_noise_scale():
    oracle = Minibatch(SUMS[0], 4)
    with pytest.raises(InputError, match="sigma = 1: a minibatch of 4 has sigma = 0.5"):
        oracle.sample(points(oracle), 1.0, torch.Generator())


def test_finite_sum_refuses_labels_of_another_length():
    with pytest.raises(InputError, match=r"inputs has shape \(64, 6\) and labels \(3,\)"):
        SoftmaxRegression(examples()[0], torch.zeros(3))


def test_own_oracle_needs_three_methods_and_has_no_loss():
    class Flat(NoisyGradientOracle):
        dim = 1

        def gradient(self, theta):
            return torch.zeros_like(theta)

        def noise(self, theta, xi):
            return xi

        def noise_variance(self, theta):
            return torch.ones_like(theta)

    oracle = Flat()
    g = oracle.sample(torch.zeros(100_000, 1), 2.0, torch.Generator().manual_seed(0))
    assert abs(g.std().item() - 2.0) < 5 * 2.0 / math.sqrt(2 * 100_000)
    with pytest.raises(InputError, match="Flat: has no loss"):
        oracle.loss(torch.zeros(1, 1))


def test_pooled_images_are_averages_of_mean_0_and_variance_1():
    images = torch.arange(2 * 28 * 28, dtype=torch.uint8).reshape(2, 1, 28, 28)
    inputs, labels = pooled(images, torch.tensor([3, 5], dtype=torch.uint8), 2)
    assert inputs.shape == (2, 49)
    assert labels.tolist() == [3, 5]
    assert abs(inputs.mean()) < 1e-6
    assert abs(inputs.std() - 1) < 1e-6
    raw = images[0, 0, :4, :4].float().mean() - images[0, 0, 4:8, :4].float().mean()
    assert torch.sign(inputs[0, 0] - inputs[0, 7]) == torch.sign(raw)


def test_examples_that_agree_have_no_variance_below_zero():
    inputs, labels = examples(torch.float32)
    oracle = SoftmaxRegression(inputs[:1].expand(N, -1), torch.full((N,), 3))
    variance = oracle.noise_variance(points(oracle).float())
    assert (variance >= 0).all()
