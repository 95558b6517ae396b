"""The digest of the code on which results depend. Runs carry it, to tell apart those made by different code."""

import ast
import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

# What can change a result. The rest of the package plans runs, or reads what they have left.
PARTS = (
    *("scaling", "sde", "training", "workloads"),
    *("experiments/execute.py", "experiments/oracles.py", "experiments/simulations.py", "experiments/specs"),
)


@cache
def source_digest() -> str:
    """Return the digest of this package's code, 16 hexadecimal digits.

    Comments, docstrings and layout have no part in it, and neither has the version of Python.
    """
    package = files("adasde")
    return digest_of({part: package.joinpath(part) for part in PARTS})


def digest_of(parts: dict[str, Traversable]) -> str:
    """Return the digest of files and folders of Python code, by name."""
    whole = hashlib.sha256()
    for name, part in sorted(parts.items()):
        for path, code in _modules(name, part):
            whole.update(f"{path} {_plain(_without_docstrings(ast.parse(code)))}\n".encode())
    return whole.hexdigest()[:16]


def _modules(name: str, part: Traversable) -> list[tuple[str, bytes]]:
    if part.is_dir():
        inside = sorted(part.iterdir(), key=lambda entry: entry.name)
        return [module for entry in inside for module in _modules(f"{name}/{entry.name}", entry)]
    hidden = part.name.startswith(".")  # such as an editor's lock, a link to nowhere
    return [(name, part.read_bytes())] if name.endswith(".py") and not hidden else []


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:]
    return tree


def _plain(node: Any) -> Any:
    """The syntax tree as lists; what is empty is left out, since each version of Python has fields of its own."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *((name, _plain(value)) for name, value in fields)]
    return [_plain(part) for part in node] if isinstance(node, list) else repr(node)
