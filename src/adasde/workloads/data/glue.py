"""The GLUE benchmark: sentences or pairs of sentences to be classified, as token arrays with labels.

Wang et al. 2018. The test labels are not public, so models are tested on the validation split, as is usual.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adasde.common import InputError
from adasde.workloads.base import Dataset
from adasde.workloads.data.arrays import back_to_back, save_arrays
from adasde.workloads.data.hub import Source, facts_of, pretrained_tokenizer
from adasde.workloads.data.text import encoded

REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"  # of the data sets on the hub
SEPARATOR = "</s>"  # twice between the sentences of a pair, as RoBERTa has it


@dataclass(frozen=True)
class Glue(Dataset):
    """Registry entry of one task: its ``columns`` of text, and its numbers of examples.

    The arrays are those that text.py describes for paragraphs, named ``glue-train`` and ``glue-test``. Labels are
    classes, or numbers for a regression.
    """

    config: str
    columns: tuple[str, ...]
    train_size: int
    test_size: int
    download_bytes: int
    tokenizer: tuple[str, str, int]
    validation: str = "validation"
    regression: bool = False
    licence: str = "several; see the GLUE benchmark"
    unit: str = "examples"

    @property
    def name(self) -> str:
        """Name in the registry."""
        return f"glue-{self.config}"

    @property
    def prepared_bytes(self) -> int:
        """Approximate bytes of its arrays: tokens of two bytes take what compressed text does, place and label 16."""
        return self.download_bytes + 16 * (self.train_size + self.test_size)

    @property
    def sources(self) -> dict[str, Source]:
        """The source of every split's examples."""
        return {
            split: Source(of, "nyu-mll/glue", self.config, REVISION, of)
            for split, of in (("train", "train"), ("test", self.validation))
        }

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what the arrays in ``folder`` were made from."""
        return {"files": facts_of(self.sources.values(), folder)}

    def make(self, folder: Path) -> list[str]:
        """Write the arrays as .npy files and return their names. InputError if a source is missing or not whole."""
        tokenizer = pretrained_tokenizer(self.name, folder, *self.tokenizer)
        arrays = {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)}
        for (split, source), size in zip(self.sources.items(), (self.train_size, self.test_size), strict=True):
            rows = list(source.read(folder, texts=self.columns, numbers=("label",)))
            if len(rows) != size:
                what = f"{self.name}: {len(rows)} rows in {source.name}, not {size}"
                raise InputError(f"{what}; the files are not the right ones")
            arrays |= self._arrays(f"glue-{split}", rows, tokenizer)
        return save_arrays(folder, arrays)

    def _arrays(self, name, rows, tokenizer):
        end = tokenizer.token_to_id(SEPARATOR)
        parts = [encoded(tokenizer, [row[column] for row in rows]) for column in self.columns]
        texts = [
            [*first, *(token for more in rest for token in (end, end, *more)), end]
            for first, *rest in zip(*parts, strict=True)
        ]
        labels = np.array([row["label"] for row in rows], np.float32 if self.regression else np.int64)
        if not self.regression and labels.min() < 0:
            raise InputError(f"{self.name}: a row has no label; the split is the hidden one")
        tokens, index = back_to_back(texts, np.uint16)
        return {name: tokens, f"{name}-index": index, f"{name}-labels": labels}


ROBERTA = ("FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59", 50_265)
TASKS = tuple(
    Glue(config, columns, train, test, size, ROBERTA, **options)
    for config, columns, train, test, size, options in (
        ("cola", ("sentence",), 8_551, 1_043, 377_000, {}),
        ("sst2", ("sentence",), 67_349, 872, 3_300_000, {}),
        ("mrpc", ("sentence1", "sentence2"), 3_668, 408, 1_030_000, {}),
        ("stsb", ("sentence1", "sentence2"), 5_749, 1_500, 760_000, {"regression": True}),
        ("qqp", ("question1", "question2"), 363_846, 40_430, 73_000_000, {}),
        ("mnli", ("premise", "hypothesis"), 392_702, 9_815, 57_000_000, {"validation": "validation_matched"}),
        ("qnli", ("question", "sentence"), 104_743, 5_463, 19_300_000, {}),
        ("rte", ("sentence1", "sentence2"), 2_490, 277, 900_000, {}),
    )
)
