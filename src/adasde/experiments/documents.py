"""Read YAML files, one or several laid over each other. A key that is given twice in one file is refused."""

from pathlib import Path
from typing import Any

from adasde.common import InputError, short
from adasde.scaling.documents import read_document


def merged(paths: list[Path]) -> Any:
    """Return the document of several YAML files as Snakemake merges those of --configfile: the last value wins."""
    document, *others = [read_document(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if not isinstance(other, dict):
            raise InputError(f"{path}: {short(other)} is not a mapping, so it cannot be merged")
        document = merge(document, other)
    return document


def merge(old: Any, new: Any) -> Any:
    """Return a document with another laid over it: mappings are merged, everything else is replaced."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: merge(old.get(key), value) for key, value in new.items()}
