"""Checkpoints that are damaged, or of another spec."""

import pytest

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.training.loop import train
from conftest import changed


def test_a_checkpoint_of_another_spec_is_refused_by_name(small_spec, task, tmp_path):
    path = tmp_path / "checkpoint"
    train(small_spec, task, path, every=0)
    with pytest.raises(InputError, match="checkpoint of another spec") as refused:
        train(changed(small_spec, seed=7), task, path)
    assert str(refused.value) == (
        f"{path}: checkpoint of another spec (seed differ; seed is 0 there and 7 here); delete it, or name another file"
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
