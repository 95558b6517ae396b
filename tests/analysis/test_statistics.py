"""statistics.py: intervals that cover, and distances by hand."""

import numpy as np
import pytest

from adasde.analysis import statistics


def groups_of(random, kappas, seeds, points=1, shift=0.0):
    return {k: random.normal(shift * k, 2.0, (seeds, points)) for k in range(kappas)}


@pytest.mark.parametrize(("kappas", "seeds"), [(5, 3), (3, 2)])
def test_the_interval_of_a_mean_covers(kappas, seeds):
    random = np.random.default_rng(0)
    trials = 1000
    covered = 0
    for trial in range(trials):
        low, high = statistics.interval(
            statistics.bootstrap_means(groups_of(random, kappas, seeds), replicates=400, seed=trial)[0]
        )
        covered += (low[0] < 0) & (high[0] > 0)
    # 95% of 1000 with standard error 0.7%; pooled residuals of 6 to 15 runs cost a little more.
    assert 0.92 < covered / trials < 0.98


def test_replicates_keep_the_means_and_the_correlation_over_time():
    random = np.random.default_rng(1)
    levels = random.normal(size=(200, 1))
    group = 3.0 + levels + 0.1 * random.normal(size=(200, 2))  # two points of one level move together
    means = statistics.bootstrap_means({1: group}, seed=2)[1]
    standard_error = group.std() / np.sqrt(200)
    assert np.allclose(means.mean(axis=0), group.mean(axis=0), atol=5 * standard_error / np.sqrt(2000))
    assert np.corrcoef(means.T)[0, 1] > 0.95
    assert np.allclose(means.std(axis=0), standard_error, rtol=0.1)


