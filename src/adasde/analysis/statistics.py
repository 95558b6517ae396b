"""Statistics of trajectories over seeds: intervals, gaps to a baseline, and the seed spread.

A `Sample` holds what the seeds say of a gap along a run. It decides whether the gap is within a tolerance, says how
likely that decision was, and how many seeds it would need.

*Groups* map a label, such as kappa, to the runs that differ in their seed only: an array of shape (runs, points). If
the theory holds, the groups of one rule follow the same law at every kappa. So their deviations from their own means
are pooled: with three seeds and five batch sizes the spread is known to ten degrees of freedom instead of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

Groups = dict[float | str, np.ndarray]

LEVEL = 0.95
REPLICATES = 2000
ROUNDING = 1e-12  # relative
TAIL = 0.05  # level of a test of equivalence; the interval that goes with it is one of 90%
POWER = 0.8  # that a plan asks for: the usual convention
MOST_SEEDS = 1000  # that `Sample.seeds_needed` looks for


def degrees_of_freedom(groups: Groups) -> int:
    """Degrees of freedom of the pooled spread: runs less groups."""
    return sum(len(group) - 1 for group in groups.values())


def seed_spread(groups: Groups) -> np.ndarray:
    """Pooled standard deviation of a single run about its group's mean, of shape (points,); NaN without repeats."""
    squares = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups.values())
    freedom = degrees_of_freedom(groups)
    return np.sqrt(squares / freedom) if freedom else np.full(np.shape(squares), np.nan)


def bootstrap_means(groups: Groups, replicates: int = REPLICATES, seed: int = 0) -> Groups:
    """Bootstrap replicates of each group's mean, of shape (replicates, points).

    For Gaussian spread the percentile interval of a mean is Student's. The normal one would be too narrow, which
    matters with two or three seeds. Without repeats every replicate is NaN.
    """
    scale, errors = bootstrap_errors(groups, replicates, seed)
    return {label: group.mean(axis=0) + scale * errors[label] for label, group in groups.items()}


def bootstrap_errors(groups: Groups, replicates: int = REPLICATES, seed: int = 0) -> tuple[np.ndarray, Groups]:
    """Replicates (scale, errors) of the errors of the groups' means: label -> (replicates, points), times the scale.

    Residuals are resampled as whole trajectories, which keeps their correlation over time, from the pool of all
    groups after the correction sqrt(n / (n - 1)). The scale, (replicates, 1), is sqrt(f / chi^2_f), f the pooled
    degrees of freedom: what a single run's true spread may be, in units of the estimated one.
    """
    freedom = degrees_of_freedom(groups)
    if freedom == 0:
        nothing = {label: np.full((replicates, group.shape[1]), np.nan) for label, group in groups.items()}
        return np.full((replicates, 1), np.nan), nothing
    random = np.random.default_rng(seed)
    pool = np.concatenate(
        [(g - g.mean(axis=0)) * np.sqrt(len(g) / (len(g) - 1)) for g in groups.values() if len(g) > 1]
    )
    scale = np.sqrt(freedom / random.chisquare(freedom, replicates))[:, None]
    errors = {}
    for label, group in groups.items():
        errors[label] = pool[random.integers(len(pool), size=(replicates, len(group)))].mean(axis=1)
    return scale, errors


def interval(replicates: np.ndarray, level: float = LEVEL, axis: int = 0) -> tuple:
    """Percentile interval (low, high) of bootstrap replicates along ``axis``."""
    tail = (1 - level) / 2
    # The nearest order statistics rather than a weighted pair: infinite distances have no weighted mean.
    return tuple(np.quantile(replicates, (tail, 1 - tail), axis=axis, method="inverted_cdf"))


def mean_intervals(groups: Groups) -> Groups:
    """Mean, low and high end of its 95% interval, (3, points), of each group.

    A group with unknown values, of runs that diverged, has no interval and no part in the pooled spread.
    """
    drawn = bootstrap_means({label: group for label, group in groups.items() if np.isfinite(group).all()})
    nothing = np.full((1, *np.shape(next(iter(groups.values()))[0])), np.nan) if groups else None
    return {
        label: np.stack([group.mean(axis=0), *interval(drawn.get(label, nothing))]) for label, group in groups.items()
    }


