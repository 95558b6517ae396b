"""How far larger batches fall behind: lags predicted from a run's gradient noise, and observed between runs.

`adasde.scaling.lag` has the formulas; this module reads curves from the tables.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.common import InputError
from adasde.scaling.lag import PERSISTENT, SPEED, at_ends, observed, predicted, speed_between


def lags_of_run(rows: Iterable[tuple], name: str) -> dict[float, np.ndarray]:
    """Predicted lag (points,) per kappa from a run's ``rows``. InputError, naming it, if they hold no speeds."""
    points: dict[str, list] = {}
    for _, _, time, metric, value in rows:
        if metric == "diverged":
            raise InputError(f"{name}: diverged at time {time:.4g}; a prediction needs a run that reached its end")
        points.setdefault(metric, []).append((time, value))
    time, speeds = speeds_along({metric: np.transpose(pairs) for metric, pairs in points.items()}, name)
    return {kappa: predicted(time, speed) for kappa, speed in sorted(speeds.items())}


def speeds_along(
    curves: Mapping[str, np.ndarray], name: str, prefix: str = PERSISTENT
) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Return the times (points,) at which a run's noise was measured, and the speeds (..., points) there by kappa.

    Args:
        curves: Times and values, (2, points) or a pair of (points,) and (..., points), by metric.
        name: What an error calls the run.
        prefix: Of the metrics that hold the speeds. Persistent ones belong to the stretches between the times.

    Raises:
        InputError: If there are none along the run.
    """
    recorded = {float(metric.removeprefix(prefix)): metric for metric in curves if metric.startswith(prefix)}
    instant = next((metric for metric in curves if metric.startswith(SPEED)), None)
    if not recorded or instant is None or len(curves[instant][0]) < 2:
        raise InputError(
            f"{name}: holds no {prefix}2, ... along the run, which a prediction reads; baselines have them, unless "
            "evaluate.noise = 0"
        )
    time = curves[instant][0]
    if time[0] != 0 or not (np.diff(time) > 0).all():
        raise InputError(f"{name}: its noise is not measured at times that rise from 0, as a prediction needs them")
    speeds = {kappa: curves[metric][1] for kappa, metric in recorded.items()}
    if prefix == PERSISTENT:
        speeds = {kappa: at_ends(speed) for kappa, speed in speeds.items()}
    if any(speed.shape[-1] != len(time) for speed in speeds.values()):
        raise InputError(f"{name}: holds {prefix}2, ... at other times than its noise")
    return time, speeds


@dataclass(frozen=True)
class Lags:
    """Lags of one experiment under the square-root rule: per kappa above 1 an array (points,), or of replicates.

    ``drawn_predicted`` and ``drawn_observed`` are bootstrap replicates over seeds, (replicates, points).
    ``progress`` is the time in ``unit``.
    """

    time: np.ndarray
    progress: np.ndarray
    unit: str
    seeds: int
    predicted: dict[float, np.ndarray]
    observed: dict[float, np.ndarray]
    drawn_predicted: dict[float, np.ndarray]
    drawn_observed: dict[float, np.ndarray]

    def agreement(self, statistic: Callable) -> tuple[float, np.ndarray]:
        """``statistic(predicted, observed)`` over all points (kappa, time) with an observed lag, and its replicates.

        The replicates hold the seed spread twice, once of the runs and once of the resampling, and any disagreement
        grows with it. So they are moved to have the statistic itself as their median.
        """
        arrays = (self.predicted, self.observed, self.drawn_predicted, self.drawn_observed)
        x, y, xs, ys = (np.concatenate([array[kappa] for kappa in self.predicted], axis=-1) for array in arrays)
        there = np.isfinite(y)
        value, replicates = statistic(x[there], y[there]), statistic(xs[:, there], ys[:, there])
        return value, replicates + (value - np.median(replicates))


def has_lags(trajectories: pd.DataFrame, experiment: str) -> bool:
    """Whether the experiment can have lags.

    They need a baseline that recorded its speeds and did not diverge, a larger batch, and a constant learning rate.
    """
    found = _runs(trajectories, experiment)
    healthy = found.groupby("kappa")["metric"].agg(lambda metrics: "diverged" not in set(metrics))
    return bool(
        found.loc[found["kappa"] == 1, "metric"].str.startswith(PERSISTENT).any()
        and healthy.get(1, False)
        and healthy[healthy.index > 1].any()
        and constant_rate(found)
    )


def constant_rate(trajectories: pd.DataFrame) -> bool:
    """Whether the learning rate of an experiment's runs is constant: SDE time is proportional to the samples."""
    times = trajectories.drop_duplicates("time")
    return np.allclose(times["time"] * times["samples"].max(), times["samples"] * times["time"].max(), rtol=1e-6)


