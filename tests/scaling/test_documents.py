"""Documents that are none, or that are meant to stop who reads them: one line each, in bounded time and memory."""

import os
import socket
import tracemalloc

import pytest

from adasde.common import InputError
from adasde.scaling.documents import LARGEST, MOST_VALUES, parsed, parsed_json, read_document

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, rf"name: more than {MOST_VALUES:,} values, with every alias written out \(line 6\)"),
        ("a: &a [*a]", r"name: an alias stands for what it is part of \(line 1\)"),
        ("&a {b: 1, c: {d: *a}}", "name: an alias stands for what it is part of"),
        ("a: &a {<<: *a}", "name: an alias stands for what it is part of"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", r"name: << is given twice \(line 2\)"),
        ("[" * 100_000, "name: nests too deeply"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "name: nests too deeply"),
        ("- " * 100_000, "name: nests too deeply"),
        ("a: *b", r"name: not YAML \(line 1\)"),
        ("a: !!python/object/apply:os.system [x]", r"name: not YAML \(line 1\)"),
        ("a: \0", "name: not YAML"),
        ("a: [", r"name: not YAML \(line 1\)"),
        ('{"a": 1} rubbish', r"name: not YAML, nor JSON \(line 1\)"),
        ("a: 1\nb: [\n\n\n", r"name: not YAML \(line 2\)"),
        ("a: " + "9" * 5000, "name: holds a number of more digits than can be read"),
        ("a: 1" + ":1" * 100_000, "name: holds a number of more digits than can be read"),
        ("a: 1" + ":1" * 200 + ".5", "name: not YAML"),  # in base 60 it is larger than a float can be
        ("a: !!bool x", "name: not YAML"),
        ('a: "\\ud800"', r"name: .\\ud800. is half of a character"),
        ('{"a": ["\\udfff"]}', r"name: .\\udfff. is half of a character"),
        ('{"\\udfff": 1}', r"name: .\\udfff. is half of a character"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "name: c is given twice"),
        ('{"a": ' + "9" * 5000 + "}", "name: holds a number of more digits than can be read"),
        ('{"a": ' * 100_000, "name: nests too deeply"),
    ],
    ids=lambda text: text[:30],
)
def test_c13_what_is_no_document_is_one_line(text, line, broken):
    tracemalloc.start()
    with pytest.raises(InputError, match=line) as caught:
        parsed(text, "name")
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    broken("odd file", "aliases without end, deep nesting, half characters, keys given twice", 1, "refused in one line")


def test_aliases_that_end_are_read():
    assert parsed("a: &a [1, {b: 2}]\nc: *a\nd: [*a, *a]", "name")["d"] == [[1, {"b": 2}]] * 2
    assert parsed("a: &a {b: 2, c: 3}\nd: {<<: *a, b: 4}", "name")["d"] == {"b": 4, "c": 3}


def test_whole_characters_are_read():
    assert parsed('{"a": "\\ud83d\\ude00"}', "name") == {"a": "\U0001f600"} == parsed('a: "\U0001f600"', "name")


def test_json_alone_refuses_a_key_that_is_given_twice():
    with pytest.raises(InputError, match="spec: a is given twice"):
        parsed_json('[{"a": 1, "a": 2}]', "spec")


def test_c14_pipes_sockets_devices_and_huge_files_are_refused(tmp_path, broken):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero", "/dev/null", "/proc/kmsg"):
            with pytest.raises(InputError, match=f"^{path}: is a pipe, a socket or a device; name a file$"):
                read_document(path)
    (tmp_path / "huge").write_bytes(bytes(LARGEST + 1))
    with pytest.raises(InputError, match="huge: 262,145 bytes; such a file has at most 262,144"):
        read_document(tmp_path / "huge")
    (tmp_path / "latin").write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(InputError, match="latin: not text in UTF-8 .byte 2."):
        read_document(tmp_path / "latin")
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "nothing")
    broken("odd file", "pipe, socket, device or huge file in the place of a document", 7, "refused in one line")
