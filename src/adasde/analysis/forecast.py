"""The forecast: for which batch multipliers the square-root rule will hold, from runs of the baseline only.

Two forms are kept. The official one is the predicted lag at the end (`adasde.scaling.lag`): the rule holds if it is at
most 10%. The other is the gap in natural units: at time t a larger batch is where the baseline was at tau(t), so its
test functions are the baseline's at that time.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adasde.analysis.claims.base import TEST_FUNCTIONS
from adasde.analysis.claims.tolerances import tolerance, window
from adasde.analysis.lags import speeds_along
from adasde.common import MALFORMED, InputError, atomic, canonical, digest, read_text
from adasde.experiments.artifacts import Result, read_all
from adasde.experiments.specs import Simulation
from adasde.scaling.lag import SPEED, TOLERATED, predicted, safe_kappa, speed_between, warp


@dataclass(frozen=True)
class ForecastGap:
    """The forecast of a test function's largest gap to the baseline, (signed) in natural units, and its tolerance."""

    gap: float
    tolerance: float


@dataclass(frozen=True)
class Forecast:
    """What the baseline of one experiment says of larger batches.

    Attributes:
        experiment: Name of the experiment.
        kind: ``scratch`` or ``branch``; in a branch all times count from its beginning.
        seeds: Number of the baseline's runs, over which all numbers are means.
        time: Times at which the noise was measured, (points,), the first 0.
        speeds: Speed of the rule at those times for each kappa that was recorded, (points,). It counts the part of the
            gradient that persists from one of the times to the next.
        instant: The same from the whole gradient at each time, for comparison.
        curve_time: Times of all evaluations, the first 0.
        curves: Test functions of the baseline at those times, by name.
    """

    experiment: str
    kind: str
    seeds: int
    time: np.ndarray
    speeds: dict[float, np.ndarray]
    instant: dict[float, np.ndarray]
    curve_time: np.ndarray
    curves: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        """Raise an InputError for times that do not rise from 0, and for curves that are not along them."""
        for time, curves in ((self.time, self.speeds), (self.time, self.instant), (self.curve_time, self.curves)):
            rises = time.ndim == 1 and len(time) > 1 and time[0] == 0 and bool((np.diff(time) > 0).all())
            if not rises or not curves or any(curve.shape != time.shape for curve in curves.values()):
                raise InputError(f"{self.experiment}: no forecast, since nothing is measured at times that rise from 0")

    def __str__(self) -> str:
        """Return the forecast as a sentence."""
        return f"{self.experiment}: the rule holds up to kappa {self.safe_kappa:.3g}, by the noise of the baseline"

    def lag(self, kappa: float) -> float:
        """Return the predicted lag at the end. InputError if there is no forecast for this kappa."""
        return float(predicted(self.time, self._speed(kappa))[-1])

    def instant_lag(self, kappa: float) -> float:
        """Return the lag at the end by the whole gradient, which holds that of the weights' random motion as well."""
        self._speed(kappa)
        return float(predicted(self.time, speed_between(self.instant, kappa))[-1])

    def holds(self, kappa: float) -> bool:
        """Whether the rule will hold, by the lag."""
        return self.lag(kappa) <= TOLERATED

    @property
    def safe_kappa(self) -> float:
        """The largest kappa at which the rule will hold, linear in log kappa; at most the largest recorded one."""
        return safe_kappa({kappa: predicted(self.time, speed) for kappa, speed in self.speeds.items()})

    def gaps(self, kappa: float) -> dict[str, ForecastGap]:
        """Return the forecast gap of each test function. InputError if there is no forecast for this kappa."""
        time = self.curve_time
        tau = warp(time, np.interp(time, self.time, self._speed(kappa)))
        kept = window(time, self.kind)
        found = {}
        for metric, curve in self.curves.items():
            gap = (np.interp(tau, time, curve) - curve)[kept]
            if (curve > 0).all():  # between evaluations a loss falls geometrically rather than along a line
                gap = (np.exp(np.interp(tau, time, np.log(curve))) - curve)[kept]
            largest = float(gap[np.abs(gap).argmax()])
            found[metric] = ForecastGap(largest, float(tolerance(metric, self.kind, curve).value))
        return found

    def gaps_hold(self, kappa: float) -> bool:
        """Whether the rule will hold, by the gaps in natural units."""
        return all(abs(found.gap) <= found.tolerance for found in self.gaps(kappa).values())

    def _speed(self, kappa: float) -> np.ndarray:
        if not 1 <= kappa <= max(self.speeds):
            raise InputError(
                f"{self.experiment}: no forecast for kappa = {kappa:g}; its baseline records speeds for kappa from 1 "
                f"to {max(self.speeds):g}"
            )
        return speed_between(self.speeds, kappa)

    @property
    def document(self) -> dict[str, Any]:
        """The forecast as plain values: what it is made from, and what follows at the recorded kappas."""
        forecasts = [
            {
                "kappa": kappa,
                "lag_at_end": self.lag(kappa),
                "instant_lag_at_end": self.instant_lag(kappa),
                "holds": self.holds(kappa),
                "gaps": {metric: asdict(gap) for metric, gap in self.gaps(kappa).items()},
                "gaps_hold": self.gaps_hold(kappa),
            }
            for kappa in sorted(self.speeds)
        ]
        return {
            "experiment": self.experiment,
            "kind": self.kind,
            "seeds": self.seeds,
            "time": self.time.tolist(),
            "speeds": {f"{kappa:g}": speed.tolist() for kappa, speed in self.speeds.items()},
            "instant": {f"{kappa:g}": speed.tolist() for kappa, speed in self.instant.items()},
            "curve_time": self.curve_time.tolist(),
            "curves": {metric: curve.tolist() for metric, curve in self.curves.items()},
            "tolerated_lag": TOLERATED,
            "safe_kappa": self.safe_kappa,
            "forecasts": forecasts,
        }


