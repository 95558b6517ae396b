"""What finished runs of one cell predict: how far the square-root rule makes larger batches fall behind them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adasde.analysis.lags import lags_of_run
from adasde.common import InputError, text_table
from adasde.experiments.artifacts import read_all
from adasde.experiments.specs import Simulation
from adasde.scaling import lag


@dataclass(frozen=True)
class Prediction:
    """Predicted lags (points,) by kappa, means over ``seeds``, of those kappas that the rule can reach.

    ``betas`` are the run's that average; ``constant`` says whether its learning rate is, as the prediction presumes.
    """

    name: str
    batch_size: int
    seeds: int
    lags: dict[float, np.ndarray]
    betas: tuple[float, ...]
    constant: bool

    @property
    def limit(self) -> float:
        """The kappa below which the rule leaves every beta above 0."""
        return _limit(self.betas)

    @property
    def document(self) -> dict[str, Any]:
        """The prediction as plain values."""
        rows = [
            {"kappa": kappa, "batch_size": self.batch_size * kappa, "lag_at_end": c[-1], "largest_lag": c.max()}
            for kappa, c in self.lags.items()
        ]
        return {
            "run": self.name,
            "tolerated_lag": lag.TOLERATED,
            "safe_kappa": lag.safe_kappa(self.lags),
            "largest_kappa": lag.largest_kappa(self.lags, self.betas),
            "rule_needs_kappa_below": self.limit if self.betas else None,
            "lags": rows,
        }

    def __str__(self) -> str:
        """Return the prediction as a table with its conclusion."""
        over = f", mean over {self.seeds} seeds" if self.seeds > 1 else ""
        rows = [("kappa", "batch size", "at the end", "largest")]
        for kappa, curve in self.lags.items():
            ends = f"{100 * curve[-1]:.1f}%", f"{100 * curve.max():.1f}%"
            rows.append((f"{kappa:g}", f"{self.batch_size * kappa:g}", *ends))
        safe, largest = lag.safe_kappa(self.lags), lag.largest_kappa(self.lags, self.betas)
        reach = "at least " if safe == max(self.lags) else ""
        betas = f"; {largest:.3g} with every beta at 0.5 or above; the rule needs kappa < {self.limit:g}"
        lines = [
            f"{self.name}: predicted lag, as a share of the samples seen, "
            f"if the square-root rule scales this run{over}",
            text_table(rows),
            f"largest kappa with a predicted lag under {100 * lag.TOLERATED:g}% at the end: {reach}{safe:.3g} "
            f"(linear in log kappa between the rows{betas if self.betas else ''})",
        ]
        if not self.constant:
            lines.append("warning: the run's learning rate is not constant, as the prediction presumes")
        return "\n".join(lines)


def predict_lags(path: Path) -> Prediction:
    """Return what the runs in a file predict.

    InputError unless they are plain training runs that came to their end, each there once.
    """
    results = [result for _, result in read_all([path])]
    spec = results[0].spec
    if isinstance(spec, Simulation) or spec.ell != 1:
        kind = "a simulation" if isinstance(spec, Simulation) else f"SVAG at ell = {spec.ell:g}"
        raise InputError(f"{path}: holds {kind}; a prediction needs a plain training run")
    curves = [lags_of_run(result.rows, path) for result in results]
    if any(curve.keys() != curves[0].keys() for curve in curves):
        raise InputError(f"{path}: its runs recorded speeds at other kappas than each other; name seeds of one run")
    betas = tuple(value for name in ("beta1", "beta2", "beta") if (value := getattr(spec.optimizer, name, 0)) > 0)
    # The smallest kappa stays even where the rule cannot reach it.
    reached = [kappa for kappa in curves[0] if kappa < _limit(betas)] or [min(curves[0])]
    return Prediction(
        name=spec.run if len(results) == 1 else spec.cell,
        batch_size=spec.batch_size,
        seeds=len(results),
        lags={kappa: sum(curve[kappa] for curve in curves) / len(curves) for kappa in reached},
        betas=betas,
        constant=spec.schedule.constant,
    )


def _limit(betas: tuple[float, ...]) -> float:
    return round(1.0 / (1.0 - min(betas)), 6) if betas else math.inf
