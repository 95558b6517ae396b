"""Documents of YAML or JSON: read them, look into them by dotted keys, and change values in their text in place.

``optimizer.params.betas.0`` is the first of the numbers in ``optimizer: {params: {betas: [...]}}``. ``*`` stands for
every item of a list.
"""

import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adasde.common import MALFORMED, InputError, read_text, short

Place = tuple[str | int, ...]  # the keys, one below the other, that lead to a value


LARGEST = 2**18  # bytes of a file in YAML: reading it takes 3 s at most
LONGEST = 4300  # digits of a number, as Python has it
DEEPEST = 100
MOST_VALUES = 100_000  # of a document in YAML, with every alias written out


def read_document(path: Path) -> Any:
    """Return the document in a file of YAML or JSON; InputError, which names it, if it is neither, or as `parsed`."""
    return parsed(read_text(path, LARGEST), path)


def parsed(text: str, name: str | Path) -> Any:
    """Return the document in a text of JSON or YAML.

    InputError, which begins with ``name``, if it is neither, gives a key twice, or has aliases without end.
    """
    if text.lstrip().startswith("{"):
        try:
            return parsed_json(text, name)
        except json.JSONDecodeError:
            pass  # YAML in braces
    return _yaml(text, name)[1]


def parsed_json(text: str, name: str | Path) -> Any:
    """Return the document in a text of JSON.

    InputError, which begins with ``name``, if it gives a key twice or nests too deeply; JSONDecodeError if it is none.
    """
    try:
        document = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, name))
    except (InputError, json.JSONDecodeError):
        raise
    except RecursionError as error:
        raise InputError(f"{name}: nests too deeply") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{name}: holds a number of more digits than can be read") from error
    return _text_in(document, name)


def _yaml(text: str, name: str | Path) -> tuple[Any, Any]:
    """Return the root node of a text of YAML, which knows where everything stands, and the document."""
    import yaml  # reading JSON does without

    try:
        loader = yaml.SafeLoader(text)  # CSafeLoader, ten times as fast, kills the process where lists nest deeply
        loader.compose_node = _bounded(loader.compose_node, name)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_node(node, name, {})
        return node, _text_in(loader.construct_document(node), name)
    except InputError:
        raise
    except (yaml.YAMLError, *MALFORMED) as error:  # such as the 31st of February, or 1:1:...:1.5 in base 60
        place, last = getattr(error, "problem_mark", None), text.rstrip().count("\n")
        kinds = "YAML, nor JSON" if text.lstrip().startswith("{") else "YAML"
        raise InputError(f"{name}: not {kinds}" + (f" (line {min(place.line, last) + 1})" if place else "")) from error


def _bounded(compose: Callable[..., Any], name: str | Path) -> Callable[..., Any]:
    """Return ``compose``, which calls itself, so that it gives up where nodes nest too deeply."""
    depth = 0

    def composed(*arguments: Any) -> Any:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise InputError(f"{name}: nests too deeply")
        node = compose(*arguments)
        depth -= 1
        return node

    return composed


