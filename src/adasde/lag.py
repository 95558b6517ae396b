"""How far behind the baseline a larger batch falls: predicted from the baseline alone, and observed.

A run scaled by kappa is at time t where the baseline was at time tau(t); its *lag* is 1 - tau / t, a share. The
prediction follows the speed rho_kappa that the baseline recorded (noise.py): d tau / dt = rho_kappa(tau), tau(0) = 0.
It knows nothing of any run at kappa. The observed tau is where the baseline had the train loss that the scaled run has
at t. Both presume a constant learning rate: when that drops, the loss falls for another reason than progress.
"""

from dataclasses import dataclass

import numpy as np

from . import stats, tables
from .errors import InputError

SPEED = "speed_k"  # start of the metrics that hold a run's speeds
TOLERATED = 0.1  # lag at the end of a run up to which `adasde predict` calls a batch size safe


def warp(time, speed):
    """Return tau at each ``time``, where d tau / dt = rho(tau), linear between the values ``speed`` at ``time``.

    ``time`` (points,) starts at 0; ``speed`` is (points,) or (replicates, points), not negative. Exact: on a stretch
    where rho = r + a (tau - tau0), tau grows by (r / a) (exp(a t) - 1).
    """
    speed = np.maximum(np.asarray(speed, float), 1e-6)  # a speed of 0 would never be left again
    first, second, steps = speed[..., :-1], speed[..., 1:], np.diff(time)
    curved = np.abs(second - first) > 1e-9 * second
    slopes = np.where(curved, (second - first) / steps, 1.0)
    needed = np.where(curved, np.log(second / first) / slopes, steps / first)  # time to cross each stretch
    reached = np.cumsum(needed, axis=-1)  # the time at which tau is at the end of each
    at = (reached[..., None, :-1] <= time[:, None]).sum(axis=-1)  # the stretch in which each time finds tau
    first, curved, slopes, crossed = (
        np.take_along_axis(part, at, axis=-1) for part in (first, curved, slopes, reached - needed)
    )
    passed = time - crossed
    grown = np.where(curved, first * np.expm1(slopes * passed) / slopes, first * passed)
    return np.minimum(time[at] + grown, time[-1])


def predicted(time, speed):
    """Predicted lag at each ``time``, from the baseline's ``speed`` there; at time 0 its limit, 1 - speed."""
    tau = warp(time, speed)
    return 1.0 - np.concatenate([np.asarray(speed)[..., :1], tau[..., 1:] / time[1:]], axis=-1)


def observed(time, baseline, losses):
    """Observed lag: 1 - tau / t, where the ``baseline``'s running minimum at tau equals ``losses`` at t; all positive.

    NaN where the baseline never had that loss, and at the first two times: at 0 there is no lag, and before the next
    measurement the loss falls by more than can be interpolated. Between measurements the loss is taken to fall
    geometrically.
    """
    depth, depths = (-np.log(np.maximum(curve, np.finfo(float).tiny)) for curve in (losses, baseline))
    tau = np.interp(depth, np.maximum.accumulate(depths), time, left=np.nan, right=np.nan)
    tau[:2] = np.nan
    return 1.0 - tau / np.where(time > 0, time, 1.0)


def speed_between(speeds: dict, kappa: float):
    """Speed at a kappa between those of ``speeds`` (kappa -> array), linear in log kappa; at kappa = 1 it is 1."""
    known = sorted(speeds)
    if not 1 <= kappa <= known[-1]:
        raise InputError(f"kappa = {kappa:g}: a run records its speeds for kappa from 1 to {known[-1]:g}")
    above = next(k for k in known if k >= kappa)
    below = max((k for k in known if k < above), default=1)
    weight = np.log(kappa / below) / np.log(above / below)
    return weight * speeds[above] + (1.0 - weight) * speeds.get(below, np.ones_like(speeds[above]))


def safe_kappa(lags: dict) -> float:
    """Largest kappa at which the lag at the end stays tolerable, linear in log kappa between those of ``lags``."""
    kappas, ends = [1.0], [0.0]
    for kappa in sorted(lags):
        kappas.append(kappa)
        ends.append(lags[kappa][-1])
        if ends[-1] > TOLERATED:
            return float(2 ** np.interp(TOLERATED, ends[-2:], np.log2(kappas[-2:])))
    return kappas[-1]


def of_run(rows, name: str):
    """Predicted lag (points,) per kappa from a run's ``rows``; InputError, naming it, if they hold no speeds."""
    ended = [time for _, _, time, metric, _ in rows if metric == "diverged"]
    if ended:
        raise InputError(f"{name}: diverged at time {ended[0]:.4g}; a prediction needs a run that reached its end")
    points = {}
    for _, _, time, metric, value in rows:
        if metric.startswith(SPEED):
            points.setdefault(float(metric.removeprefix(SPEED)), []).append((time, value))
    times, values = zip(*(np.transpose(points[kappa]) for kappa in sorted(points)), strict=True) if points else ((), ())
    if not points or len(times[0]) < 2 or any(len(time) != len(times[0]) for time in times):
        raise InputError(f"{name}: holds no {SPEED}2, ... along the run, which a prediction reads; run it again")
    return {kappa: predicted(times[0], speed) for kappa, speed in zip(sorted(points), values, strict=True)}


