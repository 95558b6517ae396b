"""From a config to the table of runs: pure, and without torch, so that a workflow can be planned in a second."""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from adasde.common import InputError
from adasde.experiments.config import Branching, Config, Evaluate, Experiment, Finetuning, Study, config_of
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import RECIPE, AnySpec, Training, spec_of
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.lag import KAPPAS
from adasde.scaling.rules import SQRT, rule_named, scaled_batch_size
from adasde.workloads.registry import Entry, counted, workload_named

# Options of a run. A default is left out of the spec, so that a new option changes no hash.
OPTIONS = ("device", "precision", "engine", "processes", "micro_batch", "frozen", "tested")


def plan(document: Any) -> Plan:
    """Multiply a config, as YAML holds it, out into one spec per run.

    Raises InputError, in one line: the field that is wrong, its value, what is allowed.
    """
    config = config_of(document)
    runs: dict[str, AnySpec] = {}
    for section, specs in (
        ("experiments", lambda name, experiment: _trained(name, experiment, config)),
        ("branches", lambda name, branching: _branched(name, branching, config, runs)),
        ("finetunings", lambda name, finetuning: _finetuned(name, finetuning, config, runs)),
        ("simulations", _simulated),
    ):
        for name, content in getattr(config, section).items():
            try:
                for values in specs(name, content):
                    spec = spec_of(values)
                    if spec.run in runs:
                        raise InputError(
                            f"{spec.run} is a run already; sections must differ in their names, kappas and ells in "
                            "their first six digits"
                        )
                    runs[spec.run] = spec
            except InputError as error:
                raise InputError(f"{section}.{name}: {error}") from error
    return Plan(config.scale, runs, tuple(config.figures), config.job)


def _trained(name: str, experiment: Experiment, config: Config) -> Iterator[dict[str, Any]]:
    """Yield the specs of one experiment, in the order rule, kappa or ell, seed."""
    workload, shared = _shared(name, experiment, config)
    base, given = experiment.optimizer.hyperparameters, experiment
    yield from _compared(given, workload, shared, base, given.batch_size, given.clip, given.micro_batch)


def _branched(name: str, branching: Branching, config: Config, runs: dict[str, AnySpec]) -> Iterator[dict[str, Any]]:
    """Yield the specs of the runs that start from one state of another experiment's baseline."""
    if branching.parent not in config.experiments:
        raise InputError(f"parent = {branching.parent!r}: must be one of {', '.join(config.experiments)}")
    experiment, size = config.experiments[branching.parent], branching.batch_size
    parent = next(
        s for s in runs.values() if type(s) is Training and s.experiment == branching.parent and s.is_baseline
    )
    workload = workload_named(parent.workload)
    seen = parent.batch_size * int(branching.at * workload.train_size / parent.batch_size + 1e-9)
    if not 0 < seen <= parent.samples:
        raise InputError(
            f"at = {branching.at:g}: {branching.parent} has a state from {parent.batch_size / workload.train_size:.3g} "
            f"to {parent.samples / workload.train_size:.4g} epochs"
        )
    factor = parent.schedule.factor((seen - parent.batch_size) / parent.samples, seen / parent.samples)
    kappa = size / parent.batch_size
    base = parent.optimizer.hyperparameters.scaled(kappa)
    base = replace(base, lr=base.lr * factor)
    samples, evaluations = _evaluations(branching.epochs, branching.evaluate, workload)
    own = {
        **{key: value for key, value in parent.document.items() if key in ("workload", "optimizer", *OPTIONS)},
        **({} if branching.micro_batch is None else {"micro_batch": branching.micro_batch}),
        "tested": branching.evaluate.tested,
        "recipe": RECIPE,
        "experiment": name,
        "init_seed": parent.init_seed,
        "sampling": parent.sampling,
        "samples": samples,
        "horizon": base.lr**2 * samples / size,
        "schedule": {},
        "evaluate": evaluations,
        "parent": {"run": parent.run, "spec_hash": parent.hash, "samples": seen},
    }
    clip = None if experiment.clip is None else experiment.clip * kappa**SQRT.clip
    left = -seen % workload.train_size
    plain = list(_compared(branching, workload, own, base, size, clip, own.get("micro_batch")))
    for values in plain:
        drawn = values["ell"] ** 2 * samples * (1 if values["ell"] == 1 else 2)
        if parent.sampling == "epoch" and drawn > left:
            raise InputError(
                f"epochs = {branching.epochs:g}: {values['run']} draws {drawn:g} examples, and its parent leaves "
                f"{left} of its pass unseen at {branching.at:g} epochs; a branch must not replay them"
            )
    yield from plain
    for way in (way for way in branching.second_moments if way != "transport"):
        for values in plain:
            if values["rule"] == "sqrt" and values["kappa"] != 1:
                cell, _, seed = values["run"].rpartition(".")
                yield {**values, "run": f"{cell}.{way}.{seed}", "second_moment": way}


