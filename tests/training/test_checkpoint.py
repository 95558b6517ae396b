"""Checkpoints that are damaged, of another spec, or made by different code."""

import json
import os
import struct

import pytest
import torch

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.training import checkpoint
from adasde.training.checkpoint import read_checkpoint, read_weights, write_checkpoint
from adasde.training.loop import train
from conftest import changed, slow


def test_a_checkpoint_of_another_spec_is_refused_by_name(small_spec, task, tmp_path):
    path = tmp_path / "checkpoint"
    train(small_spec, task, path, every=0)
    with pytest.raises(InputError, match="checkpoint of another spec") as refused:
        train(changed(small_spec, seed=7), task, path)
    assert str(refused.value) == (
        f"{path}: checkpoint of another spec (seed = 0 there and 7 here); delete it, or name another file"
    )


def test_a_damaged_checkpoint_costs_the_work_and_nothing_else(small_spec, task, tmp_path, caplog):
    path = tmp_path / "checkpoint"
    whole, _ = train(small_spec, task, path, every=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again, _ = train(small_spec, task, path, every=0)
    assert "damaged checkpoint" in caplog.text
    assert rows_digest(again) == rows_digest(whole)


def altered(state, place, value):
    """A copy of nested states with another value at a place; None takes what is there away."""
    key, *rest = place
    copy = list(state) if isinstance(state, list | tuple) else dict(state)
    if rest:
        copy[key] = altered(state[key], rest, value)
    elif value is None:
        del copy[key]
    else:
        copy[key] = value
    return copy


def test_c8_a_checkpoint_of_other_code_begins_anew(small_spec, task, tmp_path, caplog, monkeypatch):
    """It is stopped in its middle, and the code is changed: the result is that of the new code alone."""
    path = tmp_path / "checkpoint"
    whole, _ = train(small_spec, task)
    monkeypatch.setattr(checkpoint, "source_digest", lambda: "0123456789abcdef")
    train(small_spec, task, path, until=(640, tmp_path / "state"), every=0)
    monkeypatch.undo()
    again, _ = train(small_spec, task, path)
    assert f"{path}: made by different code, starting from the beginning" in caplog.text
    assert rows_digest(again) == rows_digest(whole)
    caplog.clear()
    again, _ = train(small_spec, task, earlier=tmp_path / "state")
    assert f"{tmp_path / 'state'}: made by different code, starting from the beginning" in caplog.text
    assert rows_digest(again) == rows_digest(whole)


@pytest.mark.parametrize("task", ["fashion-cnn", slow("fashion-resnet")], indirect=True)
def test_c16_a_valid_digest_over_other_states_begins_anew(small_spec, task, tmp_path, caplog, broken):
    path, short = tmp_path / "checkpoint", changed(small_spec, samples=160, evaluate=[160])
    whole, _ = train(short, task, path, every=0)
    state = read_checkpoint(path)
    weight = next(iter(state["model"]))
    changes = [((name,), None) for name in state.keys() - {"spec", "source"}]
    changes += [((name,), {}) for name in state.keys() - {"spec", "source"}]
    changes += [
        (("step",), -1), (("step",), 10**9), (("step",), 0.5), (("seconds",), "x"), (("rows",), [(1, 2)]),
        (("rows",), [("a", "b", "c", "d", "e")]), (("generators",), []),
        (("generators",), [[state["generators"][0][0][:7]]]),
        (("model", weight), None), (("model", weight), state["model"][weight][:1]), (("draws", "order"), 3),
        (("optimizer",), {"state": {}, "param_groups": []}), (("meter",), {"x": 1}),
    ]  # fmt: skip
    for place, value in changes:
        caplog.clear()
        write_checkpoint(path, state["spec"], altered(state, place, value))
        again, _ = train(short, task, path)
        assert f"{path}: holds other states than this run has, starting from the beginning" in caplog.text, place
        assert rows_digest(again) == rows_digest(whole), place
    for other in ("null", "[]", "{", "1"):
        write_checkpoint(path, other, state)
        again, _ = train(short, task, path)
        assert f"{path}: holds no states of a run, starting from the beginning" in caplog.text
        assert rows_digest(again) == rows_digest(whole)
    broken("odd file", "checkpoint with a valid digest over other states", len(changes) + 4, "begun anew, and said so")


def test_a_checkpoint_is_kept_where_the_memory_is_too_small_for_it(small_spec, task, tmp_path, monkeypatch):
    """Which says nothing of the checkpoint, so the run does not begin anew."""
    path = tmp_path / "checkpoint"
    train(small_spec, task, path, until=(640, tmp_path / "state"), every=0)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    before = path.read_bytes()
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(small_spec, task, path)
    assert path.read_bytes() == before


def test_c14_a_pipe_is_no_checkpoint(small_spec, task, tmp_path):
    os.mkfifo(tmp_path / "checkpoint")
    with pytest.raises(InputError, match="checkpoint: is a pipe, a socket or a device; name a file"):
        train(small_spec, task, tmp_path / "checkpoint")


def safetensors(header, content=b"", length=None):
    """A file of this format with a header as it is given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


TWO = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        safetensors({}),
        safetensors({"__metadata__": {}}),
        safetensors({"__metadata__": {"spec_hash": {"nested": "1"}}}),
        safetensors({"__metadata__": {"spec_hash": 1}}),
        safetensors({"__metadata__": None}),
        safetensors(b"[" * 100_000),
        safetensors(b"null"),
        safetensors(b"{}", length=2**63),
        safetensors(TWO, bytes(8)),
        safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
        safetensors(
            {"__metadata__": {"spec_hash": "0" * 64}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
            bytes(8),
        ),
        safetensors({"__metadata__": {"spec_hash": "0" * 64, "sha256": "x"}}),
    ],
    ids=range(14),
)
def test_weights_with_odd_or_no_metadata_are_refused(content, tmp_path, broken):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(InputError, match="w: (no safetensors file|damaged|weights of another run)") as caught:
        read_weights(tmp_path / "w", "0" * 64)
    assert "\n" not in str(caught.value)
    broken("odd file", "weights with odd or no metadata", 1, "refused in one line")