def largest(
    gaps: np.ndarray, errors: np.ndarray, scale: float | np.ndarray = 1.0, level: float = LEVEL
) -> tuple[float, float]:
    """Interval (low, high) of the largest |true gap|, in true units, where ``gaps`` are estimates in estimated ones.

    ``errors`` are replicates of the gaps' errors, (replicates, gaps), and ``scale``, (replicates, 1), of the unit. The
    largest of noisy gaps is larger than the largest gap, and a plain bootstrap makes it larger still. So the lower end
    allows for errors in all gaps at once: the largest is above it only if one is. The upper end is the
    intersection-union test of equivalence (Berger and Hsu 1996): all gaps are below it if each one is, and each has
    the whole level to show it. In simulations of five levels and six times either end missed in at most 2.5%, and so
    did verdicts at the margin. But a true distance of exactly 0 was below the lower end in 6.1% of 1,500 trials with
    two seeds, 4.1% with three and 2.8% with eight: few residuals to resample know little of the spread's tail.
    """
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.abs(gaps).max() / scale - np.abs(errors).max(axis=-1, keepdims=True)
        each = np.abs(gaps) / scale + np.where(gaps < 0, -1.0, 1.0) * errors
    lowest = np.quantile(low, tail, method="inverted_cdf")
    return np.maximum(lowest, 0.0), np.quantile(each, 1 - tail, axis=0, method="inverted_cdf").max()


@dataclass(frozen=True)
class Gap:
    """An estimate of a gap at each time: mean, standard error and Student's degrees of freedom, (..., points)."""

    mean: np.ndarray
    error: np.ndarray
    freedom: np.ndarray | float

    @property
    def largest(self) -> np.ndarray:
        """The largest |mean| over the points."""
        return np.abs(self.mean).max(axis=-1)

    @property
    def high(self) -> np.ndarray:
        """Upper bound at 5% of the largest |true gap|: the intersection-union test (Berger and Hsu 1996).

        All gaps are below a tolerance if each one is, so each has the whole level to show it.
        """
        return (np.abs(self.mean) + stdtrit(self.freedom, 1.0 - TAIL) * self.error).max(axis=-1)

    @property
    def low(self) -> np.ndarray:
        """Lower bound at 5%: it allows for errors at all points at once (Bonferroni), to either side; at least 0."""
        each = 1.0 - TAIL / (2 * self.mean.shape[-1])
        return np.maximum((np.abs(self.mean) - stdtrit(self.freedom, each) * self.error).max(axis=-1), 0.0)


@dataclass(frozen=True)
class Sample:
    """Gaps of single runs along their trajectories, over which a mean gap is estimated.

    ``groups`` is one array of paired differences, or two arrays of independent runs, the second of the baseline
    (Welch). Each has the shape (seeds, points).
    """

    groups: tuple[np.ndarray, ...]

    @classmethod
    def paired(cls, runs: np.ndarray, baseline: np.ndarray) -> "Sample":
        """Differences of ``runs`` to the ``baseline`` of the same seeds, both (seeds, points)."""
        return cls((runs - baseline,))

    @classmethod
    def joined(cls, samples: Sequence["Sample"], units: Sequence[float]) -> "Sample":
        """All points of several samples of the same runs, each in its unit."""
        parts = zip(*(sample.groups for sample in samples), strict=True)
        return cls(tuple(np.concatenate([v / u for v, u in zip(part, units, strict=True)], axis=1) for part in parts))

    @classmethod
    def single(cls, spread: float, n: int, paired: bool) -> "Sample":
        """Gaps at one time with this standard deviation, of ``n`` pairs of runs, or of two groups of ``n`` each."""
        values = np.linspace(-1.0, 1.0, n)[:, None]  # any values would do
        values *= spread / values.std(ddof=1)
        return cls((values,) if paired else (values / np.sqrt(2), values / np.sqrt(2)))

    @property
    def n(self) -> int:
        """Number of seeds, of the group that has fewer."""
        return min(map(len, self.groups))

    @property
    def gap(self) -> Gap:
        """The mean gap; its error is unknown (NaN) with one seed."""
        return _gap(self.groups)

    def power(self, tolerance: float, draws: int = REPLICATES, seed: int = 0) -> float:
        """Probability that a true gap of 0 with this spread is shown to be below the tolerance; NaN with one seed."""
        return float((self.null_highs(draws, seed) < tolerance).mean()) if self.n > 1 else np.nan

    def null_highs(self, draws: int = REPLICATES, seed: int = 0) -> np.ndarray:
        """Upper ends of the intervals, (draws,), that samples of this size and spread have where the true gap is 0.

        Whole trajectories are drawn with the covariance that was measured over time.
        """
        random = np.random.default_rng(seed)
        drawn = []
        for group in self.groups:
            n = len(group)
            drawn.append(random.normal(size=(draws, n, n)) @ (group - group.mean(axis=0)) / np.sqrt(n - 1))
        return _gap(drawn).high

    def seeds_needed(self, tolerance: float) -> float:
        """Return the smallest larger number of seeds that would decide with a probability of `POWER` or more.

        It takes mean and spread as the true ones, and is NaN with one seed, and where `MOST_SEEDS` do not decide.
        """
        if self.n < 2:
            return np.nan
        gap, n = self.gap, np.arange(self.n + 1, MOST_SEEDS + 1)[:, None]
        error, freedom = gap.error * np.sqrt(self.n / n), gap.freedom * (n - 1) / (self.n - 1)
        # The mean of other seeds may be as much further from 0, or nearer to it.
        further = Gap(np.abs(gap.mean) + ndtri((1 + POWER) / 2) * error, error, freedom)
        nearer = Gap(np.maximum(np.abs(gap.mean) - ndtri(POWER) * error, 0.0), error, freedom)
        decided = (further.high < tolerance) | (nearer.low > tolerance)
        return float(n[decided.argmax(), 0]) if decided.any() else np.nan