def _compared(
    content: Experiment | Branching,
    workload: Entry,
    shared: dict[str, Any],
    base: AdamHyperparameters | RMSpropHyperparameters,
    batch_size: int,
    clip: float | None = None,
    micro_batch: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the specs of a baseline and all that is compared with it, in the order rule, kappa or ell, seed.

    The values of ``shared`` are those of every spec; ``base``, ``batch_size``, ``clip`` and ``micro_batch`` are the
    baseline's.
    """
    if 1 not in content.rules["sqrt"]:
        raise InputError(f"rules.sqrt = {content.rules['sqrt']}: must contain 1, the baseline")
    for kappa in content.more_seeds.kappas if content.more_seeds else ():
        if kappa == 1 or kappa not in content.rules["sqrt"]:
            raise InputError(f"more_seeds = {kappa:g}: must be a kappa above 1 of rules.sqrt, {content.rules['sqrt']}")
    if content.evaluate.noise == 0 and len(content.rules["sqrt"]) > 1:
        raise InputError(f"evaluate.noise = 0: kappa {content.rules['sqrt']} need a forecast; must be at least 2")
    for rule, kappa, ell in _levels(content):
        hyperparameters = asdict(base.scaled(kappa, rule) if ell == 1 else base.svag(ell))
        size = scaled_batch_size(batch_size, kappa)
        _check_size(size, content.evaluate.every, workload, f" (kappa {kappa:g})")
        own = {}
        if clip is not None:  # SVAG at ell is the square-root rule at 1 / ell^2
            power = rule_named(rule if ell == 1 else "sqrt").clip
            own["clip"] = clip * (kappa if ell == 1 else ell**-2.0) ** power
        if ell == 1 and rule_named(rule).micro_batches:  # a pass over each base batch, unless they are smaller already
            own["micro_batch"] = micro_batch or batch_size // shared.get("processes", 1)
        if rule == "sqrt" and kappa == 1:
            own["noise"] = _spread([0, *shared["evaluate"]], content.evaluate.noise) if content.evaluate.noise else []
        level = f"k{kappa:g}" if ell == 1 else f"l{ell:g}"
        for seed in range(content.seeds_at(rule, kappa, ell)):
            yield {
                **shared, **own, "run": f"{shared['experiment']}.{rule}.{level}.s{seed}",
                "optimizer": {**shared["optimizer"], **hyperparameters},
                "rule": rule, "kappa": kappa, "ell": ell, "batch_size": size, "seed": seed,
            }  # fmt: skip


def _spread(values: list[int], count: int) -> list[int]:
    """Return ``count`` of the values, the first and the last among them, evenly spread."""
    last = len(values) - 1
    return [values[place] for place in sorted({round(last * i / (count - 1)) for i in range(count)})]


def _levels(experiment: Experiment | Branching) -> Iterator[tuple[str, float, float]]:
    """Yield (rule, kappa, ell) of an experiment: every rule at its kappas, then SVAG at every ell above 1."""
    for rule, kappas in experiment.rules.items():
        rule_named(rule)
        for kappa in kappas:
            if kappa == 1 and rule != "sqrt":
                raise InputError(f"rules.{rule}: at kappa = 1 every rule is the baseline; leave 1 to sqrt")
            if rule == "sqrt" and not 1 <= kappa <= KAPPAS[-1]:
                raise InputError(
                    f"rules.sqrt = {kappa:g}: a baseline forecasts kappa from 1 to {KAPPAS[-1]}; take the smallest "
                    "batch as the baseline"
                )
            yield rule, kappa, 1
    if 1 not in experiment.ell:
        raise InputError(f"ell = {experiment.ell}: must contain 1, the plain run that the others are compared with")
    yield from (("svag", 1, ell) for ell in experiment.ell if ell != 1)


def _finetuned(name: str, finetuning: Finetuning, config: Config, runs: dict) -> Iterator[dict[str, Any]]:
    """Yield the specs of the runs that start from the final weights of another experiment's, under the rule sqrt.

    Beside them, ``scratch`` runs start from new weights: they tell what the workload gives without pre-training.
    """
    workload, shared = _shared(name, finetuning, config)
    if workload.pretrained is None:
        raise InputError(f"workload = {finetuning.workload!r}: does not start from pre-trained weights")
    able = [s for s in runs.values() if type(s) is Training and (s.rule, s.workload) == ("sqrt", workload.pretrained)]
    parents = [spec for spec in able if spec.experiment == finetuning.pretrained]
    if not parents:
        known = ", ".join(dict.fromkeys(spec.experiment for spec in able)) or "none of this config"
        raise InputError(
            f"pretrained = {finetuning.pretrained!r}: must be an experiment of {workload.pretrained}: {known}"
        )
    size, count = finetuning.batch_size, finetuning.seeds
    _check_size(size, finetuning.evaluate.every, workload, "")
    optimizer = {**shared["optimizer"], **asdict(finetuning.optimizer.hyperparameters)}
    clip = {} if finetuning.clip is None else {"clip": finetuning.clip}
    common = {**shared, **clip, "optimizer": optimizer, "ell": 1, "batch_size": size}
    for parent in parents:
        for number in range(count):
            seed = parent.seed * count + number
            yield {
                **common, "run": f"{name}.k{parent.kappa:g}.s{seed}",
                "rule": "finetune", "kappa": parent.kappa, "seed": seed,
                "parent": {"run": parent.run, "spec_hash": parent.hash},
            }  # fmt: skip
    for seed in range(finetuning.scratch):
        yield {**common, "run": f"{name}.scratch.s{seed}", "rule": "scratch", "kappa": 1, "seed": seed}


def _simulated(name: str, simulation: Study) -> Iterator[dict[str, Any]]:
    """Yield a spec per oracle and optimizer of a simulation."""
    values = simulation.model_dump(exclude_unset=True)
    optimizers, oracles, variants = values.pop("optimizers"), values.pop("oracles"), values.pop("variants", ["paper"])
    for oracle in oracles:
        for optimizer, numbers in optimizers.items():
            own = {"optimizer": {"name": optimizer, **numbers}, "init_seed": 0}
            if simulation.study == "weak-order":
                used = variants if optimizer == "rmsprop" else ["paper"]
                own = {"optimizer": {"name": optimizer}, "constants": numbers, "variants": used}
            run = f"{name}.{oracle}.{optimizer}"
            yield {"recipe": RECIPE, "run": run, "simulation": name, "oracle": oracle, **values, **own}


def _shared(name: str, content: Experiment | Finetuning, config: Config) -> tuple[Entry, dict[str, Any]]:
    """Return the workload of an experiment or finetuning, and what all of its specs share."""
    workload = counted(content.workload)
    if content.sampling not in ("replacement", "epoch"):
        raise InputError(f"sampling = {content.sampling!r}: must be replacement or epoch")
    samples, evaluations = _evaluations(content.epochs, content.evaluate, workload)
    base, options = (
        content.optimizer,
        {"device": config.device, **content.model_dump(), "tested": content.evaluate.tested},
    )
    defaults = {name: Training.model_fields[name].default for name in OPTIONS}
    return workload, {
        "recipe": RECIPE,
        "experiment": name,
        "workload": content.workload,
        "optimizer": {"name": base.name, "variant": base.variant},
        "init_seed": 0,
        "sampling": content.sampling,
        "samples": samples,
        "horizon": base.hyperparameters.lr**2 * samples / content.batch_size,
        "schedule": content.schedule.model_dump(exclude_unset=True),
        "evaluate": evaluations,
        **{key: options[key] for key in OPTIONS if key in options and options[key] != defaults[key]},
    }


def _check_size(size: int, every: int, workload: Entry, which: str) -> None:
    """InputError unless a batch size fits into the data and into the intervals between evaluations."""
    if size > workload.train_size:
        raise InputError(f"batch_size = {size}{which}: larger than the {workload.train_size} training examples")
    if every % size:
        raise InputError(
            f"evaluate.every = {every}: batch size {size}{which} does not divide it; {math.lcm(every, size)} would do"
        )


def _evaluations(epochs: float, evaluate: Evaluate, workload: Entry) -> tuple[int, list[int]]:
    """Return the samples of the run and those at each evaluation: multiples of ``every``, denser at the start."""
    count, every = evaluate.count, evaluate.every
    if evaluate.tested is not None and evaluate.tested > workload.tested:  # its cost would count what is not there
        raise InputError(f"evaluate.tested = {evaluate.tested}: larger than the {workload.tested} examples to test")
    intervals = int(epochs * workload.train_size / every + 1e-9)
    if intervals < count:
        raise InputError(
            f"evaluate.count = {count}: the run has only {intervals} intervals of {every} samples; "
            "take fewer evaluations, a smaller evaluate.every or more epochs"
        )
    evaluations = [every * max(i, round(intervals * (i / count) ** 2)) for i in range(1, count + 1)]
    return every * intervals, evaluations
