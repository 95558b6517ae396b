"""Configs and specs as documents: YAML in which no key stands twice, and closed schemas that name what is wrong."""

import json
import math
from functools import cache
from importlib.resources import files
from pathlib import Path

from adasde.common import InputError


def read(path: Path) -> dict:
    """Return the config in a YAML file; InputError if it is no YAML or gives a key twice, naming the line."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            found = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(f"{path}: a key is no text (line {key.start_mark.line + 1})")
                if key.value in found:
                    raise InputError(f"{path}: {key.value} is given twice (line {key.start_mark.line + 1})")
                found.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(), Loader)  # noqa: S506, since a SafeLoader is safe
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        raise InputError(f"{path}: not YAML" + (f" (line {place.line + 1})" if place else "")) from error


def merged(paths) -> dict:
    """Return the config of several YAML files as Snakemake merges those of --configfile: of a value the last wins."""
    config, *others = [read(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if not isinstance(other, dict):
            raise InputError(f"{path}: {short(other)} is no mapping that could be merged")
        config = _merge(config, other)
    return config


def _merge(old, new):
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merge(old.get(key), value) for key, value in new.items()}


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
    message = error.message.replace(repr(instance), short(instance))
    if error.validator == "additionalProperties" and isinstance(instance, dict):
        known = error.schema.get("properties", {})
        unknown = [key for key in instance if key not in known]
        message = f"unknown key {short(unknown[0])}; must be one of {', '.join(known)}"
    elif error.validator == "type":
        message = f"{short(instance)} is not of type {allowed!r}"
        if schema == "config" and allowed == "number" and isinstance(instance, str):
            message += " (YAML reads 1e-8 as text: write 1.0e-8)"
        if schema == "config" and allowed == "object" and isinstance(instance, int | float):
            message += f" (write {{value: {instance}, source: ours}}, or where it is from)"
    elif error.validator == "pattern":
        message = f"{short(instance)} must be lower-case letters, digits and dashes, and start with a letter"
    elif error.validator == "not":
        message = f"{short(instance)} is taken; choose another name"
    raise InputError(f"{place}: {message}")


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


def short(value) -> str:
    """Return a value as text of at most 60 characters."""
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
