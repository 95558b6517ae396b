"""Noisy gradient oracles: a gradient grad f and a noise of covariance Sigma, both functions of the parameters.

The paper's oracle returns g = grad f(theta) + sigma z with E z = 0 and Cov z = Sigma(theta). This file has problems in
closed form; finite_sums.py has sums over real images. Every method works on many paths at once. `NoisyGradientOracle`
says what each method returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Generator, Tensor

from adasde.common import InputError
from adasde.scaling.svag import coefficients


class NoisyGradientOracle(ABC):
    """A loss f of ``dim`` parameters with noisy gradients. Subclass it for a problem of your own.

    A subclass sets ``dim`` and defines `gradient`, `noise` and `noise_variance`. Throughout, ``theta`` has the shape
    (paths, dim), and results have its dtype.

    Source: the paper's noisy gradient oracle with scale parameter.
    """

    dim: int

    @property
    def noise_dim(self) -> int:
        """Number of independent normals behind one sample of the noise; ``dim`` unless overridden."""
        return self.dim

    @property
    def width(self) -> int:
        """Numbers that one path needs at a time. Simulations choose by it how many paths share the cache."""
        return max(self.dim, self.noise_dim)

    @abstractmethod
    def gradient(self, theta: Tensor) -> Tensor:
        """Return grad f at ``theta``.

        Args:
            theta: Parameters, (paths, dim).

        Returns:
            The gradient, (paths, dim).
        """

    @abstractmethod
    def noise(self, theta: Tensor, xi: Tensor) -> Tensor:
        """Return Sigma^{1/2}(theta) xi, which is linear in the normals ``xi``.

        Args:
            theta: Parameters, (paths, dim).
            xi: Independent standard normals, (paths, noise_dim).

        Returns:
            The noise at noise scale 1, (paths, dim).
        """

    @abstractmethod
    def noise_variance(self, theta: Tensor) -> Tensor:
        """Return diag Sigma at ``theta``.

        Args:
            theta: Parameters, (paths, dim).

        Returns:
            The variances, each >= 0, (paths, dim) or a shape that broadcasts to it.
        """

    def loss(self, theta: Tensor) -> Tensor:
        """Return f at ``theta``.

        Args:
            theta: Parameters, (paths, dim).

        Returns:
            The loss, (paths,).

        Raises:
            InputError: Unless it is overridden.
        """
        raise InputError(f"{type(self).__name__}: has no loss")

    def terms(self, theta: Tensor, xi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `gradient`, `noise` and `noise_variance` at once. Override it where they share work.

        Args:
            theta: Parameters, (paths, dim).
            xi: Independent standard normals, (paths, noise_dim).

        Returns:
            The three, as their methods return them.
        """
        return self.gradient(theta), self.noise(theta, xi), self.noise_variance(theta)

    def sample(self, theta: Tensor, sigma: float, generator: Generator | None) -> Tensor:
        """Return a noisy gradient, g = grad f + sigma z. Its noise z is Gaussian unless overridden.

        Args:
            theta: Parameters, (paths, dim).
            sigma: Noise scale, > 0.
            generator: torch generator of the noise, or None for torch's own.

        Returns:
            The noisy gradient, (paths, dim).
        """
        xi = torch.randn(len(theta), self.noise_dim, dtype=theta.dtype, generator=generator)
        return torch.add(self.gradient(theta), self.noise(theta, xi), alpha=sigma)


