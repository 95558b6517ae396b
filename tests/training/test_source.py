"""The digest of the code on which results depend."""

import ast
from importlib.resources import files

import pytest

from adasde.training import source
from adasde.training.source import PARTS, digest_of, source_digest

CODE = '"""Module."""\n\ndef f(x):\n    """Function."""\n    return x + 1  # why\n'


def digest(folder, code):
    (folder / "module.py").write_text(code)
    return digest_of({"part": folder})


@pytest.mark.parametrize(
    "other",
    ["def f(x):\n    return x + 1\n", CODE.replace("why", "because"), CODE.replace("x + 1", "(x\n        + 1)")],
)
def test_comments_docstrings_and_layout_have_no_part_in_it(tmp_path, other):
    assert digest(tmp_path, other) == digest(tmp_path, CODE)


@pytest.mark.parametrize("other", [CODE.replace("+", "-"), CODE.replace("1", "2"), CODE.replace("x", "y"), "", "f = 1"])
def test_code_has(tmp_path, other):
    assert digest(tmp_path, other) != digest(tmp_path, CODE)


def test_names_of_files_have(tmp_path):
    before = digest(tmp_path, CODE)
    (tmp_path / "module.py").rename(tmp_path / "other.py")
    assert digest_of({"part": tmp_path}) != before
    (tmp_path / "data.json").write_text("{}")  # is not code
    (tmp_path / ".#other.py").symlink_to("nowhere")  # an editor's lock
    assert digest_of({"part": tmp_path}) != before


def test_every_part_is_there():
    """A package that is moved or renamed cannot drop out unnoticed."""
    for part in PARTS:
        place = files("adasde").joinpath(part)
        assert place.is_file() or any(entry.name.endswith(".py") for entry in place.iterdir()), part
    assert source_digest() == digest_of({part: files("adasde").joinpath(part) for part in PARTS})


def test_fields_that_only_newer_versions_of_python_have_count_if_they_are_used(monkeypatch):
    """Such as ``type_params`` of a function, which is an empty list from 3.12 on."""
    tree = ast.parse("def f(): pass")
    plain = source._plain(tree)
    function = tree.body[0]
    monkeypatch.setattr(type(function), "_fields", (*type(function)._fields, "newer"))
    function.newer = []
    assert source._plain(tree) == plain
    function.newer = [ast.Name("T")]
    assert source._plain(tree) != plain
