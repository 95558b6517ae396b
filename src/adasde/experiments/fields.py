"""Field types of configs and specs, and pydantic's errors as one line each, in the words of this project."""

import math
import sys
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from adasde.common import InputError, short

LARGEST = 10**9  # of a count in a config
MOST = 10**15  # of a count in a spec, which kappa has multiplied


class Model(BaseModel):
    """A closed, frozen model: unknown keys are refused, and no value is converted to another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = {field.alias or name: name for name, field in cls.model_fields.items()}
            for key in values:
                if key not in known and key not in known.values():
                    words = {"key": short(key), "known": ", ".join(known)}
                    raise PydanticCustomError("unknown_key", "unknown key {key}; must be one of {known}", words)
        return values


def _number(value: object) -> int | float:
    """Accept ints and floats as they are: the canonical JSON of a spec tells 1 from 1.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number_type", "not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_finite", "not finite")
    largest = sys.float_info.max
    if value > largest:  # an int of more than 308 digits
        raise PydanticCustomError("less_than_equal", "too large", {"le": largest})
    if value < -largest:
        raise PydanticCustomError("greater_than_equal", "too small", {"ge": -largest})
    return value


Number = Annotated[int | float, PlainValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Whole = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
# So long that the names of files that are made of them, of at most 255 characters, have room for what is added.
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$", max_length=100)]
RunId = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9.-]*$", max_length=200)]

# What a value of the wrong type should have been, by pydantic's name of the error.
_KINDS = {
    "int_type": "integer",
    "number_type": "number",
    "string_type": "string",
    "bool_type": "boolean",
    "list_type": "array",
    "tuple_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}
# What a value out of range is, by pydantic's name of the error, and where that tells the bound.
_RANGES = {
    "greater_than_equal": ("less than the minimum of", "ge"),
    "greater_than": ("less than or equal to the minimum of", "gt"),
    "less_than_equal": ("greater than the maximum of", "le"),
}


def validated(kind: TypeAdapter, document: object, root: str) -> Any:
    """Return ``document`` as an instance of ``kind``; ``root`` is what the whole document is called.

    Raises InputError, in one line: the path of the field that is wrong, its value, and what is allowed.
    """
    _refuse_other_keys(document, ())
    try:
        return kind.validate_python(document)
    except ValidationError as error:
        found = [(_path(document, e), e) for e in error.errors(include_url=False)]
    # The error nearest to the root explains those below it.
    path, first = min(found, key=lambda pair: len(pair[0]))
    raise InputError(_line(path, first, root))


def _refuse_other_keys(node: object, path: tuple[str, ...]) -> None:
    """Refuse keys that are not text, which YAML allows."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                raise InputError(f"{'.'.join(path) or 'document'}: the key {key!r} is not text")
            _refuse_other_keys(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _refuse_other_keys(value, (*path, str(number)))


def _path(document: Any, error: ErrorDetails) -> list[str]:
    """Return the keys that lead to an error's value; pydantic adds the tags of unions, which no document holds."""
    path: list[str] = []
    for key in error["loc"]:
        if isinstance(document, dict) and key in document or isinstance(document, list) and isinstance(key, int):
            document = document[key]
            path.append(str(key))
    return path


def _line(path: list[str], error: ErrorDetails, root: str) -> str:
    """Return an error in one line."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    place = ".".join(path) or root
    if kind == "value_error":  # raised by a check of ours, which names the field
        owner = 2 if root == "config" else 0  # such as experiments.fashion-cnn-adam
        return ": ".join([*filter(None, [".".join(path[:owner])]), ".".join([*path[owner:], str(context["error"])])])
    if kind == "not_finite":
        return f"{place} = {value}: must be a finite number"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return f"{'.'.join([*path, tag])}: {short(value[tag])} is not one of [{context['expected_tags']}]"
    return f"{place}: {_words(kind, value, context, error, root)}"


def _words(kind: str, value: Any, context: dict, error: ErrorDetails, root: str) -> str:
    if kind in _KINDS:
        words = f"{short(value)} is not of type {_KINDS[kind]!r}"
        if root == "config" and kind == "number_type" and isinstance(value, str):
            words += " (YAML reads 1e-8 as text: write 1.0e-8)"
        if root == "config" and _KINDS[kind] == "object" and isinstance(value, int | float):
            words += f" (write {{value: {value}, source: ours}}, or where it is from)"
        return words
    if kind in _RANGES:
        words, bound = _RANGES[kind]
        return f"{short(value)} is {words} {context[bound]}"
    if kind == "missing":
        return f"{str(error['loc'][-1])!r} is a required property"
    if kind == "union_tag_not_found":
        return f"{context['discriminator']} is a required property"
    if kind == "literal_error":
        return f"{short(value)} is not one of [{context['expected'].replace(' or ', ', ')}]"
    if kind == "string_pattern_mismatch":
        return f"{short(value)} must be lower-case letters, digits and dashes, and start with a letter"
    if kind == "string_too_long":
        return f"{short(value)} must have at most {context['max_length']} characters"
    if kind == "too_short":
        return f"{short(value)} should be non-empty"
    return error["msg"]
