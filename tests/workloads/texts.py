"""Files and arrays of text in exactly the real forms, for tests."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

MINI = ("wiki-gpt2", "wiki-roberta")  # the small language models
WORDS = ["the", "of", "and", "in", "to", "a", "is", "was", "for", "on", "as", "with", "by", "he", "that", "from", "at"]


def prose(seed, words=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def byte_level(special, path, vocabulary=300):
    """A small byte-level BPE tokenizer in the form of GPT-2's or RoBERTa's tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prose(0)], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def documents(arrays, split, tokenizer):
    tokens, index = arrays[f"{split}-tokens"], arrays[f"{split}-index"]
    return [tokenizer.decode(tokens[a : b - 1].tolist()) for a, b in zip(index, index[1:], strict=False)]


# WikiText: rows are lines, each with its newline; an article starts with a line " = Title = \n".
WIKITEXT = {
    "train": [
        "", " = First = \n", "", f" {prose(1)} \n", " = = Part = = \n", f" {prose(2)} \n",
        " = Second = \n", f" {prose(3)} \n",
    ],
    "validation": ["", " = Third = \n", f" {prose(4)} \n"],
    "test": ["", " = Fourth = \n", f" {prose(5)} \n"],
}  # fmt: skip
