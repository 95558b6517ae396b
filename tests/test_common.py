"""Whole-or-nothing files, and the lock of a scale."""

import math
import os
import signal
import stat
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from adasde.common import (
    InputError,
    atomic,
    canonical,
    check_writable,
    digest,
    hold,
    one_line,
    positive,
    text_table,
    whole,
)

HOLD = "from adasde.common import hold; hold('results.lock', 'results/mini'); print('held', flush=True); input()"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_the_first_byte_names_the_file_that_is_wanted(tmp_path):
    path = tmp_path / ("x" * 250)  # the temporary name is longer than a name may be
    with pytest.raises(OSError, match="too long") as caught, atomic(path):
        raise AssertionError
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_message_is_one_line_of_sane_length():
    assert one_line("a é\t\x1b[2K\n\u2028\udce9b") == "a é\\t\\x1b[2K\\n\\u2028\\udce9b"
    assert one_line("x" * 600) == "x" * 600
    cut = one_line("begun" + "x" * 10_000 + "must be > 0")
    assert len(cut) == 600
    assert (cut[:5], cut[-11:]) == ("begun", "must be > 0")


def test_a_file_has_the_rights_of_any_other(tmp_path):
    with atomic(tmp_path / "new" / "file") as temporary:
        temporary.write_text("new")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "new/file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_pipe_is_refused_and_a_link_stays(tmp_path):
    """Neither is replaced by a file: whoever reads the pipe would wait, and the link was made on purpose."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(InputError, match=f"^{path}: is a pipe, a socket or a device; name a file$"), atomic(path):
            raise AssertionError
        with pytest.raises(InputError, match=f"^out = {path}: is a pipe, a socket or a device; name a file$"):
            check_writable("out", path)
    for text in ("old", "new"):
        with atomic(tmp_path / "link") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "file").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link", "file"}


def test_a_scale_is_held_until_its_process_ends_however_it_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", HOLD]
    for end in (signal.SIGKILL, signal.SIGTERM):
        first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(command, input="", capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr.splitlines()[-1] == (
            f"adasde.common.InputError: results/mini: process {first.pid} is making this scale here; wait for its end, "
            "or work in a folder of your own"
        )
        os.kill(first.pid, end)
        first.communicate()
    hold("results.lock", "results/mini")  # the killed processes have left no lock
    with pytest.raises(InputError, match=f"results/mini: process {os.getpid()} is making"):
        hold("results.lock", "results/mini")


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    check_writable("--out", tmp_path / "new" / "table.csv")
    with pytest.raises(InputError, match="--out = .*: cannot be written .is a folder."):
        check_writable("--out", tmp_path)
    (tmp_path / "file").touch()
    check_writable("--out", tmp_path, folder=True)
    with pytest.raises(InputError, match="--out = .*file: cannot be written .is a file; name a folder."):
        check_writable("--out", tmp_path / "file", folder=True)
    with pytest.raises(InputError, match="--out = .*: cannot be written"):
        check_writable("--out", tmp_path / "file" / "table.csv")
    for name in (
        "x" * 300,
        "x" * 240 + ".csv",
        "x." + "y" * 130,
        "new/" + "x" * 250,
        "x" * 300 + "/new",
    ):  # or too long for `atomic`
        with pytest.raises(InputError, match="--out = .*: cannot be written .File name too long."):
            check_writable("--out", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_numbers_out_of_range_are_named():
    assert positive("lr", 0.1) == 0.1
    assert whole("steps", 4, least=0) == 4
    for value, shown in ((0, "0"), (-1.5, "-1.5"), (float("nan"), "nan"), ("4", "'4'"), (None, "None")):
        with pytest.raises(InputError, match=f"^lr = {shown}: must be a finite number > 0$"):
            positive("lr", value)
    for value in (2.5, -1):
        with pytest.raises(InputError, match=f"^steps = {value}: must be a whole number >= 0$"):
            whole("steps", value, least=0)


def test_equal_values_have_equal_digests():
    assert canonical({"b": [0.1], "a": 1}) == '{"a":1,"b":[0.1]}'
    assert digest(canonical({"a": 1, "b": [0.1]})) == digest(canonical({"b": [0.1], "a": 1}))
    assert digest(canonical({"a": 1})) != digest(canonical({"a": 2}))


def test_a_table_is_aligned():
    assert text_table([("a", "long"), ("wide", "b")]) == "a     long\nwide  b"


@pytest.mark.parametrize("value", [np.float64(4), np.float32(4), torch.tensor(4.0), Fraction(4), 4, 4.0])
def test_every_kind_of_number_becomes_one_of_python(value):
    assert type(positive("kappa", value)) is float
    assert type(whole("steps", value, least=1)) is int


@pytest.mark.parametrize("value", [True, "4", None, [4], math.nan, math.inf, torch.ones(2), 0])
def test_what_is_not_a_number_is_refused_in_a_line(value):
    with pytest.raises(InputError, match="steps = .*: must be a whole number >= 1"):
        whole("steps", value, least=1)
    with pytest.raises(InputError, match="kappa = .*: must be a finite number > 0"):
        positive("kappa", value)