def _text_in(document: Any, name: str | Path) -> Any:
    """Return the document; InputError if a text in it is none that could be written, such as half of a character."""
    try:
        json.dumps(document, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: {error.object[error.start : error.end]!a} is half of a character") from error
    return document


def _once(pairs: list[tuple[str, Any]], name: str | Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"{name}: {next(key for key in keys if keys.count(key) > 1)} is given twice")
    return found


def _check_node(node: Any, name: str | Path, sizes: dict[int, int]) -> int:
    """Return how many values are at and below a node of YAML, every alias written out.

    InputError if a mapping has a key that is not text, or has one twice, if an alias stands for what it is in, if a
    number is too long, or if there are more than `MOST_VALUES` values. ``sizes`` are those of the nodes by id; 0 marks
    one that is being looked at.
    """
    if isinstance(node.value, str):
        if len(node.value) > LONGEST and node.tag.endswith((":int", ":float")):  # in base 60 it would take 10 s
            raise InputError(f"{name}: holds a number of more digits than can be read")
        return 1
    line = f"(line {node.start_mark.line + 1})"
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise InputError(f"{name}: an alias stands for what it is part of {line}")
        return sizes[id(node)]
    sizes[id(node)], size, found = 0, 1, set()
    for item in node.value:
        if isinstance(item, tuple):
            key, item = item
            line = f"(line {key.start_mark.line + 1})"
            if not isinstance(key.value, str):
                raise InputError(f"{name}: a key is not text {line}")
            if key.value in found:
                raise InputError(f"{name}: {key.value} is given twice {line}")
            found.add(key.value)
        size += _check_node(item, name, sizes)
    if size > MOST_VALUES:
        raise InputError(f"{name}: more than {MOST_VALUES:,} values, with every alias written out {line}")
    sizes[id(node)] = size
    return size


def walk(node: Any, keys: list[str], path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield the paths and values that keys lead to. The text ``auto`` on the way stands for everything below it."""
    if not keys or node == "auto":
        yield path, node
    elif isinstance(node, list | tuple):
        indices = range(len(node)) if keys[0] == "*" else [int(key) for key in keys[:1] if key.isdigit()]
        for index in indices:
            if index < len(node):
                yield from walk(node[index], keys[1:], (*path, index))
    elif isinstance(node, dict) and keys[0] in node:
        yield from walk(node[keys[0]], keys[1:], (*path, keys[0]))


def value_at(document: Any, key: str) -> Any:
    """Return the first value that is not null under a key, or None."""
    return next((value for _, value in walk(document, key.split(".")) if value is not None), None)


def path_of(key: str) -> Place:
    """Return the keys of a dotted one."""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def dotted(path: Place) -> str:
    """Return keys as one dotted key."""
    return ".".join(map(str, path))


def number_of(key: str, raw: Any, finite: bool = True) -> float:
    """Return a number. YAML reads 1e-3, without a point, as text."""
    try:
        if isinstance(raw, int | float | str) and not isinstance(raw, bool):
            number = float(raw)
            if math.isfinite(number) or not (finite or math.isnan(number)):
                return number
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{key} = {reprlib.repr(raw)}: must be a number")


def put(document: Any, path: Place, value: Any) -> None:
    """Set a value in a document, making the mappings and lists on the way that are missing.

    InputError if there is something else on the way.
    """
    here: Any
    for number, key in enumerate(path):
        here = document
        if not isinstance(here, list if isinstance(key, int) else dict):
            raise InputError(f"{dotted(path)}: cannot be in {short(here)}")
        if isinstance(here, list) and key == len(here):
            here.append(None)
        if number == len(path) - 1:
            here[key] = value
        elif (here[key] if isinstance(key, int) else here.get(key)) is None:
            here[key] = [] if isinstance(path[number + 1], int) else {}
        document = here[key]


def edited(text: str, changes: Mapping[Place, Any]) -> str:
    """Return a text of YAML or JSON with other values. Comments, order and spaces stay."""
    if not changes:
        return text
    tree: dict[Any, Any] = {}
    for path, value in changes.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = value
    # JSON may be indented by tabs, which YAML forbids. In a JSON text they stand nowhere else.
    node, _ = _yaml(text.expandtabs(1) if text.lstrip().startswith("{") else text, "recipe")
    spans: dict[tuple[int, int], str] = {}
    _collect(node, tree, text, spans)
    for (start, end), new in sorted(spans.items(), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _collect(node: Any, tree: Mapping[Any, Any], text: str, spans: dict[tuple[int, int], str]) -> None:
    """Add to ``spans`` what becomes of the pieces of a text below a mapping or a list."""
    if isinstance(next(iter(tree)), int):
        children: dict[Any, Any] = dict(enumerate(node.value))
        names: dict[Any, Any] = {}
    else:
        children = {key.value: child for key, child in node.value}
        names = {key.value: key for key, _ in node.value}
    missing = {key: value for key, value in tree.items() if key not in children}
    for key, value in tree.items():
        child = children.get(key)
        if child is None:
            continue
        if isinstance(value, dict) and not isinstance(child.value, str) and child.value:
            _collect(child, value, text, spans)
            continue
        start, end = child.start_mark.index, child.end_mark.index
        spans[start, end] = ("" if start < end else " ") + _literal(value)
    if missing:
        anchor = next((names[key] for key in names if key in tree), next(iter(names.values())))
        start, column = anchor.start_mark.index, anchor.start_mark.column
        line = ("\r\n" if "\r\n" in text else "\n") + text[start - column : start]
        form, gap = "{}: {}", line
        if node.flow_style:
            form, gap = '"{}": {},', line if column and not line.strip() else " "
        spans[start, start] = "".join(form.format(key, _literal(value)) + gap for key, value in missing.items())


def _literal(value: Any) -> str:
    """Return a value as both YAML and JSON have it. YAML reads a float only if it has a point."""
    if isinstance(value, dict):
        if isinstance(next(iter(value)), int):
            return f"[{', '.join(_literal(value[index]) for index in sorted(value))}]"
        return "{" + ", ".join(f'"{key}": {_literal(item)}' for key, item in value.items()) + "}"
    number = repr(value)
    return number if "." in number or "e" not in number else number.replace("e", ".0e")
