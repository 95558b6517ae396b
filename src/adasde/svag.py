"""SVAG, the paper's affordable simulator of the SDE: amplify the noise of a gradient by ell, and nothing else.

Of two independent noisy gradients, r1 g1 + r2 g2 with r = (1 -+ sqrt(2 ell^2 - 1)) / 2 keeps the mean, since
r1 + r2 = 1, and multiplies the covariance by r1^2 + r2^2 = ell^2. Run with hyperparameters.svag(ell) for ell^2 times as
many steps, the algorithm follows the same SDE with steps ell^2 times as short; as ell grows it converges to it.
"""

import math

from .errors import InputError
from .oracles import NoisyGradientOracle
from .scaling import positive


def coefficients(ell: float) -> tuple[float, float]:
    """Return (r1, r2); at ``ell`` = 1 they are (0, 1). InputError below 1 / sqrt(2), where they are not real."""
    square = 2.0 * positive("ell", ell) ** 2 - 1.0
    if square < 0.0:
        raise InputError(
            f"ell = {ell:g}: must be at least sqrt(1/2), since two gradients cannot average out more noise"
        )
    root = math.sqrt(square)
    return (1.0 - root) / 2.0, (1.0 + root) / 2.0


class SVAG(NoisyGradientOracle):
    """An oracle with its noise amplified by ``ell``: the same gradient, covariance ell^2 Sigma."""

    def __init__(self, oracle: NoisyGradientOracle, ell: float):
        self.oracle, self.ell, self.dim = oracle, ell, oracle.dim
        self.r1, self.r2 = coefficients(ell)

    @property
    def noise_dim(self):
        """Normals of both gradients."""
        return 2 * self.oracle.noise_dim

    @property
    def width(self):
        """Both gradients are held at once."""
        return 2 * self.oracle.width

    def gradient(self, theta):
        """Return the oracle's gradient."""
        return self.oracle.gradient(theta)

    def noise(self, theta, xi):
        """Return the weighted noise of two draws, the normals of the second behind those of the first."""
        first, second = xi.chunk(2, dim=1)
        return self.r1 * self.oracle.noise(theta, first) + self.r2 * self.oracle.noise(theta, second)

    def noise_variance(self, theta):
        """Return ell^2 times the oracle's."""
        return self.ell**2 * self.oracle.noise_variance(theta)

    def loss(self, theta):
        """Return the oracle's loss."""
        return self.oracle.loss(theta)

    def sample(self, theta, sigma, generator):
        """Return the weighted sum of two independent noisy gradients."""
        first = self.oracle.sample(theta, sigma, generator)
        return first.mul_(self.r1).add_(self.oracle.sample(theta, sigma, generator), alpha=self.r2)