@dataclass(frozen=True)
class Lags:
    """Lags of one experiment under the square-root rule: per kappa above 1 an array (points,), or of replicates.

    ``drawn_predicted`` and ``drawn_observed`` are bootstrap replicates over seeds, (replicates, points).
    """

    time: np.ndarray
    progress: np.ndarray
    unit: str
    batch_size: dict[float, int]
    seeds: int
    predicted: dict[float, np.ndarray]
    observed: dict[float, np.ndarray]
    drawn_predicted: dict[float, np.ndarray]
    drawn_observed: dict[float, np.ndarray]

    def agreement(self, statistic) -> tuple[float, np.ndarray]:
        """``statistic(predicted, observed)`` over all points (kappa, time) with an observed lag, and its replicates.

        The replicates hold the seeds' noise twice, once of the runs and once of the resampling, and any disagreement
        grows with noise; so they are moved to have the statistic itself as their median.
        """
        arrays = (self.predicted, self.observed, self.drawn_predicted, self.drawn_observed)
        x, y, xs, ys = (np.concatenate([array[kappa] for kappa in self.predicted], axis=-1) for array in arrays)
        there = np.isfinite(y)
        value, replicates = statistic(x[there], y[there]), statistic(xs[:, there], ys[:, there])
        return value, replicates + (value - np.median(replicates))


def known(trajectories, experiment: str) -> bool:
    """Whether the experiment can have lags.

    They need a baseline that recorded its speeds and did not diverge, a larger batch, and a constant learning rate.
    """
    found = _runs(trajectories, experiment)
    healthy = found.groupby("kappa")["metric"].agg(lambda metrics: "diverged" not in set(metrics))
    times = found.drop_duplicates("time")
    return bool(
        found["metric"].str.startswith(SPEED).any()
        and healthy.get(1, False)
        and healthy[healthy.index > 1].any()
        # SDE time is proportional to the samples.
        and np.allclose(times["time"] * times["samples"].max(), times["samples"] * times["time"].max(), rtol=1e-6)
    )


def lags(trajectories, experiment: str) -> Lags:
    """Predicted and observed lags of an experiment that has them (`known`)."""
    found = _runs(trajectories, experiment)
    names = [name for name in found["metric"].unique() if name.startswith(SPEED)]
    losses = tables.groups(found, experiment, "sqrt", "train_loss")
    baseline = found[found["kappa"] == 1]
    speeds, drawn_speeds = {}, {}
    for name in names:
        groups = tables.groups(baseline, experiment, "sqrt", name)
        kappa = float(name.removeprefix(SPEED))
        speeds[kappa] = groups.values[1].mean(axis=0)
        drawn_speeds[kappa] = np.clip(stats.bootstrap_means(groups.values, seed=1)[1], 0.0, 1.0)
    return _lags(
        losses.time,
        losses.healthy,
        speeds,
        drawn_speeds,
        progress=losses.epoch,
        unit="epochs",
        batch_size=losses.batch_size,
        seeds=losses.seeds,
    )


def simulated(simulations, run: str) -> Lags:
    """Predicted and observed lags of a breakdown study, whose speeds are exact; its batches of paths are the seeds."""
    rows = simulations[simulations["run"] == run]

    def groups(metric):
        part = rows[rows["metric"] == metric]
        return {
            level: p.pivot(index="batch", columns="time", values="value").to_numpy()
            for level, p in part.groupby("level")
        }

    time = np.sort(rows["time"].unique())
    losses = groups("loss")
    if min(values.min() for values in losses.values()) <= 0:
        # Of exp(f) the geometric interpolation between measurements is that of f along a line.
        losses = {kappa: np.exp(values) for kappa, values in losses.items()}
    names = [name for name in rows["metric"].unique() if name.startswith(SPEED)]
    speeds = {float(name.removeprefix(SPEED)): groups(name)[1] for name in names}
    return _lags(
        time,
        losses,
        {kappa: values.mean(axis=0) for kappa, values in speeds.items()},
        {k: np.clip(stats.bootstrap_means({1: v}, seed=1)[1], 0.0, 1.0) for k, v in speeds.items()},
        progress=time / time[-1],
        unit="part of the run",
        batch_size={},
        seeds=rows["batch"].nunique(),
    )


def _lags(time, losses, speeds, drawn_speeds, **rest):
    """Lags from ``losses`` (kappa -> (repeats, points)), the baseline's mean speeds and their replicates."""
    others = [kappa for kappa in losses if 1 < kappa <= max(speeds)]
    means = {kappa: values.mean(axis=0) for kappa, values in losses.items()}
    drawn = stats.bootstrap_means(losses)
    return Lags(
        time=time,
        predicted={k: predicted(time, speed_between(speeds, k)) for k in others},
        observed={k: observed(time, means[1], means[k]) for k in others},
        drawn_predicted={k: predicted(time, speed_between(drawn_speeds, k)) for k in others},
        drawn_observed={
            k: np.array([observed(time, *pair) for pair in zip(drawn[1], drawn[k], strict=True)]) for k in others
        },
        **rest,
    )


def _runs(trajectories, experiment):
    return trajectories[(trajectories["experiment"] == experiment) & (trajectories["rule"] == "sqrt")]
