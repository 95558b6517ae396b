"""The GLUE benchmark: sentences or pairs of sentences to be classified, as token arrays with labels.

Wang et al. 2018. The test labels are not public, so models are tested on the validation split, as is usual. The arrays
are those that wikipedia.py describes for paragraphs, named ``glue-train`` and ``glue-test``.
"""

from pathlib import Path

import numpy as np

from adasde.common import InputError
from adasde.workloads.data import hub
from adasde.workloads.data.arrays import back_to_back, save_arrays
from adasde.workloads.data.entries import Glue
from adasde.workloads.data.hub import pretrained_tokenizer, read
from adasde.workloads.data.text import encoded

SEPARATOR = "</s>"  # twice between the sentences of a pair, as RoBERTa has it


def facts(task: Glue, folder: Path) -> dict[str, str]:
    """Return what the arrays in ``folder`` are made from."""
    return hub.facts(task.sources.values(), folder)


def make(task: Glue, folder: Path) -> list[str]:
    """Write the arrays into ``folder`` and return their names. InputError if a source is missing or not whole."""
    tokenizer = pretrained_tokenizer(task.name, folder, *task.tokenizer)
    arrays = {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)}
    for (split, source), size in zip(task.sources.items(), (task.train_size, task.test_size), strict=True):
        rows = list(read(source, folder, texts=task.columns, numbers=("label",)))
        if len(rows) != size:
            what = f"{task.name}: {len(rows)} rows in {source.name}, not {size}"
            raise InputError(f"{what}; the files are not the right ones")
        arrays |= _arrays(task, f"glue-{split}", rows, tokenizer)
    return save_arrays(folder, arrays)


def _arrays(task, name, rows, tokenizer):
    end = tokenizer.token_to_id(SEPARATOR)
    parts = [encoded(tokenizer, [row[column] for row in rows]) for column in task.columns]
    texts = [
        [*first, *(token for more in rest for token in (end, end, *more)), end]
        for first, *rest in zip(*parts, strict=True)
    ]
    labels = np.array([row["label"] for row in rows], np.float32 if task.regression else np.int64)
    if not task.regression and labels.min() < 0:
        raise InputError(f"{task.name}: a row has no label; the split is the hidden one")
    tokens, index = back_to_back(texts, np.uint16)
    return {name: tokens, f"{name}-index": index, f"{name}-labels": labels}
