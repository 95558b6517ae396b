"""How fast the algorithm approaches its SDE: errors of means over paths, from the table of simulations.

Errors of the weak-order study are relative to the test function's root mean square over paths. Those of the convergence
study are in its standard deviation over paths. They are means over batches of paths, so their Monte Carlo error is
known.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from adasde.analysis import statistics


@dataclass(frozen=True)
class Errors:
    """Differences between processes and the SDE: ``gaps`` is (batches, levels, points), in the study's unit.

    ``levels`` are what the study varies, ascending. Points are test functions, at each recorded time.
    """

    levels: np.ndarray
    gaps: np.ndarray

    def total(self, mean: np.ndarray) -> np.ndarray:
        """Root mean square over points of a mean gap, (levels, points) -> (levels,)."""
        return np.sqrt((mean**2).mean(axis=-1))

    @property
    def error(self) -> np.ndarray:
        """The total error at every level."""
        return self.total(self.gaps.mean(axis=0))

    @property
    def monte_carlo_error(self) -> np.ndarray:
        """Monte Carlo error of the total error at every level: its size if there were no error; NaN for one batch."""
        if len(self.gaps) < 2:
            return np.full(len(self.levels), np.nan)
        return np.sqrt((self.gaps.var(axis=0, ddof=1) / len(self.gaps)).mean(axis=-1))

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95% interval of the error at every level, (2, levels)."""
        return statistics.interval(statistics.bootstrap(self.gaps, self.total))

    def resolved(self) -> "Errors":
        """The levels whose error is above twice its Monte Carlo error: only these tell an order."""
        seen = self.error > 2.0 * self.monte_carlo_error
        return Errors(self.levels[seen], self.gaps[:, seen])

    def slope(self) -> tuple[float, np.ndarray]:
        """Slope of log error against log level, and its bootstrap replicates; NaN with fewer than two levels."""

        def fitted(mean):
            return statistics.slope(self.levels, self.total(mean)) if len(self.levels) > 1 else np.nan

        return fitted(self.gaps.mean(axis=0)), statistics.bootstrap(self.gaps, fitted)

    def join(self, *others: "Errors") -> "Errors":
        """The same levels with the points of all."""
        return Errors(self.levels, np.concatenate([self.gaps, *(other.gaps for other in others)], axis=2))


def weak_order(simulations: pd.DataFrame, run: str, process: str) -> Errors:
    """Errors of a weak-order study's process at every time step; batches share their Brownian paths with the SDE."""
    rows = simulations[simulations["run"] == run]
    return _errors(rows[rows["process"] == process], rows[rows["process"] == "sde"], np.hypot)


def convergence(simulations: pd.DataFrame, run: str, process: str = "svag") -> Errors:
    """Errors of SVAG at every ell, or of the integrations at every number of steps, against the `integrated` SDE."""
    rows = simulations[simulations["run"] == run]
    rows = rows[rows["time"] > rows["time"].min()]  # all paths start at one point
    return _errors(rows[rows["process"] == process], integrated(rows), lambda mean, deviation: deviation)


def integrated(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the integrated SDE: its finest two integrations, which share their paths, extrapolated to steps of 0.

    Euler-Maruyama's error of means is of order 1 in the step, and that of the extrapolation of order 2 (Talay and
    Tubaro, 1990). A single integration stands for itself.
    """
    exact = rows[rows["process"] == "sde"]
    levels = np.sort(exact["level"].unique())
    finest = exact[exact["level"] == levels[-1]]
    if len(levels) == 1:
        return finest
    keys = ["run", "batch", "time", "metric"]
    values = finest.set_index(keys)["value"]
    coarse = exact[exact["level"] == levels[-2]].set_index(keys)["value"].reindex(values.index)
    extrapolated = values + (values - coarse) / (levels[-1] / levels[-2] - 1.0)
    means = ~finest["metric"].str.endswith("_deviation").to_numpy()
    return finest.assign(value=np.where(means, extrapolated, values))


def function_names(rows: pd.DataFrame) -> list[str]:
    """Names of the test functions in the rows of a simulation."""
    return [name for name in rows["metric"].unique() if not name.endswith("_deviation")]


def _errors(rows, exact, size):
    """Gaps of ``rows`` to the SDE's, in units of ``size(mean, deviation)`` of each test function under the SDE."""
    names = function_names(exact)

    def array(part, metrics):
        table = part[part["metric"].isin(metrics)].pivot(index="batch", columns=["metric", "time"], values="value")
        return table.reindex(columns=metrics, level="metric").to_numpy()

    reference = array(exact, names)
    sizes = size(reference.mean(axis=0), array(exact, [f"{name}_deviation" for name in names]).mean(axis=0))
    levels = np.sort(rows["level"].unique())
    gaps = [array(rows[rows["level"] == level], names) - reference for level in levels]
    return Errors(levels, np.stack(gaps, axis=1) / sizes)
