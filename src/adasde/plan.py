"""From a config to the table of runs: pure, and without torch, so that a workflow can be planned in a second."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from . import plots, scaling, studies
from .errors import InputError
from .schedule import Schedule
from .tasks import task_named

# Raised by hand when a change of the code changes results: every spec carries it, so all runs start anew.
RECIPE = 3


@dataclass(frozen=True)
class Plan:
    """What a config asks for: specs by run id, and figure names."""

    scale: str
    runs: dict[str, dict]
    figures: tuple[str, ...]

    def datasets(self, run: str) -> list[str]:
        """Names of the data sets that a run reads: one, or none for a closed-form problem."""
        spec = self.runs[run]
        name = studies.oracle_named(spec["oracle"]).data if "study" in spec else task_named(spec["task"]).data
        return [name] if name else []


def read(path: Path) -> dict:
    """Return the config in a YAML file; InputError if it is no YAML or gives a key twice, naming the line."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            found = set()
            for key, _ in node.value:
                if key.value in found:
                    raise InputError(f"{path}: {key.value} is given twice (line {key.start_mark.line + 1})")
                found.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(), Loader)  # noqa: S506, since a SafeLoader is safe
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        raise InputError(f"{path}: not YAML" + (f" (line {place.line + 1})" if place else "")) from error


def plan(config: dict) -> Plan:
    """Multiply a config out into one spec per run; InputError, in one line, names the field that is wrong."""
    validate(config, "config")
    runs = {}
    for name, experiment in config["experiments"].items():
        try:
            for spec in _specs(name, experiment):
                check(spec)
                runs[spec["run"]] = spec
        except InputError as error:
            raise InputError(f"experiments.{name}: {error}") from error
    for name, simulation in config.get("simulations", {}).items():
        try:
            for spec in studies.specs(name, _plain(simulation), RECIPE):
                check(spec)
                runs[spec["run"]] = spec
        except InputError as error:
            raise InputError(f"simulations.{name}: {error}") from error
    for figure in config["figures"]:
        trained = {(s["experiment"], s["task"], s["rule"]): None for s in runs.values() if "task" in s}
        plots.check(figure, trained, {s["study"] for s in runs.values() if "study" in s})
    return Plan(config["scale"], runs, tuple(config["figures"]))


def check(spec: dict):
    """InputError unless ``spec`` is one that a plan can hold and this version can run."""
    simulated = isinstance(spec, dict) and "study" in spec
    validate(spec, "simulation" if simulated else "run")
    if spec["recipe"] != RECIPE:
        raise InputError(f"recipe = {spec['recipe']}: this version runs recipe {RECIPE}")
    if simulated:
        studies.check(spec)
        return
    task_named(spec["task"])
    _check_rule(spec["rule"], spec["kappa"], spec["ell"])
    scaling.optimizer(**{key: value for key, value in spec["optimizer"].items() if key != "variant"})
    Schedule(**spec["schedule"])
    moments, size = spec["evaluate"], spec["batch_size"]
    if moments != sorted(set(moments)) or moments[-1] != spec["samples"] or any(n % size for n in moments):
        raise InputError(
            f"evaluate = {_short(moments)}: must increase in multiples of the batch size {size} "
            f"to samples = {spec['samples']}"
        )
    for samples in moments:
        scaling.steps(samples, size, spec["ell"])


def validate(document: dict, schema: str):
    """Check a document against a closed schema (``config`` or ``run``); InputError names what is wrong."""
    for place, value in _leaves(document, ()):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{'.'.join(place)} = {value}: must be a finite number")
    error = _best_match(_validator(schema).iter_errors(document))
    if error is None:
        return
    place = ".".join(str(part) for part in error.absolute_path) or schema
    instance, allowed = error.instance, error.validator_value
    message = error.message
    if error.validator == "additionalProperties" and isinstance(instance, dict):
        known = error.schema.get("properties", {})
        unknown = [key for key in instance if key not in known]
        message = f"unknown key {unknown[0]!r}; must be one of {', '.join(known)}"
    elif error.validator == "type":
        message = f"{_short(instance)} is not of type {allowed!r}"
        if schema == "config" and allowed == "number" and isinstance(instance, str):
            message += " (YAML reads 1e-8 as text: write 1.0e-8)"
        if schema == "config" and allowed == "object" and isinstance(instance, int | float):
            message += f" (write {{value: {instance}, source: ours}}, or where it is from)"
    elif error.validator == "pattern":
        message = f"{instance!r} must be lower-case letters, digits and dashes, and start with a letter"
    elif error.validator == "not":
        message = f"{instance!r} is taken; choose another name"
    raise InputError(f"{place}: {message}")


