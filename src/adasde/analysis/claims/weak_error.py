"""The approximation theorems, simulated: the SDE's order of weak approximation, and SVAG's way to the SDE."""

import numpy as np
import pandas as pd

from adasde.analysis import statistics, weak_error
from adasde.analysis.claims.base import ClaimRow, row, simulation_claim
from adasde.experiments.oracles import ORACLES

ORDER_TOLERANCE = 0.25
APPROACH = 0.5


@simulation_claim
def order(simulations: pd.DataFrame) -> list[ClaimRow]:
    """The SDE is a weak approximation of order 1 in eta^2, of the paper's algorithms and of practice's variants."""
    rows = []
    weak = simulations[simulations["study"] == "weak-order"]
    for optimizer, part in weak.groupby("optimizer", sort=False):
        parts, slopes, variants = [], [], []
        for (run, process), found in part[part["process"] != "sde"].groupby(["run", "process"], sort=False):
            errors = weak_error.weak_order(simulations, run, process)
            if process == "paper":
                parts.append(errors)
                slopes.append(f"{ORACLES[found['oracle'].iloc[0]].title} {errors.slope()[0]:.2f}")
            else:
                statement = f"RMSprop as in {process} has the SDE of the paper's RMSprop"
                variants.append(_order(f"rmsprop-{process}", statement, errors, run))
        if parts:
            statement = f"the SDE of {optimizer} approximates it with order 1 in eta^2"
            rows.append(_order(optimizer, statement, parts[0].join(*parts[1:]), ", ".join(slopes)))
        rows += variants
    return rows


def _order(subject, statement, errors, note):
    slope, replicates = errors.slope()
    return row(
        claim="order",
        about=subject,
        place="approximation theorems",
        statement=statement,
        statistic="distance from 1 of the slope of the error of means, over oracles and test functions, against eta^2",
        value=abs(slope - 1.0),
        bounds=statistics.largest(np.array([slope - 1.0]), (replicates - slope)[:, None]),
        n=len(errors.gaps),
        tolerance=ORDER_TOLERANCE,
        reason="nearer to order 1 than half-way to its neighbours, 1/2 and 3/2 (ours)",
        note="slope {:.3f} [{:.3f}, {:.3f}]; {}".format(slope, *statistics.interval(replicates), note),
        figure="weak-order",
    )


@simulation_claim
def approach(simulations: pd.DataFrame) -> list[ClaimRow]:
    """SVAG on real data comes closer to the integrated SDE as ell grows."""
    runs = simulations.loc[simulations["study"] == "convergence", "run"].unique()
    return [_approach(weak_error.convergence(simulations, run), run) for run in runs]


def _approach(errors, run):
    def fall(mean):
        total = errors.total(mean)
        return total[-1] / total[0]

    resolved = errors.resolved()
    slope, replicates = resolved.slope()
    distances = ", ".join(f"l{level:g} {error:.2f}" for level, error in zip(errors.levels, errors.error, strict=True))
    seen = "no order can be told"
    if np.isfinite(slope):
        low, high = sorted(-np.array(statistics.interval(replicates)))
        seen = f"order {-slope:.2f} [{low:.2f}, {high:.2f}] in ell up to {resolved.levels[-1]:g}"
    return row(
        claim="svag-to-sde",
        about=run,
        place="SVAG",
        statement=f"SVAG at ell = {errors.levels[-1]:g} is closer to the SDE than the algorithm, by half at least",
        statistic="distance of means from the integrated SDE, largest ell / ell 1, over test functions and times",
        value=fall(errors.gaps.mean(axis=0)),
        bounds=statistics.interval(statistics.bootstrap(errors.gaps, fall)),
        n=len(errors.gaps),
        tolerance=APPROACH,
        reason="half of the algorithm's own distance is a clear approach (ours)",
        note=f"distances in path deviations: {distances}; noise {errors.monte_carlo_error.max():.2f}; {seen}",
        figure="sde-real-data",
    )
