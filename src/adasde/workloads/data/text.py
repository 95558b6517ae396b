"""Text as arrays of tokens, one document after another, each ended by the tokenizer's end-of-text token.

A text data set has, per split, ``<split>-tokens`` (tokens,) and their ``<split>-index`` (documents + 1,), as arrays.py
describes it. Beside them lies ``tokenizer``, the bytes of its JSON form.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from adasde.common import InputError

# RoBERTa's special tokens, at RoBERTa's places; GPT-2 models use </s> as their end of text.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
END = ("</s>", "<|endoftext|>")  # the first of these that a tokenizer knows ends its documents


def vocabulary(tensors: Mapping[str, Any]) -> dict[str, int]:
    """Return the vocabulary of a prepared text data set's tokenizer: token -> number."""
    return Tokenizer.from_str(tensors["tokenizer"].numpy().tobytes().decode()).get_vocab()


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of every text, without special ones."""
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def end_of(tokenizer: Tokenizer) -> int:
    """Return the number of the token that ends a document; InputError if the tokenizer has none."""
    for name in END:
        if (found := tokenizer.token_to_id(name)) is not None:
            return found
    raise InputError(f"tokenizer: knows no token that ends a document, {' or '.join(END)}")
