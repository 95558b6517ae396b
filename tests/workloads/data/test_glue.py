"""GLUE's sentences as token arrays."""

import re
from dataclasses import replace

import numpy as np
import pytest

from adasde.common import InputError
from adasde.workloads.data.registry import dataset_named
from adasde.workloads.data.text import SPECIAL
from workloads.texts import byte_level, parquet

BAD_GLUE = [
    ({"sentence": ["a", None], "label": [0, 1]}, "glue-sst2/train: row 2, sentence = None: must be a text"),
    ({"sentence": ["a", "b"], "label": [None, 1]}, "glue-sst2/train: row 1, label = None: must be a number"),
    ({"sentence": ["a", "b"], "label": ["x", "y"]}, "glue-sst2/train: row 1, label = 'x': must be a number"),
    (
        {"sentence": [list(range(1000))] * 2, "label": [0, 1]},
        "glue-sst2/train: row 1, sentence = [0, 1, 2, 3, 4, 5, ...]: must be a text",
    ),
    ({"sentence": ["a", "b"], "label": [-1, -1]}, "glue-sst2: a row has no label; the split is the hidden one"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_GLUE, ids=["sentence", "label", "kind", "long", "hidden"])
def test_a_bad_row_of_glue_is_named(columns, message, tmp_path):
    folder = tmp_path / "glue-sst2"
    vocabulary = byte_level(list(SPECIAL), folder / "sources/tokenizer.json").get_vocab_size()
    entry = replace(dataset_named("glue-sst2"), train_size=2, test_size=2, tokenizer=("x/y", "0", vocabulary))
    for split in ("train", "validation"):
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        parquet(folder / f"sources/{split}/0.parquet", rows)
    with pytest.raises(InputError, match=re.escape(message)):
        entry.make(folder)
    assert not list(folder.glob("*.npy"))


@pytest.mark.parametrize("name", ["glue-sst2", "glue-stsb"])
def test_classes_and_numbers_become_the_arrays_that_the_registry_declares(name, tmp_path):
    folder, entry = tmp_path / name, dataset_named(name)
    vocabulary = byte_level(list(SPECIAL), folder / "sources/tokenizer.json").get_vocab_size()
    entry = replace(entry, train_size=2, test_size=2, tokenizer=("x/y", "0", vocabulary))
    for split in ("train", "validation"):
        rows = [dict.fromkeys(entry.columns, text) | {"label": label} for text, label in (("a", 0), ("b c", 1))]
        parquet(folder / f"sources/{split}/0.parquet", rows)
    arrays = {array: np.load(folder / f"{array}.npy") for array in entry.make(folder)}
    assert {array: (str(found.dtype), found.shape[1:]) for array, found in arrays.items()} == entry.forms