@dataclass(frozen=True)
class Diverged:
    """A baseline that diverged, which is a result too: it forecasts nothing."""

    experiment: str
    run: str
    time: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{self.experiment}: no forecast, since {self.run} diverged at time {self.time:.4g}"

    @property
    def document(self) -> dict[str, Any]:
        """What is known, as plain values."""
        return {"experiment": self.experiment, "diverged": {"run": self.run, "time": self.time}}


def make_forecast(paths: Sequence[Path]) -> Forecast | Diverged:
    """Return the forecast from the files of the baseline's runs, all seeds of one experiment. InputError otherwise."""
    results = [result for _, result in read_all(paths)]
    for result in results:
        if result.diverged is not None and not isinstance(result.spec, Simulation):
            return Diverged(result.spec.experiment, result.spec.run, result.diverged)
    return forecast_of(results, str(paths[0]))


def forecast_of(results: Sequence[Result], name: str) -> Forecast:
    """Return the forecast from finished runs.

    Args:
        results: The baseline's runs of one experiment, one per seed.
        name: What errors call them, such as the path of their file.

    Raises:
        InputError: If they are not a baseline, if one diverged, or if they hold no speeds.
    """
    for result in results:
        spec = result.spec
        if isinstance(spec, Simulation) or not spec.is_baseline or spec.origin == "finetune":
            raise InputError(
                f"{name}: {spec.run} is not a baseline; a forecast is made from kappa = ell = 1 under sqrt"
            )
        if result.diverged is not None:
            raise InputError(f"{name}: {spec.run} diverged at time {result.diverged:.4g}; it forecasts nothing")
    (spec, *others), all_curves = [result.spec for result in results], [_curves(result.rows) for result in results]
    if strange := next((other for other in others if other.experiment != spec.experiment), None):
        raise InputError(f"{name}: holds {spec.experiment} and {strange.experiment}; a forecast is of one experiment")
    if len({tuple((metric, *curve[0]) for metric, curve in sorted(curves.items())) for curves in all_curves}) > 1:
        raise InputError(f"{name}: its runs measured other things, or at other times; a forecast is of equal seeds")
    means = {metric: np.mean([curves[metric] for curves in all_curves], axis=0) for metric in all_curves[0]}
    return forecast_from(spec.experiment, spec.origin, len(results), means)


def forecast_from(experiment: str, kind: str, seeds: int, curves: dict[str, np.ndarray]) -> Forecast:
    """Return the forecast from what the baseline measured.

    Args:
        experiment: Name of the experiment.
        kind: ``scratch`` or ``branch``.
        seeds: Number of runs over which the curves are means.
        curves: Times and values, (2, points), by metric.

    Raises:
        InputError: If there are no speeds along the run.
    """
    time, speeds = speeds_along(curves, experiment)
    judged = [m for m in TEST_FUNCTIONS if m in curves and (m != "squared_norm" or kind == "branch")]
    if not judged:
        raise InputError(f"{experiment}: no forecast, since its baseline measured no test function")
    return Forecast(
        experiment=experiment,
        kind=kind,
        seeds=seeds,
        time=time,
        speeds=speeds,
        instant=speeds_along(curves, experiment, SPEED)[1],
        curve_time=curves[judged[0]][0],
        curves={metric: curves[metric][1] for metric in judged},
    )


def _curves(rows):
    """Arrays (2, points), times and values, by metric."""
    points: dict[str, list] = {}
    for _, _, time, metric, value in rows:
        points.setdefault(metric, []).append((time, value))
    return {metric: np.transpose(pairs) for metric, pairs in points.items()}


def write_forecast(forecast: Forecast | Diverged, path: str | Path) -> None:
    """Write a forecast as JSON with its SHA-256, whole or not at all."""
    document = forecast.document
    with atomic(path) as temporary:
        temporary.write_text(canonical({**document, "sha256": digest(canonical(document))}) + "\n", encoding="utf-8")


def read_forecasts(folder: Path) -> dict[str, Forecast]:
    """Return the forecasts of a scale by experiment: those in the folder ``forecasts`` beside its tables."""
    found = (read_forecast(path) for path in sorted(Path(folder, "forecasts").glob("*.json")))
    return {forecast.experiment: forecast for forecast in found if isinstance(forecast, Forecast)}


def read_forecast(path: str | Path) -> Forecast | Diverged:
    """Return the forecast in a file. InputError if there is none, another file, or one that was changed."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it from the baseline's runs, by `adasde forecast`")
    text = read_text(path)
    try:
        found = json.loads(text)
        whole = found.pop("sha256") == digest(canonical(found))
        if "diverged" in found:
            forecast: Forecast | Diverged = Diverged(found["experiment"], **found["diverged"])
        else:
            forecast = Forecast(
                experiment=str(found["experiment"]),
                kind=str(found["kind"]),
                seeds=int(found["seeds"]),
                time=np.array(found["time"], float),
                speeds=_arrays(found["speeds"]),
                instant=_arrays(found["instant"]),
                curve_time=np.array(found["curve_time"], float),
                curves={metric: np.array(curve, float) for metric, curve in found["curves"].items()},
            )
    except MALFORMED as error:
        raise InputError(f"{path}: no forecast, or a damaged one ({type(error).__name__})") from error
    if not whole:
        raise InputError(f"{path}: damaged (not what was written); delete it and make it again")
    return forecast


def _arrays(speeds):
    return {float(kappa): np.array(speed, float) for kappa, speed in speeds.items()}
