"""Corpora become token arrays, whatever interrupts it."""

import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from adasde.common import InputError
from adasde.workloads.data import corpora, text
from adasde.workloads.data.corpora import Writer
from adasde.workloads.data.entries import Corpus, Source
from adasde.workloads.data.registry import dataset_named
from workloads.texts import WIKITEXT, byte_level, documents, parquet, prose


def clear(folder):
    for path in (*folder.glob("*.npy"), folder / "progress.json"):
        path.unlink()


def kill_before_the_end(corpus, folder, monkeypatch):
    """Prepare ``corpus`` in blocks of one document, and be killed when all are written but no file has its name."""
    monkeypatch.setattr(Writer, "BLOCK", 1)
    with monkeypatch.context() as dying:
        dying.setattr(Writer, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            corpus.make(folder)


def loaded(folder, names):
    return {name: np.load(folder / f"{name}.npy") for name in names}


def test_wikitext_is_read_article_by_article(wikitext):
    folder, corpus = wikitext
    arrays = loaded(folder, corpus.make(folder))
    tokenizer = Tokenizer.from_file(str(folder / "sources/tokenizer.json"))
    assert [len(documents(arrays, split, tokenizer)) for split in WIKITEXT] == [2, 1, 1]
    found = documents(arrays, "train", tokenizer)
    assert found[0].startswith(" = First = \n")
    assert found[0].endswith(f" {prose(2)} \n")
    assert "".join(found) == "".join(WIKITEXT["train"])
    assert {name: (str(array.dtype), array.shape[1:]) for name, array in arrays.items()} == corpus.forms
    assert (arrays["train-tokens"][arrays["train-index"][1:] - 1] == tokenizer.token_to_id("<|endoftext|>")).all()


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("calls", [1, 2])
def test_an_interrupted_preparation_goes_on_where_it_was(wikitext, monkeypatch, block, calls):
    folder, corpus = wikitext
    whole = loaded(folder, corpus.make(folder))
    clear(folder)
    monkeypatch.setattr(Writer, "BLOCK", block)
    flush, count = Writer._flush, [0]

    def dying(self):
        count[0] += 1
        if count[0] == calls:
            for split in self.lengths:  # a block that was half written
                with self._part(split, "tokens").open("ab") as file:
                    file.write(b"garbage")
            raise KeyboardInterrupt
        flush(self)

    monkeypatch.setattr(Writer, "_flush", dying)
    with pytest.raises(KeyboardInterrupt):
        corpus.make(folder)
    assert not list(folder.glob("train-*.npy"))
    monkeypatch.setattr(Writer, "_flush", flush)
    again = loaded(folder, corpus.make(folder))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert not list(folder.glob("*.part"))


def test_wiki_and_books_share_their_arrays_and_hold_documents_out(tmp_path):
    folder = tmp_path / "wiki-books"
    tokenizer = byte_level(list(text.SPECIAL), folder / "sources/tokenizer.json")
    pages = [{"id": str(n), "url": "u", "title": f"T{n}", "text": prose(n)} for n in range(40)]
    books = [{"text": prose(100 + n)} for n in range(40)]
    for name, rows in (("wikipedia", pages), ("bookcorpus", books)):
        for part in (0, 1):
            parquet(folder / f"sources/{name}/{part:04d}.parquet", rows[20 * part : 20 * part + 20])
    real = dataset_named("wiki-books")
    assert [source.name for source in real.sources["train"]] == ["wikipedia", "bookcorpus"]
    sources = {
        "train": tuple(
            Source(s.name, "x/y", "z", "0", "train", rows=40, joined=min(4, s.joined)) for s in real.sources["train"]
        )
    }
    corpus = Corpus("wiki-books", "", 0, 0, 0, ("x/y", "0", tokenizer.get_vocab_size()), sources, held_out=5)
    arrays = loaded(folder, corpus.make(folder))
    train, held = (documents(arrays, split, tokenizer) for split in ("train", "validation"))
    joined = ["\n".join(row["text"] for row in books[n : n + 4]) for n in range(0, 40, 4)]  # sentences of books
    assert sorted(train + held) == sorted([*(row["text"] for row in pages), *joined])
    assert 2 < len(held) < 25
    assert train[0] in (pages[0]["text"], pages[1]["text"])


def test_a_kill_between_the_names_of_files_costs_nothing(wikitext, monkeypatch):
    folder, corpus = wikitext
    whole = loaded(folder, corpus.make(folder))
    clear(folder)
    replace, count = Path.replace, [0]

    def dying(self, target):
        if self.suffix == ".part":
            count[0] += 1
            if count[0] == 4:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        corpus.make(folder)
    assert len(list(folder.glob("*.part"))) == 3
    monkeypatch.setattr(Path, "replace", replace)
    again = loaded(folder, corpus.make(folder))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_arrays_of_an_earlier_preparation_are_not_taken_for_new_ones(wikitext, monkeypatch):
    """An array was damaged, the next preparation is killed, and the one after that must not take the old array."""
    folder, corpus = wikitext
    whole = loaded(folder, corpus.make(folder))
    (folder / "progress.json").unlink()  # as after a manifest
    path = folder / "train-tokens.npy"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    kill_before_the_end(corpus, folder, monkeypatch)
    again = loaded(folder, corpus.make(folder))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_a_kill_before_the_manifest_costs_no_document(wikitext, monkeypatch):
    folder, corpus = wikitext
    whole = loaded(folder, corpus.make(folder))
    monkeypatch.setattr(corpora, "encoded", lambda tokenizer, texts: [[] for _ in texts])  # would lose every token
    again = loaded(folder, corpus.make(folder))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_what_another_tokenizer_or_a_cut_file_left_is_not_gone_on_with(wikitext, monkeypatch):
    folder, corpus = wikitext
    kill_before_the_end(corpus, folder, monkeypatch)
    part = folder / "train-tokens.part"
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"tokens.part: not what progress.json says; delete /.*/progress.json to"):
        corpus.make(folder)
    byte_level(["<|endoftext|>"], folder / "sources/tokenizer.json", vocabulary=280)
    smaller = Corpus(corpus.name, "", 0, 0, 0, ("x/y", "0", 280), corpus.sources)
    assert loaded(folder, smaller.make(folder))["train-tokens"].max() < 280


