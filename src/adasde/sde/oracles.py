"""Noisy gradient oracles: a gradient grad f and a noise of covariance Sigma, both functions of the parameters.

The paper's oracle returns g = grad f(theta) + sigma z with E z = 0 and Cov z = Sigma(theta). Here are problems in
closed form; finite_sums.py has sums over real images. Subclass `NoisyGradientOracle` for a problem of your own. All
methods work on many paths at once.
"""

from abc import ABC, abstractmethod

import torch

from adasde.common import InputError
from adasde.scaling.svag import coefficients


class NoisyGradientOracle(ABC):
    """A loss f of ``dim`` parameters with noisy gradients."""

    dim: int

    @property
    def noise_dim(self) -> int:
        """Number of independent normals behind one draw of the noise; ``dim`` unless overridden."""
        return self.dim

    @property
    def width(self) -> int:
        """Numbers that one path keeps busy at a time, by which simulations choose how many paths share the cache."""
        return max(self.dim, self.noise_dim)

    @abstractmethod
    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        """Return grad f at ``theta``: (paths, dim) -> (paths, dim)."""

    @abstractmethod
    def noise(self, theta: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
        """Return Sigma^{1/2}(theta) xi: (paths, dim), (paths, noise_dim) -> (paths, dim); linear in ``xi``."""

    @abstractmethod
    def noise_variance(self, theta: torch.Tensor) -> torch.Tensor:
        """Return diag Sigma at ``theta``: (paths, dim) -> (paths, dim), or what broadcasts to it."""

    def loss(self, theta: torch.Tensor) -> torch.Tensor:
        """Return f at ``theta``: (paths, dim) -> (paths,)."""
        raise InputError(f"{type(self).__name__}: has no loss")

    def terms(self, theta: torch.Tensor, xi: torch.Tensor):
        """Return gradient, noise and noise_variance; override it where they share work."""
        return self.gradient(theta), self.noise(theta, xi), self.noise_variance(theta)

    def sample(self, theta: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
        """Return a noisy gradient g of noise scale ``sigma``, Gaussian unless overridden, of the shape of ``theta``."""
        xi = torch.randn(len(theta), self.noise_dim, dtype=theta.dtype, generator=generator)
        return torch.add(self.gradient(theta), self.noise(theta, xi), alpha=sigma)


class _Independent(NoisyGradientOracle):
    """Noise that is independent over coordinates: subclasses give its standard deviation."""

    @abstractmethod
    def deviation(self, theta):
        """Return the standard deviation of the noise at ``theta``: (paths, dim), or what broadcasts to it."""

    def noise(self, theta, xi):
        """Return the noise's standard deviation times ``xi``."""
        return self.deviation(theta) * xi

    def noise_variance(self, theta):
        """Return the squared standard deviation of the noise."""
        return self.deviation(theta) ** 2

    def terms(self, theta, xi):
        """Return gradient, noise and noise_variance from one evaluation of the standard deviation."""
        deviation = self.deviation(theta)
        return self.gradient(theta), deviation * xi, deviation**2


class Linear(_Independent):
    """f = slope . theta with constant independent noise: the paper's warm-up problem."""

    def __init__(self, slope, scale=1.0):
        self.slope = torch.as_tensor(slope, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64).expand_as(self.slope)
        self.dim = len(self.slope)

    def gradient(self, theta):
        """Return the slope, at every path."""
        return self.slope.to(theta).expand_as(theta)

    def deviation(self, theta):
        """Return the scale, (dim,)."""
        return self.scale.to(theta)

    def loss(self, theta):
        """Return f."""
        return theta @ self.slope.to(theta)


class Quadratic(_Independent):
    """f = sum_i curvature_i theta_i^2 / 2 with noise of standard deviation scale_i (1 + state sin theta_i).

    With ``state`` = 0 the noise is constant, and theta under RMSprop's SDE an Ornstein-Uhlenbeck process.
    """

    def __init__(self, curvature, scale=1.0, state: float = 0.0):
        self.curvature = torch.as_tensor(curvature, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64).expand_as(self.curvature)
        self.state, self.dim = state, len(self.curvature)

    def gradient(self, theta):
        """Return curvature * theta."""
        return self.curvature.to(theta) * theta

    def deviation(self, theta):
        """Return the noise's standard deviation, (dim,) if it is constant."""
        scale = self.scale.to(theta)
        return scale * (1.0 + self.state * theta.sin()) if self.state else scale

    def loss(self, theta):
        """Return f."""
        return 0.5 * (self.curvature.to(theta) * theta**2).sum(-1)


class DoubleWell(_Independent):
    """f = sum_i (theta_i^2 - 1)^2 / 4, with noise of standard deviation scale (1 + 1 / (1 + theta_i^2)) / 2."""

    def __init__(self, dim: int = 1, scale: float = 1.0):
        self.dim, self.scale = dim, scale

    def gradient(self, theta):
        """Return theta^3 - theta."""
        return theta**3 - theta

    def deviation(self, theta):
        """Return the noise's standard deviation."""
        return 0.5 * self.scale * (1.0 + 1.0 / (1.0 + theta**2))

    def loss(self, theta):
        """Return f."""
        return 0.25 * ((theta**2 - 1.0) ** 2).sum(-1)


class SVAGOracle(NoisyGradientOracle):
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
        """Return the weighted sum of two independent noisy gradients, drawn in one pass as of twice as many paths."""
        first, second = self.oracle.sample(theta.repeat(2, 1), sigma, generator).chunk(2)
        return torch.add(self.r1 * first, second, alpha=self.r2)


def check_oracle(oracle: NoisyGradientOracle, theta: torch.Tensor):
    """InputError unless the oracle's methods return what they must at ``theta``: shape, dtype, no variance < 0."""
    xi = torch.zeros(len(theta), oracle.noise_dim, dtype=theta.dtype)
    for name, found in (
        ("gradient", oracle.gradient(theta)),
        ("noise", oracle.noise(theta, xi)),
        ("noise_variance", oracle.noise_variance(theta)),
    ):
        shape = found.shape
        if name == "noise_variance":
            shape = theta.shape if _broadcasts(found, theta) else shape
            if (found < 0).any():
                raise InputError(f"the oracle's noise_variance is {found.min():g} at the start: must be >= 0")
        if shape != theta.shape:
            raise InputError(
                f"the oracle's {name} has shape {tuple(shape)}: must be that of theta, {tuple(theta.shape)}"
            )
        if found.dtype != theta.dtype:
            raise InputError(f"the oracle's {name} has dtype {found.dtype}: must be that of theta, {theta.dtype}")


def _broadcasts(tensor, theta):
    try:
        return torch.broadcast_shapes(tensor.shape, theta.shape) == theta.shape
    except RuntimeError:
        return False
