"""How far larger batches fall behind: lags predicted from a run's gradient noise, and observed between runs.

`adasde.scaling.lag` has the formulas; this module reads curves from the tables.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.common import InputError
from adasde.scaling.lag import SPEED, observed, predicted, speed_between


def lags_of_run(rows: Iterable[tuple], name: str) -> dict[float, np.ndarray]:
    """Predicted lag (points,) per kappa from a run's ``rows``. InputError, naming it, if they hold no speeds."""
    points = {}
    for _, _, time, metric, value in rows:
        if metric == "diverged":
            raise InputError(f"{name}: diverged at time {time:.4g}; a prediction needs a run that reached its end")
        if metric.startswith(SPEED):
            points.setdefault(float(metric.removeprefix(SPEED)), []).append((time, value))
    lengths = {len(curve) for curve in points.values()}
    if len(lengths) != 1 or lengths == {1}:
        raise InputError(f"{name}: holds no {SPEED}2, ... along the run, which a prediction reads; run it again")
    curves = {kappa: np.transpose(points[kappa]) for kappa in sorted(points)}
    time = next(iter(curves.values()))[0]
    return {kappa: predicted(time, speed) for kappa, (_, speed) in curves.items()}


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
    times = found.drop_duplicates("time")
    return bool(
        found["metric"].str.startswith(SPEED).any()
        and healthy.get(1, False)
        and healthy[healthy.index > 1].any()
        # SDE time is proportional to the samples.
        and np.allclose(times["time"] * times["samples"].max(), times["samples"] * times["time"].max(), rtol=1e-6)
    )


def measured_lags(trajectories: pd.DataFrame, experiment: str) -> Lags:
    """Predicted and observed lags of an experiment that has them (`has_lags`)."""
    found = _runs(trajectories, experiment)
    losses = tables.groups(found, experiment, "sqrt", "train_loss")
    baseline = found[found["kappa"] == 1]
    speeds = {name: tables.groups(baseline, experiment, "sqrt", name).values[1] for name in _speeds(found)}
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
    speeds = {name: groups(name)[1] for name in _speeds(rows)}
    return _lags(time, losses, speeds, time / time[-1], "part of the run", rows["batch"].nunique())


def _speeds(rows):
    return [name for name in rows["metric"].unique() if name.startswith(SPEED)]


def _lags(time, losses, speeds, progress, unit, seeds):
    """Lags from ``losses`` by kappa and the baseline's ``speeds`` by name, arrays (repeats, points)."""
    speeds = {float(name.removeprefix(SPEED)): values for name, values in speeds.items()}
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
