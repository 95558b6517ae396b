"""The Wikipedia extract that gensim carries: articles as tokens, and paragraphs to be classified by their article."""

import bz2
import io
import re
from collections.abc import Mapping

import numpy as np
from gensim.corpora.wikicorpus import extract_pages, filter_wiki
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from adasde.common import InputError
from adasde.workloads.data.arrays import back_to_back
from adasde.workloads.data.text import SPECIAL, encoded, end_of

WIKI_VOCABULARY = 1024
WIKI_LENGTH = 2000  # least characters of an article: shorter ones are redirects and lists of links
PARAGRAPH = 200  # least characters of a paragraph that says enough to be classified
SECTIONS = 10  # least sections with such paragraphs in an article that is one of the classes


def wiki_mini(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of the Wikipedia extract that gensim carries, cleaned by gensim's own filter.

    Every twentieth article is for validation, and another twentieth for testing. Beside the tokens there are paragraphs
    to be classified by the article that they come from: ``paragraphs-<split>``, tokens with their
    ``paragraphs-<split>-index``, and ``paragraphs-<split>-labels`` (paragraphs,). Their articles are training articles,
    and every third section is kept for testing as a whole.
    """
    (content,) = files.values()
    articles = [text for text in _articles(content) if len(text) >= WIKI_LENGTH]
    split = {7: "validation", 17: "test"}
    parts = {"train": [], "validation": [], "test": []}
    for number, text in enumerate(articles):
        parts[split.get(number % 20, "train")].append(text)
    tokenizer = _trained(_prose(text) for text in parts["train"])
    arrays = {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)}
    for name, texts in parts.items():
        packed = _packed(name, encoded(tokenizer, [_prose(text) for text in texts]), tokenizer)
        arrays[f"{name}-tokens"], arrays[f"{name}-index"] = packed
    for name, (texts, labels) in _paragraphs(parts["train"]).items():
        arrays[name], arrays[f"{name}-index"] = _packed(name, encoded(tokenizer, texts), tokenizer)
        arrays[f"{name}-labels"] = np.array(labels, np.uint8)
    return arrays


def _articles(content):
    """Yield the articles' wiki text without templates, links and tables; headings are still marked."""
    dump = io.BytesIO(bz2.decompress(content))
    for _, text, _ in extract_pages(dump, filter_namespaces=("0",)):
        yield filter_wiki(text)


def _prose(text):
    """Return the text without the marks of headings, bold and italics, and without empty lines."""
    lines = (line.strip().strip("=").strip() for line in re.sub("'{2,}", "", text).splitlines())
    return "\n".join(line for line in lines if line)


def _paragraphs(articles):
    """Return {paragraphs-train: (texts, labels), paragraphs-test: ...} of the articles with enough sections."""
    found = {"paragraphs-train": ([], []), "paragraphs-test": ([], [])}
    label = 0
    for article in articles:
        sections = [
            [_prose(line) for line in section.splitlines() if len(line) >= PARAGRAPH and line[0] not in "*#:="]
            for section in re.split(r"^=+[^=].*$", article, flags=re.M)
        ]
        sections = [section for section in sections if section]
        if len(sections) < SECTIONS:
            continue
        for number, section in enumerate(sections):
            texts, labels = found["paragraphs-test" if number % 3 == 2 else "paragraphs-train"]
            texts += section
            labels += [label] * len(section)
        label += 1
    return found


def _trained(texts):
    """Return a byte-level BPE tokenizer trained on ``texts``, which can encode any text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WIKI_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _packed(split, documents, tokenizer):
    """Return the tokens of documents, each with its end, and their index."""
    if not documents:
        raise InputError(f"the split {split} is empty")
    end = end_of(tokenizer)
    return back_to_back(([*ids, end] for ids in documents), np.uint16)