def _specs(name, experiment):
    """Specs of one experiment, in the order rule, kappa or ell, seed."""
    task = task_named(experiment["task"])
    values = {key: _plain(value) for key, value in experiment.items()}
    base, variant = _baseline(values["optimizer"])
    schedule = values.get("schedule", {})
    if values["sampling"] not in ("replacement", "epoch"):
        raise InputError(f"sampling = {values['sampling']!r}: must be replacement or epoch")
    if 1 not in values["rules"]["sqrt"]:
        raise InputError(f"rules.sqrt = {values['rules']['sqrt']}: must contain 1, the baseline")
    samples, moments = _evaluations(values["epochs"] * task.dataset.train_size, **values["evaluate"])
    horizon = base.lr**2 * samples / values["batch_size"]
    for rule, kappa, ell in _levels(values["rules"], values.get("ell", [1])):
        hyperparameters = asdict(base.scaled(kappa, rule) if ell == 1 else base.svag(ell))
        size = scaling.scaled_batch_size(values["batch_size"], kappa)
        if size > task.dataset.train_size:
            raise InputError(
                f"batch_size = {size} (kappa {kappa:g}): larger than the {task.dataset.train_size} training examples"
            )
        every = values["evaluate"]["every"]
        if every % size:
            raise InputError(
                f"evaluate.every = {every}: batch size {size} (kappa {kappa:g}) does not divide it; "
                f"{math.lcm(every, size)} would do"
            )
        level = f"k{kappa:g}" if ell == 1 else f"l{ell:g}"
        for seed in range(values["seeds"]):
            yield {
                "recipe": RECIPE,
                "run": f"{name}.{rule}.{level}.s{seed}",
                "experiment": name,
                "task": experiment["task"],
                "optimizer": {"name": values["optimizer"]["name"], "variant": variant, **hyperparameters},
                "rule": rule,
                "kappa": kappa,
                "ell": ell,
                "batch_size": size,
                "seed": seed,
                "init_seed": 0,
                "sampling": values["sampling"],
                "samples": samples,
                "horizon": horizon,
                "schedule": schedule,
                "evaluate": moments,
            }


def _levels(rules, ells):
    """Yield (rule, kappa, ell) of an experiment: every rule at its kappas, then SVAG at every ell above 1."""
    for rule, kappas in rules.items():
        scaling.rule_named(rule)
        for kappa in kappas:
            if kappa == 1 and rule != "sqrt":
                raise InputError(f"rules.{rule}: at kappa = 1 every rule is the baseline; leave 1 to sqrt")
            yield rule, kappa, 1
    if 1 not in ells:
        raise InputError(f"ell = {ells}: must contain 1, the plain run that the others are compared with")
    yield from (("svag", 1, ell) for ell in ells if ell != 1)


def _check_rule(rule, kappa, ell):
    """InputError unless a run with these is plain (a rule at its kappa, ell = 1) or SVAG (kappa = 1, ell > 1)."""
    if rule != "svag" and ell == 1:
        scaling.rule_named(rule)
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
    if variant not in scaling.VARIANTS[name]:
        raise InputError(f"optimizer.variant = {variant!r}: must be one of {', '.join(scaling.VARIANTS[name])}")
    try:
        return scaling.optimizer(**values), variant
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


def _leaves(node, place):
    """Yield (place, value) of everything in a document that is no mapping and no list; keys must be text."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                raise InputError(f"{'.'.join(place) or 'document'}: the key {key!r} is not text")
            yield from _leaves(value, (*place, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, (*place, str(number)))
    else:
        yield place, node


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _validator(schema):
    from jsonschema import Draft202012Validator, validators

    text = files("adasde").joinpath("schemas", f"{schema}.schema.json").read_text()
    # JSON Schema takes 2.0 for an integer; range() does not.
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return validators.extend(Draft202012Validator, type_checker=types)(json.loads(text))


def _best_match(errors):
    from jsonschema.exceptions import best_match

    return best_match(errors)
