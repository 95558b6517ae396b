"""data/text.py, data/corpora.py and data/hub.py: real text, and small files of exactly the real forms, offline."""

import bz2
import hashlib
import json
import logging
import multiprocessing
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from adasde.common import InputError
from adasde.workloads.data import corpora, text
from adasde.workloads.data.corpora import Corpus, Writer
from adasde.workloads.data.hub import Source
from adasde.workloads.data.registry import DATASETS, dataset_named, load_arrays, prepare

WORDS = ["the", "of", "and", "in", "to", "a", "is", "was", "for", "on", "as", "with", "by", "he", "that", "from", "at"]


def prose(seed, words=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test waits for a web that is not there."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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
    tokenizer = text.tokenizer_of(tensors["tokenizer"].numpy().tobytes().decode())
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
    arrays = text.wiki_mini({"x.bz2": dump})
    again = text.wiki_mini({"x.bz2": dump})
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    tokenizer = text.tokenizer_of(arrays["tokenizer"].tobytes().decode())

    def paragraphs(split):
        tokens, index = arrays[f"paragraphs-{split}"], arrays[f"paragraphs-{split}-index"]
        return [tokenizer.decode(tokens[a : b - 1].tolist()) for a, b in zip(index, index[1:], strict=False)]

    train, test = paragraphs("train"), paragraphs("test")
    assert not set(train) & set(test)
    # Of an introduction and twelve sections every third is for testing, of 23 training articles.
    assert (len(train), len(test)) == (23 * 9, 23 * 4)
    assert max(arrays["paragraphs-test-labels"]) == 22


def test_a_changed_or_missing_extract_is_refused(tmp_path, monkeypatch):
    from adasde.workloads.data.fetch import Package

    monkeypatch.setattr(Package, "path", lambda self, file, work: tmp_path / "nothing")
    place = tmp_path / "wiki-mini/sources" / dataset_named("wiki-mini").files[0].name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    with pytest.raises(InputError, match=r"wiki-mini: cannot get enwiki.*Put it at .* by hand; SHA-256 a53f4648"):
        prepare("wiki-mini", tmp_path)
    assert not list(tmp_path.glob("wiki-mini/*.npy"))


# WikiText: rows are lines, each with its newline; an article starts with a line " = Title = \n".
WIKITEXT = {
    "train": [
        "", " = First = \n", "", f" {prose(1)} \n", " = = Part = = \n", f" {prose(2)} \n",
        " = Second = \n", f" {prose(3)} \n",
    ],
    "validation": ["", " = Third = \n", f" {prose(4)} \n"],
    "test": ["", " = Fourth = \n", f" {prose(5)} \n"],
}  # fmt: skip


@pytest.fixture
def wikitext(tmp_path):
    """WikiText-103 with small files in the place of the real ones."""
    folder = tmp_path / "wikitext-103"
    size = byte_level(["<|endoftext|>"], folder / "sources/tokenizer.json").get_vocab_size()
    sources = {}
    for split, lines in WIKITEXT.items():
        parquet(folder / f"sources/{split}/{split}-00000-of-00001.parquet", [{"text": line} for line in lines])
        (real,) = dataset_named("wikitext-103").sources[split]
        assert real.lines
        sources[split] = (Source(split, "x/y", "z", "0", split, rows=len(lines), lines=True),)
    return folder, Corpus("wikitext-103", "", 0, 0, 0, ("x/y", "0", size), sources)


def test_wikitext_is_read_article_by_article(wikitext):
    folder, corpus = wikitext
    arrays = loaded(folder, corpus.make(folder))
    tokenizer = Tokenizer.from_file(str(folder / "sources/tokenizer.json"))
    assert [len(documents(arrays, split, tokenizer)) for split in WIKITEXT] == [2, 1, 1]
    found = documents(arrays, "train", tokenizer)
    assert found[0].startswith(" = First = \n")
    assert found[0].endswith(f" {prose(2)} \n")
    assert "".join(found) == "".join(WIKITEXT["train"])
    assert arrays["train-tokens"].dtype == np.uint16
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
            for split in self.splits:  # a block that was half written
                with self._path(split, "tokens").open("ab") as file:
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


def test_only_the_hub_is_left_where_no_file_was_put_by_hand(tmp_path):
    byte_level(["<|endoftext|>"], tmp_path / "wikitext-103/sources/tokenizer.json")
    corpus = dataset_named("wikitext-103")
    source = corpus.sources["train"][0]
    with pytest.raises(
        InputError, match=r"train: cannot be read from Salesforce/wikitext \(.*\); put its parquet files"
    ):
        next(source.documents(tmp_path / "wikitext-103", 0))
    with pytest.raises(InputError, match="no tokenizer of openai-community/gpt2 .*; put its tokenizer.json at"):
        corpus.make(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="the tokenizer has 2.. tokens, but that of openai-community/gpt2 50257"):
        corpus.make(tmp_path / "wikitext-103")
    assert not list(tmp_path.rglob("*.npy"))


BAD = [
    ("cut", "train-00000-of-00001.parquet: damaged or no parquet file; fetch it again"),
    ("one of two", "second.parquet: damaged or no parquet file; fetch it again"),
    ("rows", "wikitext-103/train: 7 rows, not 8; the files are cut or not the right ones"),
    ("column", "wikitext-103/train: its rows have no column 'text'"),
    ("null", "wikitext-103/train: row 2, text = None: must be a text"),
    ("number", "wikitext-103/train: row 1, text = 7: must be a text"),
    ("hash", "train-00000-of-00001.parquet: SHA-256 is .*, not 000000000000..."),
    ("empty", "wikitext-103: the split train is empty: its files hold no text"),
]


@pytest.mark.parametrize(("what", "message"), BAD, ids=[what for what, _ in BAD])
def test_a_bad_shard_is_one_clear_error_and_nothing_is_half_written(wikitext, what, message):
    folder, corpus = wikitext
    path = folder / "sources/train/train-00000-of-00001.parquet"
    (source,) = corpus.sources["train"]
    if what == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif what == "one of two":
        path.with_name("second.parquet").write_bytes(path.read_bytes()[:200])
    elif what in ("null", "number"):
        parquet(path, [{"text": value} for value in ((" a \n", None) if what == "null" else (7, 8))])
    elif what == "rows":
        parquet(path, [{"text": line} for line in WIKITEXT["train"][:-1]])
    elif what == "column":
        parquet(path, [{"line": line} for line in WIKITEXT["train"]])
    elif what == "hash":
        source = Source(source.name, "x/y", "z", "0", "train", lines=True, sha256=((path.name, "0" * 64),))
    else:
        parquet(path, [{"text": ""}, {"text": " \n"}])
        source = Source(source.name, "x/y", "z", "0", "train", lines=True)
    corpus = Corpus(corpus.name, "", 0, 0, 0, corpus.tokenizer, {**corpus.sources, "train": (source,)})
    with pytest.raises(InputError, match=message) as caught:
        corpus.make(folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*-tokens.npy"))


def test_an_npy_header_is_what_numpy_reads(tmp_path):
    for count in (1, 10**6, 10**12):
        header = corpora.npy_header(np.dtype(np.uint16), count)
        assert len(header) == corpora.HEADER
    path = tmp_path / "x.npy"
    path.write_bytes(corpora.npy_header(np.dtype(np.int64), 3) + np.arange(3).tobytes())
    assert np.load(path).tolist() == [0, 1, 2]


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


def test_two_preparations_at_once_do_no_harm(wikitext, tmp_path, monkeypatch):
    """The second waits for the first, manifest included, and finds its work done: nothing is made twice."""
    folder, corpus = wikitext
    monkeypatch.setitem(DATASETS, corpus.name, corpus)
    make = Corpus.make

    def noted(self, place):
        with (tmp_path / "made").open("a") as file:
            file.write("once\n")
        return make(self, place)

    monkeypatch.setattr(Corpus, "make", noted)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(prepare, [(corpus.name, tmp_path)] * 2) == [folder, folder]
    assert (tmp_path / "made").read_text() == "once\n"
    assert len(load_arrays(corpus.name, tmp_path)["train-index"]) == 3
    assert not (folder / "progress.json").exists()


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


def test_the_manifest_names_the_files_with_their_hashes(wikitext, monkeypatch):
    folder, corpus = wikitext
    monkeypatch.setitem(DATASETS, corpus.name, corpus)
    manifest = json.loads((prepare(corpus.name, folder.parent) / "manifest.json").read_text())
    path = folder / "sources/test/test-00000-of-00001.parquet"
    assert manifest["files"]["test/test-00000-of-00001.parquet"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(manifest["files"]) == 3


def test_a_branch_of_the_hub_is_noted_as_the_commit_that_it_stands_at(tmp_path, monkeypatch):
    source = Source("bookcorpus", "x/y", "z", "main", "train")
    info = type("Info", (), {"sha": "5" * 40})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name, revision: info)
    assert source.facts(tmp_path) == {"bookcorpus": "x/y@" + "5" * 40}
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"/bookcorpus: cannot be read from x/y \(.*\); put its parquet files into"):
        source.facts(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(wikitext):
    folder, corpus = wikitext
    size = byte_level(["<start>"], folder / "sources/tokenizer.json").get_vocab_size()
    corpus = Corpus(corpus.name, "", 0, 0, 0, ("x/y", "0", size), corpus.sources)
    with pytest.raises(InputError, match=r"tokenizer: knows no token that ends a document, </s> or <\|endoftext\|>"):
        corpus.make(folder)


def test_a_damaged_shard_is_one_line_of_the_command(adasde, tmp_path):
    """The libraries would log what they meet, before it is raised."""
    folder = tmp_path / "wikitext-103/sources"
    byte_level(["<|endoftext|>"], folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"idle {n}" for n in range(50_257 - tokenizer.get_vocab_size())])
    tokenizer.save(str(folder / "tokenizer.json"))
    parquet(folder / "train/0.parquet", [{"text": prose(0)}])
    (folder / "train/1.parquet").write_bytes((folder / "train/0.parquet").read_bytes()[:200])
    for split in ("validation", "test"):
        parquet(folder / f"{split}/0.parquet", [{"text": prose(0)}])
    done = adasde("data", "wikitext-103", "--data", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("train/1.parquet: damaged or no parquet file; fetch it again\n")


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