def paired_lags(time: np.ndarray, baseline: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Observed lag of each seed, (seeds, points): the mean over seeds is the lag of the mean losses.

    A single run's loss is too noisy to say when the baseline had it. So the losses are averaged over all seeds, and
    over all but one: what leaving a seed out changes is that seed's part (jackknife). A run that is ahead of the
    baseline's end has a negative lag: there the baseline is continued as it fell over its last quarter. At the first
    two times, and where the baseline no longer falls, the lag is NaN.

    Args:
        time: Times, (points,), the first 0.
        baseline: Train losses of the baseline, (seeds, points), positive.
        losses: Those of the larger batch with the same seeds.
    """
    n = min(len(baseline), len(losses))
    baseline, losses = baseline[:n], losses[:n]
    whole = _continued_lag(time, baseline.mean(axis=0), losses.mean(axis=0))
    if n == 1:
        return whole[None]
    others = [np.arange(n) != seed for seed in range(n)]
    without = [_continued_lag(time, baseline[kept].mean(axis=0), losses[kept].mean(axis=0)) for kept in others]
    return whole + (n - 1) * (np.mean(without, axis=0) - without)


def _continued_lag(time, baseline, losses):
    """Observed lag, (points,), where the baseline is continued up to twice its time.

    It is 1 where the baseline never got so far up, and 0 where it never gets so far down: that run is not behind.
    """
    lowest = np.log(np.minimum.accumulate(baseline))
    fall = lowest[-1] - np.interp(0.75 * time[-1], time, lowest)
    longer = np.append(baseline, np.exp(lowest[-1] + 4.0 * fall))
    lag = observed(np.append(time, 2.0 * time[-1]), longer, np.append(losses, np.nan))[:-1]
    known = np.where(losses < longer.min(), 0.0, np.where(losses > baseline[0], 1.0, lag))
    return np.where(np.arange(len(time)) > 1, known, lag)


def measured_lags(trajectories: pd.DataFrame, experiment: str) -> Lags:
    """Predicted and observed lags of an experiment that has them (`has_lags`).

    The baseline's speeds are taken to be linear between the times at which its noise was measured.
    """
    found = _runs(trajectories, experiment)
    losses = tables.groups(found, experiment, "sqrt", "train_loss")
    measured = {name: tables.groups(found, experiment, "sqrt", name) for name in _speeds(found)}
    curves = {name: (groups.time, groups.values[1]) for name, groups in measured.items()}
    time, between = speeds_along(curves, experiment)
    speeds = {
        kappa: np.array([np.interp(losses.time, time, speed) for speed in values]) for kappa, values in between.items()
    }
    return _lags(losses.time, losses.healthy, speeds, losses.epoch, "epochs", losses.seeds)


def simulated_lags(simulations: pd.DataFrame, run: str) -> Lags:
    """Predicted and observed lags of a breakdown study, whose speeds are exact; its batches of paths are the seeds."""
    rows = simulations[simulations["run"] == run]

    def groups(metric):
        parts = rows[rows["metric"] == metric].groupby("level")
        return {level: p.pivot(index="batch", columns="time", values="value").to_numpy() for level, p in parts}

    time, losses = np.sort(rows["time"].unique()), groups("loss")
    if min(values.min() for values in losses.values()) <= 0:
        # Of exp(f) the geometric interpolation between measurements is that of f along a line.
        losses = {kappa: np.exp(values) for kappa, values in losses.items()}
    speeds = {float(name.removeprefix(SPEED)): groups(name)[1] for name in _speeds(rows)}
    return _lags(time, losses, speeds, time / time[-1], "part of the run", rows["batch"].nunique())


def _speeds(rows):
    return [name for name in rows["metric"].unique() if name.startswith((SPEED, PERSISTENT))]


def _lags(time, losses, speeds, progress, unit, seeds):
    """Lags from ``losses`` and the baseline's ``speeds``, arrays (repeats, points) by kappa."""
    others = [kappa for kappa in losses if 1 < kappa <= max(speeds)]
    mean_speeds = {kappa: values.mean(axis=0) for kappa, values in speeds.items()}
    drawn_speeds = {k: np.clip(statistics.bootstrap_means({1: v}, seed=1)[1], 0.0, 1.0) for k, v in speeds.items()}
    means, drawn = {k: v.mean(axis=0) for k, v in losses.items()}, statistics.bootstrap_means(losses)
    return Lags(
        time,
        progress,
        unit,
        seeds,
        predicted={k: predicted(time, speed_between(mean_speeds, k)) for k in others},
        observed={k: observed(time, means[1], means[k]) for k in others},
        drawn_predicted={k: predicted(time, speed_between(drawn_speeds, k)) for k in others},
        drawn_observed={
            k: np.array([observed(time, *pair) for pair in zip(drawn[1], drawn[k], strict=True)]) for k in others
        },
    )


def _runs(trajectories, experiment):
    return trajectories[(trajectories["experiment"] == experiment) & (trajectories["rule"] == "sqrt")]
