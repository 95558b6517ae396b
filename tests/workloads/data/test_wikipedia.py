"""The Wikipedia extract: real text, and a small dump of exactly the real form."""

import bz2

import numpy as np
from tokenizers import Tokenizer

from adasde.workloads.data import wikipedia
from adasde.workloads.data.registry import dataset_named, load_arrays
from workloads.texts import documents, prose


def wiki_dump(articles):
    """A dump in MediaWiki's export form, compressed, as gensim's extract is."""
    pages = "".join(
        f"<page><title>{title}</title><ns>0</ns><id>{n + 1}</id><revision><id>{n + 1}</id>"
        f"<text>{body}</text></revision></page>"
        for n, (title, body) in enumerate(articles)
    )
    space = "http://www.mediawiki.org/xml/export-0.10/"
    return bz2.compress(f'<mediawiki xmlns="{space}" version="0.10">{pages}</mediawiki>'.encode())


def article(seed, sections=12):
    parts = [f"'''Title {seed}''' {prose(seed, 100)}"]
    for n in range(sections):
        parts.append(f"== Section {n} ==\n{prose(1000 * seed + n, 90)}\n* a list item\n")
    return "\n\n".join(parts)


def test_the_wikipedia_extract_is_real_and_split_by_article(data_root):
    tensors = load_arrays("wiki-mini", data_root)
    tokenizer = Tokenizer.from_str(tensors["tokenizer"].numpy().tobytes().decode())
    assert len(tensors["train-tokens"]) == dataset_named("wiki-mini").train_size
    assert len(tensors["test-tokens"]) == dataset_named("wiki-mini").test_size
    assert [len(tensors[f"{split}-index"]) - 1 for split in ("train", "validation", "test")] == [90, 5, 5]
    found = documents(tensors, "train", tokenizer)
    assert found[0].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    assert not any("==" in document or "'''" in document for document in found)
    held = documents(tensors, "validation", tokenizer)
    assert not set(held) & set(found)
    labels, tested = tensors["paragraphs-train-labels"], tensors["paragraphs-test-labels"]
    assert set(labels.tolist()) == set(tested.tolist()) == set(range(52))
    assert len(labels) == len(tensors["paragraphs-train-index"]) - 1 == 2166


def test_paragraphs_are_split_by_section_so_that_text_does_not_leak():
    dump = wiki_dump([(f"T{n}", article(n)) for n in range(25)])
    arrays = wikipedia.wiki_mini({"x.bz2": dump})
    again = wikipedia.wiki_mini({"x.bz2": dump})
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    tokenizer = Tokenizer.from_str(arrays["tokenizer"].tobytes().decode())

    def paragraphs(split):
        tokens, index = arrays[f"paragraphs-{split}"], arrays[f"paragraphs-{split}-index"]
        return [tokenizer.decode(tokens[a : b - 1].tolist()) for a, b in zip(index, index[1:], strict=False)]

    train, test = paragraphs("train"), paragraphs("test")
    assert not set(train) & set(test)
    # Of an introduction and twelve sections every third is for testing, of 23 training articles.
    assert (len(train), len(test)) == (23 * 9, 23 * 4)
    assert max(arrays["paragraphs-test-labels"]) == 22
