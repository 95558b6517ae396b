"""From a config to the table of runs: pure, and without torch, so that a workflow can be planned in a second."""

import math
from dataclasses import asdict, dataclass

from adasde.common import InputError, spec_hash
from adasde.experiments.config import short, validate
from adasde.experiments.studies import check_simulation, oracle_named, simulation_specs
from adasde.scaling.clock import step_count
from adasde.scaling.hyperparameters import VARIANTS, hyperparameters_named
from adasde.scaling.rules import rule_named, scaled_batch_size
from adasde.training.schedule import Schedule
from adasde.workloads.registry import workload_named

# Raised by hand when a change of the code changes results: every spec carries it, so all runs start anew.
RECIPE = 4

# How a run is computed, beside what: fields of a spec that has them only where they are not these.
OPTIONS = {"precision": "float32", "processes": 1, "micro_batch": None, "frozen": "none"}


@dataclass(frozen=True)
class Plan:
    """What a config asks for: specs by run id, and figure names."""

    scale: str
    runs: dict[str, dict]
    figures: tuple[str, ...]

    def datasets(self, run: str) -> list[str]:
        """Names of the data sets that a run reads: one, or none for a closed-form problem."""
        spec = self.runs[run]
        name = oracle_named(spec["oracle"]).data if "study" in spec else workload_named(spec["task"]).data
        return [name] if name else []

    def kind(self, run: str) -> str:
        """What a run is about: ``vision``, ``language`` or, of a simulation, ``theory``."""
        spec = self.runs[run]
        return "theory" if "study" in spec else workload_named(spec["task"]).kind

    @property
    def parents(self) -> list[str]:
        """Ids of the runs from whose final weights others start."""
        return list(dict.fromkeys(spec["parent"]["run"] for spec in self.runs.values() if "parent" in spec))

    @property
    def simulations(self) -> list[str]:
        """Ids of the runs that are simulations, which need no GPU."""
        return [run for run, spec in self.runs.items() if "study" in spec]


def plan(config: dict) -> Plan:
    """Multiply a config out into one spec per run; InputError, in one line, names the field that is wrong.

    An experiment that is null is left out: so one config, laid over another, takes less.
    """
    config = _without_null(config)
    validate(config, "config")
    runs = {}
    device = {"device": config["device"]} if config.get("device", "cpu") != "cpu" else {}
    for section, specs in (
        ("experiments", lambda name, experiment: _specs(name, experiment, device)),
        ("finetunings", lambda name, finetuning: _finetuned(name, finetuning, device, runs)),
        ("simulations", lambda name, simulation: simulation_specs(name, _plain(simulation), RECIPE)),
    ):
        for name, content in config.get(section, {}).items():
            try:
                for spec in specs(name, content):
                    check(spec)
                    if spec["run"] in runs:
                        raise InputError(f"{spec['run']} is a run already; choose another name")
                    runs[spec["run"]] = spec
            except InputError as error:
                raise InputError(f"{section}.{name}: {error}") from error
    return Plan(config["scale"], runs, tuple(config["figures"]))


def _without_null(config):
    def kept(section):
        return {k: v for k, v in section.items() if v is not None} if isinstance(section, dict) else section

    sections = ("experiments", "finetunings", "simulations")
    return {k: kept(v) if k in sections else v for k, v in config.items()} if isinstance(config, dict) else config