def test_what_other_files_left_is_not_gone_on_with(wikitext, monkeypatch):
    folder, corpus = wikitext
    kill_before_the_end(corpus, folder, monkeypatch)
    lines = [line.replace("the", "other") for line in WIKITEXT["train"]]
    parquet(folder / "sources/train/train-00000-of-00001.parquet", [{"text": line} for line in lines])
    tokenizer = Tokenizer.from_file(str(folder / "sources/tokenizer.json"))
    assert "".join(documents(loaded(folder, corpus.make(folder)), "train", tokenizer)) == "".join(lines)


def test_a_damaged_note_of_progress_is_begun_anew(wikitext, monkeypatch):
    folder, corpus = wikitext
    whole = loaded(folder, corpus.make(folder))
    kill_before_the_end(corpus, folder, monkeypatch)
    (folder / "progress.json").write_text('{"tok')
    again = loaded(folder, corpus.make(folder))
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_a_tokenizer_without_an_end_is_refused(wikitext):
    folder, corpus = wikitext
    size = byte_level(["<start>"], folder / "sources/tokenizer.json").get_vocab_size()
    corpus = Corpus(corpus.name, "", 0, 0, 0, ("x/y", "0", size), corpus.sources)
    with pytest.raises(InputError, match=r"tokenizer: knows no token that ends a document, </s> or <\|endoftext\|>"):
        corpus.make(folder)


def test_going_on_is_said_in_the_log(wikitext, monkeypatch, caplog):
    folder, corpus = wikitext
    kill_before_the_end(corpus, folder, monkeypatch)
    assert json.loads((folder / "progress.json").read_text())["rows"]["train/train"] == 8
    with caplog.at_level(logging.INFO):
        corpus.make(folder)
    assert "wikitext-103: going on after" in caplog.text


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch, caplog):
    """Ten times the documents, the same peak: nothing of a block stays behind."""
    tokenizer = byte_level(["<|endoftext|>"], tmp_path / "tokenizer.json")
    monkeypatch.setattr(Writer, "BLOCK", 50)
    peaks = []
    for count in (200, 2000):
        writer = Writer(tmp_path / str(count), tokenizer, ("train",))
        tracemalloc.start()
        with caplog.at_level(logging.INFO):
            for n in range(count):
                writer.add("train", f"{n} " + "the of and in to " * 20, "a", n + 1)
            names = writer.finish()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert len(loaded(tmp_path / "2000", names)["train-index"]) == 2001
    assert "2000: " in caplog.text
    assert "documents" in caplog.text
