"""Simulations by name: what is studied, on which oracle. The registry imports no torch, so that plans stay fast.

A *simulation* takes oracles where a run takes a task: its processes (the algorithm, SVAG, the SDE) are followed on many
paths, and its rows are means of test functions over batches of paths.

  weak-order   the error of the SDE as the algorithm's step shrinks, both driven by one Brownian path
  convergence  SVAG on real data as ell grows, and the SDE itself
  breakdown    the algorithm scaled by kappa, and the lag that its baseline predicts
"""

from dataclasses import dataclass

from adasde.common import InputError
from adasde.scaling.clock import steps_until
from adasde.scaling.hyperparameters import (
    AdamHyperparameters,
    RMSpropHyperparameters,
    SDEConstants,
    SGDHyperparameters,
    hyperparameters_named,
)
from adasde.scaling.rules import scaled_batch_size
from adasde.workloads.data.registry import dataset_named


@dataclass(frozen=True)
class Oracle:
    """An oracle's name in figures, and the data set that it needs, if any."""

    title: str
    data: str | None = None


ORACLES = {
    "linear": Oracle("linear"),
    "quadratic": Oracle("quadratic"),
    "double-well": Oracle("double well"),
    "softmax": Oracle("softmax regression on Fashion-MNIST", data="fashion-mnist"),
    "hidden-layer": Oracle("one hidden layer on Fashion-MNIST", data="fashion-mnist"),
}

STUDIES = {
    "weak-order": ("linear", "quadratic", "double-well"),
    "convergence": ("softmax", "hidden-layer"),
    "breakdown": ("linear", "quadratic", "double-well", "softmax", "hidden-layer"),
}


def oracle_named(name: str) -> Oracle:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in ORACLES:
        raise InputError(f"oracle = {name!r}: must be one of {', '.join(ORACLES)}")
    return ORACLES[name]


def simulation_specs(name: str, simulation: dict, recipe: int):
    """Yield one spec per oracle and optimizer of a config's simulation, whose values are plain."""
    rest = {key: value for key, value in simulation.items() if key not in ("oracles", "optimizers", "variants")}
    for oracle in simulation["oracles"]:
        for optimizer, values in simulation["optimizers"].items():
            own = {"optimizer": {"name": optimizer, **values}, "init_seed": 0}
            if simulation["study"] == "weak-order":
                variants = simulation.get("variants", ["paper"]) if optimizer == "rmsprop" else ["paper"]
                own = {"optimizer": {"name": optimizer}, "constants": values, "variants": variants}
            run = f"{name}.{oracle}.{optimizer}"
            yield {"recipe": recipe, "run": run, "simulation": name, "oracle": oracle, **rest, **own}


def check_simulation(spec: dict):
    """InputError unless ``spec``, which has passed its schema, can be simulated."""
    study, oracle = spec["study"], spec["oracle"]
    oracle_named(oracle)
    if oracle not in STUDIES[study]:
        raise InputError(f"oracle = {oracle!r}: {study} can study {', '.join(STUDIES[study])}")
    if study == "weak-order":
        _check_weak_order(spec)
        return
    h = hyperparameters_named(**spec["optimizer"])
    if ORACLES[oracle].data:
        if "examples" not in spec:
            raise InputError(f"examples: missing, and {oracle} sums over them")
        available = dataset_named(ORACLES[oracle].data).train_size
        if spec["examples"] > available:
            raise InputError(f"examples = {spec['examples']}: larger than the {available:,} training examples")
    if spec["evaluate"] != sorted(set(spec["evaluate"])):
        raise InputError(f"evaluate = {spec['evaluate']}: must increase")
    if study == "convergence":
        if 1 not in spec["ell"]:
            raise InputError(f"ell = {spec['ell']}: must contain 1, the algorithm itself")
        for parts in spec["parts"]:
            if max(spec["parts"]) % parts:
                raise InputError(f"parts = {spec['parts']}: the largest must be a multiple of each, to share its paths")
        for ell in spec["ell"]:
            h.svag(ell)
            for steps in spec["evaluate"]:
                steps_until("evaluate", steps, 1.0 / ell**2)
        return
    if 1 not in spec["kappas"]:
        raise InputError(f"kappas = {spec['kappas']}: must contain 1, the baseline")
    for kappa in spec["kappas"]:
        h.scaled(kappa)
        scaled_batch_size(spec["batch_size"], kappa)
        for steps in spec["evaluate"]:
            steps_until("evaluate", steps, kappa)


def _check_weak_order(spec):
    constants = SDEConstants(**spec["constants"])
    if constants.c1 is not None and spec["start"] <= 0:
        raise InputError(f"start = {spec['start']:g}: must be > 0, since Adam's equation is singular at 0")
    steps_until("horizon", spec["horizon"], spec["step"], spec["start"])
    for time_step in spec["time_steps"]:
        hyperparameters_of(constants, time_step)
        steps_until("time_steps", time_step, spec["step"])
        steps_until("start", spec["start"], time_step)
        steps_until("horizon", spec["horizon"], time_step, spec["start"])


def hyperparameters_of(constants: SDEConstants, time_step: float):
    """Return the hyperparameters at which a step of ``time_step`` has the SDE of ``constants``."""
    if constants.c2 is None:
        return SGDHyperparameters(time_step)
    lr = time_step**0.5
    beta2, eps = 1.0 - constants.c2 * time_step, constants.eps0 / lr
    return (
        RMSpropHyperparameters(lr, beta2, eps)
        if constants.c1 is None
        else AdamHyperparameters(lr, 1.0 - constants.c1 * time_step, beta2, eps)
    )


def path_steps(spec: dict) -> int:
    """Return how many steps of single paths a simulation takes: its work, of which each is about the same."""
    if spec["study"] == "weak-order":
        span = spec["horizon"] - spec["start"]
        steps = 1 / spec["step"] + len(spec["variants"]) * sum(1 / eta2 for eta2 in spec["time_steps"])
        return round(spec["batches"] * spec["paths"] * span * steps)
    steps = spec["evaluate"][-1]
    if spec["study"] == "convergence":
        svag, sde = sum(ell**2 for ell in spec["ell"]), sum(spec["parts"])
        return round(spec["batches"] * steps * (spec["paths"] * svag + spec["sde_paths"] * sde))
    return round(spec["batches"] * steps * spec["paths"] * sum(1 / kappa for kappa in spec["kappas"]))