def check(spec: dict):
    """InputError unless ``spec`` is one that a plan can hold and this version can run."""
    simulated = isinstance(spec, dict) and "study" in spec
    validate(spec, "simulation" if simulated else "run")
    if spec["recipe"] != RECIPE:
        raise InputError(f"recipe = {spec['recipe']}: this version runs recipe {RECIPE}")
    if simulated:
        check_simulation(spec)
        return
    workload_named(spec["task"])
    _check_rule(spec["rule"], spec["kappa"], spec["ell"], "parent" in spec)
    hyperparameters_named(**{key: value for key, value in spec["optimizer"].items() if key != "variant"})
    Schedule(**spec["schedule"])
    moments, size = spec["evaluate"], spec["batch_size"]
    if moments != sorted(set(moments)) or moments[-1] != spec["samples"] or any(n % size for n in moments):
        raise InputError(
            f"evaluate = {short(moments)}: must increase in multiples of the batch size {size} "
            f"to samples = {spec['samples']}"
        )
    for samples in moments:
        step_count(samples, size, spec["ell"])
    processes = spec.get("processes", 1)
    if size % processes:
        raise InputError(f"processes = {processes}: must divide the batch size {size} (kappa {spec['kappa']:g})")
    micro = spec.get("micro_batch")
    if micro is not None and size // processes % micro:
        raise InputError(
            f"micro_batch = {micro}: must divide the {size // processes} examples of a batch of {size} "
            f"(kappa {spec['kappa']:g}) that each of {processes} processes takes"
        )
    if spec.get("precision") == "tf32" and spec.get("device") != "cuda":
        raise InputError("precision = 'tf32': only a GPU has it")


def _specs(name, experiment, device):
    """Specs of one experiment, in the order rule, kappa or ell, seed."""
    values, base, shared = _resolved(name, experiment, device)
    if 1 not in values["rules"]["sqrt"]:
        raise InputError(f"rules.sqrt = {values['rules']['sqrt']}: must contain 1, the baseline")
    for rule, kappa, ell in _levels(values["rules"], values.get("ell", [1])):
        hyperparameters = asdict(base.scaled(kappa, rule) if ell == 1 else base.svag(ell))
        size = scaled_batch_size(values["batch_size"], kappa)
        _check_size(size, values["evaluate"]["every"], workload_named(values["task"]), f" (kappa {kappa:g})")
        level = f"k{kappa:g}" if ell == 1 else f"l{ell:g}"
        clip = {}
        if "clip" in values:  # SVAG at ell is the square-root rule at 1 / ell^2
            power = rule_named(rule if ell == 1 else "sqrt").clip
            clip = {"clip": values["clip"] * (kappa if ell == 1 else ell**-2.0) ** power}
        for seed in range(values["seeds"]):
            yield {
                **shared,
                **clip,
                "run": f"{name}.{rule}.{level}.s{seed}",
                "optimizer": {**shared["optimizer"], **hyperparameters},
                "rule": rule,
                "kappa": kappa,
                "ell": ell,
                "batch_size": size,
                "seed": seed,
            }


def _finetuned(name, finetuning, device, runs):
    """Specs of the runs that start from the final weights of another experiment's, under the square-root rule.

    Beside them, ``scratch`` runs that start from new weights: what the task gives without any pre-training.
    """
    values, base, shared = _resolved(name, finetuning, device)
    wanted = workload_named(values["task"]).pretrained
    if wanted is None:
        raise InputError(f"task = {values['task']!r}: does not start from pre-trained weights")
    able = [spec for spec in runs.values() if spec["rule"] == "sqrt" and spec["task"] == wanted]
    parents = [spec for spec in able if spec["experiment"] == values["pretrained"]]
    if not parents:
        known = ", ".join(dict.fromkeys(spec["experiment"] for spec in able)) or "none of this config"
        raise InputError(f"pretrained = {values['pretrained']!r}: must be an experiment of {wanted}: {known}")
    size, count = values["batch_size"], values["seeds"]
    _check_size(size, values["evaluate"]["every"], workload_named(values["task"]), "")
    common = {
        **shared,
        **({"clip": values["clip"]} if "clip" in values else {}),
        "optimizer": {**shared["optimizer"], **asdict(base)},
        "ell": 1,
        "batch_size": size,
    }
    for parent in parents:
        for number in range(count):
            seed = parent["seed"] * count + number
            yield {
                **common,
                "run": f"{name}.k{parent['kappa']:g}.s{seed}",
                "rule": "finetune",
                "kappa": parent["kappa"],
                "seed": seed,
                "parent": {"run": parent["run"], "spec_hash": spec_hash(parent)},
            }
    for seed in range(values.get("scratch", 0)):
        yield {**common, "run": f"{name}.scratch.s{seed}", "rule": "scratch", "kappa": 1, "seed": seed}


