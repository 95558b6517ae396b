"""What the simulations say of the paper's theorems: the order of weak approximation, and SVAG's way to the SDE."""

import numpy as np

from adasde.analysis import statistics, weak_error
from adasde.analysis.claims.report import row
from adasde.experiments.studies import ORACLES

# An order is told from its neighbours, 1/2 and 3/2, if its interval is closer to 1 than a quarter.
ORDER_TOLERANCE = 0.25

# SVAG has come closer to the SDE if at its largest ell the distance is below half of the algorithm's own.
APPROACH = 0.5


def simulation_claims(simulations) -> list[dict]:
    """Return one row per claim that the simulations can speak to."""
    rows = []
    weak = simulations[simulations["study"] == "weak-order"]
    for optimizer in weak["optimizer"].unique():
        part = weak[weak["optimizer"] == optimizer]
        runs = [(name, run["process"]) for name, run in part.groupby("run", sort=False)]
        found = [name for name, processes in runs if "paper" in set(processes)]
        if found:
            rows.append(order(simulations, optimizer, found))
        for name, processes in runs:
            variants = [v for v in processes.unique() if v not in ("sde", "paper")]
            rows += [shared_limit(simulations, name, variant) for variant in variants]
    converging = simulations.loc[simulations["study"] == "convergence", "run"].unique()
    return rows + [approach(simulations, run) for run in converging]


def order(simulations, optimizer, runs) -> dict:
    """The paper's theorems: the SDE is a weak approximation of order 1 in eta^2, over oracles and test functions."""
    parts = [weak_error.weak_order(simulations, run, "paper") for run in runs]
    oracles = [simulations.loc[simulations["run"] == run, "oracle"].iloc[0] for run in runs]
    slopes = [
        f"{ORACLES[oracle].title} {part.fitted(part.gaps.mean(axis=0)):.2f}"
        for oracle, part in zip(oracles, parts, strict=True)
    ]
    return _order(
        f"order.{optimizer}",
        f"the SDE of {optimizer} approximates it with order 1 in eta^2",
        parts[0].join(*parts[1:]),
        ", ".join(slopes),
    )


def shared_limit(simulations, run, variant) -> dict:
    """Practice's RMSprop follows the SDE of the paper's, with the same order."""
    errors = weak_error.weak_order(simulations, run, variant)
    return _order(
        f"order.rmsprop-{variant}", f"RMSprop as in {variant} has the SDE of the paper's RMSprop", errors, run
    )


def _order(name, statement, errors, note):
    slope, replicates = errors.slope()
    return row(
        id=name,
        place="approximation theorems",
        statement=statement,
        statistic="distance from 1 of the slope of the error of means, over oracles and test functions, against eta^2",
        value=abs(slope - 1.0),
        bounds=statistics.largest(np.array([slope - 1.0]), (replicates - slope)[:, None]),
        n=len(errors.gaps),
        threshold=ORDER_TOLERANCE,
        below=True,
        note="slope {:.3f} [{:.3f}, {:.3f}]; {}".format(slope, *statistics.interval(replicates), note),
        diverged=[],
    )


def approach(simulations, run) -> dict:
    """SVAG on real data comes closer to the integrated SDE as ell grows."""
    errors = weak_error.convergence(simulations, run)
    resolved = errors.resolved()
    slope, replicates = resolved.slope()
    distances = ", ".join(f"l{level:g} {error:.2f}" for level, error in zip(errors.levels, errors.error, strict=True))
    low, high = sorted(-np.array(statistics.interval(replicates)))
    seen = (
        f"order {-slope:.2f} [{low:.2f}, {high:.2f}] in ell up to {resolved.levels[-1]:g}"
        if np.isfinite(slope)
        else ("no order can be told")
    )

    def fall(mean):
        total = errors.total(mean)
        return total[-1] / total[0]

    return row(
        id=f"svag-to-sde.{run}",
        place="SVAG",
        statement=f"SVAG at ell = {errors.levels[-1]:g} is closer to the SDE than the algorithm, by half at least",
        statistic="distance of means from the integrated SDE, largest ell / ell 1, over test functions and times",
        value=fall(errors.gaps.mean(axis=0)),
        bounds=statistics.interval(statistics.bootstrap(errors.gaps, fall)),
        n=len(errors.gaps),
        threshold=APPROACH,
        below=True,
        note=f"distances in path deviations: {distances}; noise {errors.noise.max():.2f}; {seen}",
        diverged=[],
    )