class _Independent(NoisyGradientOracle):
    """An oracle whose noise is independent over coordinates."""

    @abstractmethod
    def _deviation(self, theta: Tensor) -> Tensor:
        """Return the standard deviation of the noise at ``theta``: (paths, dim), or what broadcasts to it."""

    def noise(self, theta: Tensor, xi: Tensor) -> Tensor:
        return self._deviation(theta) * xi

    def noise_variance(self, theta: Tensor) -> Tensor:
        return self._deviation(theta) ** 2

    def terms(self, theta: Tensor, xi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deviation = self._deviation(theta)
        return self.gradient(theta), deviation * xi, deviation**2


class Linear(_Independent):
    """f = slope . theta with constant noise, independent over coordinates.

    Args:
        slope: The gradient, (dim,).
        scale: Standard deviation of the noise, a number or (dim,); default 1.

    Source: the paper's warm-up problem with a linear loss.
    """

    def __init__(self, slope: Sequence[float], scale: float | Sequence[float] = 1.0) -> None:
        self.slope = torch.as_tensor(slope, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64).expand_as(self.slope)
        self.dim = len(self.slope)

    def gradient(self, theta: Tensor) -> Tensor:
        return self.slope.to(theta).expand_as(theta)

    def _deviation(self, theta: Tensor) -> Tensor:
        return self.scale.to(theta)

    def loss(self, theta: Tensor) -> Tensor:
        return theta @ self.slope.to(theta)


class Quadratic(_Independent):
    """f = sum_i curvature_i theta_i^2 / 2 with noise of standard deviation scale_i (1 + state sin theta_i).

    With ``state`` = 0 the noise is constant, and theta under RMSprop's SDE is an Ornstein-Uhlenbeck process.

    Args:
        curvature: Second derivatives of f, (dim,).
        scale: Scale of the noise, a number or (dim,); default 1.
        state: How strongly the noise depends on theta; default 0.

    Source: ours.
    """

    def __init__(self, curvature: Sequence[float], scale: float | Sequence[float] = 1.0, state: float = 0.0) -> None:
        self.curvature = torch.as_tensor(curvature, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64).expand_as(self.curvature)
        self.state, self.dim = state, len(self.curvature)

    def gradient(self, theta: Tensor) -> Tensor:
        return self.curvature.to(theta) * theta

    def _deviation(self, theta: Tensor) -> Tensor:
        scale = self.scale.to(theta)
        return scale * (1.0 + self.state * theta.sin()) if self.state else scale

    def loss(self, theta: Tensor) -> Tensor:
        return 0.5 * (self.curvature.to(theta) * theta**2).sum(-1)


class DoubleWell(_Independent):
    """f = sum_i (theta_i^2 - 1)^2 / 4, with noise of standard deviation scale (1 + 1 / (1 + theta_i^2)) / 2.

    Args:
        dim: Number of parameters; default 1.
        scale: Scale of the noise; default 1.

    Source: ours.
    """

    def __init__(self, dim: int = 1, scale: float = 1.0) -> None:
        self.dim, self.scale = dim, scale

    def gradient(self, theta: Tensor) -> Tensor:
        return theta**3 - theta

    def _deviation(self, theta: Tensor) -> Tensor:
        return 0.5 * self.scale * (1.0 + 1.0 / (1.0 + theta**2))

    def loss(self, theta: Tensor) -> Tensor:
        return 0.25 * ((theta**2 - 1.0) ** 2).sum(-1)


class DelegatingOracle(NoisyGradientOracle):
    """An oracle that differs from ``oracle`` only in what its subclass overrides."""

    def __init__(self, oracle: NoisyGradientOracle) -> None:
        self.oracle, self.dim = oracle, oracle.dim

    @property
    def noise_dim(self) -> int:
        return self.oracle.noise_dim

    def gradient(self, theta: Tensor) -> Tensor:
        return self.oracle.gradient(theta)

    def noise(self, theta: Tensor, xi: Tensor) -> Tensor:
        return self.oracle.noise(theta, xi)

    def noise_variance(self, theta: Tensor) -> Tensor:
        return self.oracle.noise_variance(theta)

    def loss(self, theta: Tensor) -> Tensor:
        return self.oracle.loss(theta)


class SVAGOracle(DelegatingOracle):
    """An oracle with the same gradient and ell times the noise, so with covariance ell^2 Sigma.

    It combines two independent noisy gradients into r1 g1 + r2 g2, as SVAG does.

    Args:
        oracle: The oracle whose noise is amplified.
        ell: SVAG level, at least 1 / sqrt(2).

    Raises:
        InputError: If ``ell`` is out of its range.

    Source: the paper's SVAG for adaptive algorithms.
    """

    def __init__(self, oracle: NoisyGradientOracle, ell: float) -> None:
        super().__init__(oracle)
        self.ell, (self.r1, self.r2) = ell, coefficients(ell)

    @property
    def noise_dim(self) -> int:
        return 2 * self.oracle.noise_dim

    @property
    def width(self) -> int:
        return 2 * self.oracle.width

    def noise(self, theta: Tensor, xi: Tensor) -> Tensor:
        first, second = xi.chunk(2, dim=1)
        return self.r1 * self.oracle.noise(theta, first) + self.r2 * self.oracle.noise(theta, second)

    def noise_variance(self, theta: Tensor) -> Tensor:
        return self.ell**2 * self.oracle.noise_variance(theta)

    def sample(self, theta: Tensor, sigma: float, generator: Generator | None) -> Tensor:
        # One pass over twice the paths gives both noisy gradients.
        first, second = self.oracle.sample(theta.repeat(2, 1), sigma, generator).chunk(2)
        return torch.add(self.r1 * first, second, alpha=self.r2)


def check_oracle(oracle: NoisyGradientOracle, theta: Tensor) -> None:
    """Check what the oracle's methods return at ``theta``. InputError for a wrong shape or dtype or a variance < 0."""
    xi = torch.zeros(len(theta), oracle.noise_dim, dtype=theta.dtype)
    gradient, noise, variance = oracle.gradient(theta), oracle.noise(theta, xi), oracle.noise_variance(theta)
    if (variance < 0).any():
        raise InputError(f"the oracle's noise_variance is {variance.min():g} at the start: must be >= 0")
    with suppress(RuntimeError):  # a shape that does not broadcast is refused below
        variance = variance.expand_as(theta)
    for name, found in (("gradient", gradient), ("noise", noise), ("noise_variance", variance)):
        if found.shape != theta.shape:
            raise InputError(
                f"the oracle's {name} has shape {tuple(found.shape)}: must be that of theta, {tuple(theta.shape)}"
            )
        if found.dtype != theta.dtype:
            raise InputError(f"the oracle's {name} has dtype {found.dtype}: must be that of theta, {theta.dtype}")