def _gap(groups):
    """The `Gap` of one or two groups, (..., seeds, points)."""
    n = [group.shape[-2] for group in groups]
    means = [group.mean(axis=-2) for group in groups]
    mean = means[0] if len(groups) == 1 else means[0] - means[1]
    if min(n) < 2:
        return Gap(mean, np.full(np.shape(mean), np.nan), np.nan)
    squares = [group.var(axis=-2, ddof=1) / len_ for group, len_ in zip(groups, n, strict=True)]
    error = np.sqrt(sum(squares))
    if len(groups) == 1:
        return Gap(mean, error, float(n[0] - 1))
    with np.errstate(invalid="ignore"):  # where nothing deviates, any number of degrees will do
        freedom = error**4 / sum(square**2 / (len_ - 1) for square, len_ in zip(squares, n, strict=True))
    return Gap(mean, error, np.where(error > 0, freedom, sum(n) - 2.0))


def mean_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean of |x - y| over the last axis, where both are finite; NaN if they nowhere are."""
    gaps = np.abs(x - y)
    known = np.isfinite(gaps)
    with np.errstate(invalid="ignore"):
        return np.where(known, gaps, 0.0).sum(axis=-1) / known.sum(axis=-1)


def in_deviations(means: np.ndarray, reference: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(means - reference) / deviation: 0 if they agree to rounding and nothing deviates, as at the common start.

    Where they differ and nothing deviates, the distance is infinite. It is unknown (NaN) where the deviation is.
    """
    gap = means - reference
    # Means of equal numbers differ in their last bit, and so does their deviation from zero.
    same = (np.abs(gap) <= ROUNDING * np.abs(reference)) & (deviation <= ROUNDING * np.abs(reference))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(same, 0.0, gap / deviation)


def bootstrap(
    values: np.ndarray, statistic: Callable = lambda mean: mean, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """Bootstrap replicates of ``statistic(mean)`` where ``values`` is (repeats, ...) and mean is over its first axis.

    Repeats are resampled whole, which keeps whatever correlation they have within, and with the two corrections of
    `bootstrap_errors`.
    """
    n = len(values)
    mean = values.mean(axis=0)
    if n < 2:
        return np.full((replicates, *np.shape(statistic(mean))), np.nan)
    random = np.random.default_rng(seed)
    scales = np.sqrt(n / random.chisquare(n - 1, replicates))
    deviations = values - mean
    drawn = deviations[random.integers(n, size=(replicates, n))].mean(axis=1)
    means = mean + scales.reshape(-1, *[1] * mean.ndim) * drawn
    return np.array([statistic(mean) for mean in means])


def slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of log y against log x, by least squares over the last axis of ``y``."""
    x = np.log(x) - np.log(x).mean()
    return (np.log(y) * x).sum(axis=-1) / (x**2).sum()