def test_the_same_seed_gives_the_same_interval():
    groups = groups_of(np.random.default_rng(0), 2, 3)
    first, again, other = (statistics.bootstrap_means(groups, seed=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_spread_is_pooled_over_groups():
    groups = {1: np.array([[1.0], [3.0]]), 2: np.array([[10.0], [10.0], [10.0]])}
    assert statistics.degrees_of_freedom(groups) == 3
    assert np.isclose(statistics.seed_spread(groups)[0], np.sqrt(2 / 3))


def test_one_seed_says_nothing_about_spread():
    groups = {1: np.ones((1, 4)), 2: np.zeros((1, 4))}
    assert np.isnan(statistics.seed_spread(groups)).all()
    assert np.isnan(statistics.bootstrap_means(groups)[1]).all()


def test_distances_by_hand():
    means, reference, spread = (
        np.array([[1.0, 2.0, 5.0]]),
        np.array([1.0, 1.0, 1.0]),
        np.array([1.0, 1.0, 2.0]),
    )
    assert np.abs(statistics.in_deviations(means, reference, spread)).max(axis=-1) == [2.0]
    single = np.full(3, np.nan)
    assert np.isnan(statistics.in_deviations(means, reference, single)).all()


def test_a_common_start_is_no_distance_and_a_difference_without_spread_an_infinite_one():
    start = np.full((3, 1), 0.1)
    groups = {1: np.hstack([start, [[1.0], [2.0], [3.0]]]), 4: np.hstack([start, [[2.0], [3.0], [4.0]]])}
    spread = statistics.seed_spread(groups)
    means = {kappa: group.mean(axis=0) for kappa, group in groups.items()}
    assert np.abs(statistics.in_deviations(means[4], means[1], spread)).max() == 1.0
    drawn = statistics.bootstrap_means(groups)
    assert (statistics.in_deviations(drawn[4], drawn[1], spread)[:, 0] == 0).all()
    assert statistics.in_deviations(np.array([0.2]), np.array([0.1]), np.array([0.0])) == np.inf


def test_distances_skip_unknown_points():
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([10.0, 30.0, 20.0, 40.0, np.nan])
    assert statistics.mean_distance(x, y) == pytest.approx((9 + 28 + 17 + 36) / 4)
    assert np.isnan(statistics.mean_distance(x[4:], y[4:]))


def profile(size, levels=4, points=6):
    """True distances of some levels over time: two rise early and fall, to a largest one of ``size``; two are none."""
    rise = np.exp(-((np.arange(points) - 1.5) ** 2) / 3)
    return {1: 0 * rise, **{2**k: size * rise / rise.max() * (k % 2) for k in range(1, levels + 1)}}


def simulated(random, truth, seeds):
    """Runs about the true curves, whose spread of standard deviation 1 is correlated over time by 0.7."""
    points = len(truth[1])
    root = np.linalg.cholesky(0.7 ** np.abs(np.subtract.outer(np.arange(points), np.arange(points))))
    return {level: curve + random.normal(size=(seeds, points)) @ root.T for level, curve in truth.items()}


# Where the truth is exactly 0 the lower end misses it more often than 2.5%: as measured in 1,500 trials, by seeds.
AT_ZERO = {2: 0.061, 3: 0.041, 8: 0.028}


@pytest.mark.parametrize("size", [0.0, 1.5, 3.0, 8.0])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_how_often_the_interval_of_the_largest_distance_misses_it(size, seeds):
    """In at most 2.5% at either end, but for the known excess at 0; and as many verdicts on the margin are wrong."""
    random, trials, truth = np.random.default_rng(10 * seeds + int(size)), 500, profile(size)
    below, above, wrong = 0, 0, 0
    for trial in range(trials):
        groups = simulated(random, truth, seeds)
        spread = statistics.seed_spread(groups)
        scale, drawn = statistics.bootstrap_errors(groups, replicates=400, seed=trial)
        gaps = np.concatenate([(groups[k].mean(axis=0) - groups[1].mean(axis=0)) / spread for k in groups if k != 1])
        errors = np.concatenate([(drawn[k] - drawn[1]) / spread for k in groups if k != 1], axis=1)
        low, high = statistics.largest(gaps, errors, scale)
        below, above = below + (high < size), above + (low > size)
        wrong += (low > 3 and size <= 3) or (high < 3 and size >= 3)
    for misses, limit in ((below, 0.025), (above, 0.025 if size else AT_ZERO[seeds]), (wrong, 0.025)):
        assert misses / trials <= limit + 3 * (limit * (1 - limit) / trials) ** 0.5


def test_enough_seeds_show_equivalence_and_difference():
    """With eight seeds, what is within half the margin is shown to be, and what is far beyond it as well."""
    random, shown = np.random.default_rng(0), []
    for size, verdict in ((0.5, "within"), (6.0, "beyond")):
        groups = simulated(random, profile(size), 8)
        spread, (scale, drawn) = statistics.seed_spread(groups), statistics.bootstrap_errors(groups)
        gaps = np.concatenate([(groups[k].mean(axis=0) - groups[1].mean(axis=0)) / spread for k in groups if k != 1])
        errors = np.concatenate([(drawn[k] - drawn[1]) / spread for k in groups if k != 1], axis=1)
        low, high = statistics.largest(gaps, errors, scale)
        shown.append("within" if high < 3 else "beyond" if low > 3 else "undecided")
        assert shown[-1] == verdict, (low, high)


def test_a_largest_gap_without_spread_is_exact_and_unknown_without_repeats():
    assert statistics.largest(np.array([-2.0, 1.0]), np.zeros((50, 2))) == (2.0, 2.0)
    assert np.isnan(statistics.largest(np.array([2.0]), np.full((50, 1), np.nan), np.full((50, 1), np.nan))).all()
    assert statistics.largest(np.array([np.inf, 1.0]), np.zeros((50, 2)))[0] == np.inf


def trajectories_of(random, seeds, gap, points=6):
    """Runs of spread 1, correlated over time by 0.7, about a gap that rises over the first half."""
    root = np.linalg.cholesky(0.7 ** np.abs(np.subtract.outer(np.arange(points), np.arange(points))))
    return gap * np.minimum(1.0, np.linspace(0.0, 2.0, points)) + random.normal(size=(seeds, points)) @ root.T


def verdicts(samples, tolerance):
    """Shares of samples whose gap is shown to be within the tolerance, and beyond it."""
    gaps = [sample.gap for sample in samples]
    return [np.mean([gap.high < tolerance for gap in gaps]), np.mean([gap.low > tolerance for gap in gaps])]


def limit(share, trials):
    """Three binomial standard errors above a share."""
    return share + 3 * (share * (1 - share) / trials) ** 0.5


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_error_rates_where_the_truth_is_known(paired, seeds):
    """At the tolerance neither verdict is given too often, at 0 and at twice it the wrong one hardly ever."""
    random, trials, tolerance = np.random.default_rng(seeds), 1000, 2.0

    def sample(gap):
        if paired:
            return statistics.Sample((trajectories_of(random, seeds, gap),))
        return statistics.Sample((trajectories_of(random, seeds, gap), trajectories_of(random, seeds, 0.0)))

    at_zero, at_it, beyond = (
        verdicts([sample(gap) for _ in range(trials)], tolerance) for gap in (0.0, tolerance, 2 * tolerance)
    )
    assert max(at_it) <= limit(0.025, trials)
    assert at_zero[1] <= limit(0.025, trials)
    assert beyond[0] <= limit(0.025, trials)
    if seeds == 8 and paired:  # and the right one is given
        assert at_zero[0] > 0.95
        assert beyond[1] > 0.3


def test_the_power_is_the_share_of_equal_runs_that_are_shown_to_be_equal():
    """Power from a large sample's spread agrees with the share of fresh samples, and rises with the tolerance."""
    random, trials, seeds = np.random.default_rng(3), 1000, 5
    for tolerance in (1.2, 1.8):
        shown = verdicts([statistics.Sample((trajectories_of(random, seeds, 0.0),)) for _ in range(trials)], tolerance)[
            0
        ]
        # The spread of five seeds is itself uncertain, so many estimates of the power are averaged.
        powers = [
            statistics.Sample((trajectories_of(random, seeds, 0.0),)).power(tolerance, draws=200, seed=seed)
            for seed in range(200)
        ]
        assert np.mean(powers) == pytest.approx(shown, abs=0.1)
    two = statistics.Sample((trajectories_of(random, 8, 0.0), trajectories_of(random, 8, 0.0)))
    assert two.power(0.5) < two.power(2.0) < two.power(4.0)
    assert two.power(4.0) > 0.95
    assert np.isnan(statistics.Sample((np.ones((1, 3)),)).power(1.0))


def test_the_seeds_needed_decide():
    """Fresh seeds with the mean and the spread that was seen decide in 80% of trials or a little more."""
    deviations = np.array([[-1.0, 0.5], [1.0, -0.5], [0.0, 0.0]])
    random, trials = np.random.default_rng(0), 1000
    for mean in (0.0, 0.3, 2.0):
        sample = statistics.Sample((mean + deviations,))
        needed = int(sample.seeds_needed(1.0))
        assert needed > 3
        counts = dict.fromkeys((needed, needed // 2), 0)
        for n in counts:
            for _ in range(trials):
                gap = statistics.Sample((mean + random.normal(size=(n, 1)) @ [[1.0, -0.5]],)).gap
                counts[n] += gap.high < 1.0 or gap.low > 1.0
        assert 0.77 * trials < counts[needed] < 0.92 * trials
        assert counts[needed // 2] < 0.7 * trials
    assert np.isnan(statistics.Sample((1.0 + 1e-4 + deviations - deviations.mean(axis=0),)).seeds_needed(1.0))
    assert np.isnan(statistics.Sample((np.ones((1, 2)),)).seeds_needed(1.0))
    assert statistics.Sample((5.0 + 5.0 * deviations,)).seeds_needed(1.0) > 3  # beyond the tolerance


def test_gaps_by_hand():
    runs, baseline = np.array([[1.0, 2.0], [3.0, 6.0], [7.0, 7.0]]), np.array([[1.0, 1.0], [1.0, 3.0]])
    paired = statistics.Sample.paired(runs[:2], baseline)
    assert paired.n == 2
    assert np.allclose(paired.gap.mean, [1.0, 2.0])
    assert np.allclose(paired.gap.error, [1.0, 1.0])
    assert paired.gap.high == pytest.approx(2.0 + 6.3138, rel=1e-5)  # Student's t of one degree of freedom
    assert paired.gap.low == 0.0
    welch = statistics.Sample((runs[:2], baseline)).gap
    assert np.allclose(welch.mean, [1.0, 2.0])
    assert np.allclose(welch.error, [1.0, 5**0.5])
    assert np.allclose(welch.freedom, [1.0, 25 / 17])
    same = statistics.Sample((np.ones((2, 2)), np.zeros((2, 2)))).gap
    assert (same.low, same.high) == (1.0, 1.0)
    joined = statistics.Sample.joined([paired, paired], [1.0, 0.5])
    assert np.allclose(joined.gap.mean, [1.0, 2.0, 2.0, 4.0])