def _resolved(name, experiment, device):
    """Plain values of an experiment or finetuning, its baseline's hyperparameters, and what all its specs share."""
    values = {key: _plain(value) for key, value in experiment.items()}
    task = workload_named(values["task"])
    base, variant = _baseline(values["optimizer"])
    if values["sampling"] not in ("replacement", "epoch"):
        raise InputError(f"sampling = {values['sampling']!r}: must be replacement or epoch")
    samples, moments = _evaluations(values["epochs"] * task.train_size, **values["evaluate"])
    return (
        values,
        base,
        {
            "recipe": RECIPE,
            "experiment": name,
            "task": values["task"],
            "optimizer": {"name": values["optimizer"]["name"], "variant": variant},
            "init_seed": 0,
            "sampling": values["sampling"],
            "samples": samples,
            "horizon": base.lr**2 * samples / values["batch_size"],
            "schedule": values.get("schedule", {}),
            "evaluate": moments,
            **device,
            **{key: values[key] for key in OPTIONS if values.get(key, OPTIONS[key]) != OPTIONS[key]},
        },
    )


def _check_size(size, every, task, which):
    """InputError unless a batch size fits into the data and into the intervals between evaluations."""
    if size > task.train_size:
        raise InputError(f"batch_size = {size}{which}: larger than the {task.train_size} training examples")
    if every % size:
        raise InputError(
            f"evaluate.every = {every}: batch size {size}{which} does not divide it; {math.lcm(every, size)} would do"
        )


def _levels(rules, ells):
    """Yield (rule, kappa, ell) of an experiment: every rule at its kappas, then SVAG at every ell above 1."""
    for rule, kappas in rules.items():
        rule_named(rule)
        for kappa in kappas:
            if kappa == 1 and rule != "sqrt":
                raise InputError(f"rules.{rule}: at kappa = 1 every rule is the baseline; leave 1 to sqrt")
            yield rule, kappa, 1
    if 1 not in ells:
        raise InputError(f"ell = {ells}: must contain 1, the plain run that the others are compared with")
    yield from (("svag", 1, ell) for ell in ells if ell != 1)


def _check_rule(rule, kappa, ell, child):
    """InputError unless a run with these is plain (a rule at its kappa, ell = 1) or SVAG (kappa = 1, ell > 1).

    A run that starts from another's weights bears that one's kappa, and follows no rule but ``finetune``.
    """
    if child != (rule == "finetune"):
        raise InputError(f"rule = {rule!r}: finetune goes with a parent, and no other rule does")
    if ell == 1 and (child or (rule == "scratch" and kappa == 1)):
        return
    if rule != "svag" and ell == 1:
        rule_named(rule)
    elif rule != "svag" or kappa != 1 or ell == 1:
        raise InputError(
            f"ell = {ell:g}: does not go with rule {rule!r} at kappa {kappa:g}; "
            "a run has either ell = 1, or rule svag, kappa = 1 and ell > 1"
        )


def _plain(value):
    """A config value without its source: {value, source, note} becomes the value, at any depth."""
    if isinstance(value, dict):
        return value["value"] if "source" in value else {key: _plain(v) for key, v in value.items()}
    return value


def _baseline(optimizer):
    values = dict(optimizer)
    name, variant = values["name"], values.pop("variant", "paper")
    if variant not in VARIANTS[name]:
        raise InputError(f"optimizer.variant = {variant!r}: must be one of {', '.join(VARIANTS[name])}")
    try:
        return hyperparameters_named(**values), variant
    except InputError as error:
        raise InputError(f"optimizer.{error}") from error


def _evaluations(samples, count, every):
    """Samples of the run and at each evaluation: multiples of ``every``, spaced like squares, dense at the start."""
    intervals = int(samples / every + 1e-9)
    if intervals < count:
        raise InputError(
            f"evaluate.count = {count}: the run has only {intervals} intervals of {every} samples; "
            "take fewer evaluations, a smaller evaluate.every or more epochs"
        )
    moments = [every * max(i, round(intervals * (i / count) ** 2)) for i in range(1, count + 1)]
    return every * intervals, moments
