"""Read YAML files, one or several laid over each other. A key that is given twice in one file is refused."""

from pathlib import Path
from typing import Any

import yaml

from adasde.common import InputError
from adasde.experiments.fields import short


def read(path: Path) -> Any:
    """Return the document in a YAML file; InputError if it is not YAML or gives a key twice, naming the line."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
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


def merged(paths: list[Path]) -> Any:
    """Return the document of several YAML files as Snakemake merges those of --configfile: the last value wins."""
    document, *others = [read(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if not isinstance(other, dict):
            raise InputError(f"{path}: {short(other)} is no mapping that could be merged")
        document = _merge(document, other)
    return document


def _merge(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merge(old.get(key), value) for key, value in new.items()}
