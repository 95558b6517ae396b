"""TO DESCRIBE."""

from dataclasses import dataclass

import numpy as np

from adasde.analysis import statistics, tables
from adasde.common import InputError
from adasde.scaling.lag import SPEED, observed, predicted, speed_between


def lags_of_run(rows, name: str):
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


def has_lags(trajectories, experiment: str) -> bool:
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


def measured_lags(trajectories, experiment: str) -> Lags:
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
        drawn_speeds[kappa] = np.clip(statistics.bootstrap_means(groups.values, seed=1)[1], 0.0, 1.0)
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


def simulated_lags(simulations, run: str) -> Lags:
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
        {k: np.clip(statistics.bootstrap_means({1: v}, seed=1)[1], 0.0, 1.0) for k, v in speeds.items()},
        progress=time / time[-1],
        unit="part of the run",
        batch_size={},
        seeds=rows["batch"].nunique(),
    )


def _lags(time, losses, speeds, drawn_speeds, **rest):
    """Lags from ``losses`` (kappa -> (repeats, points)), the baseline's mean speeds and their replicates."""
    others = [kappa for kappa in losses if 1 < kappa <= max(speeds)]
    means = {kappa: values.mean(axis=0) for kappa, values in losses.items()}
    drawn = statistics.bootstrap_means(losses)
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
