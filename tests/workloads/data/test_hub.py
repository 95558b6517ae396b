"""Texts from a hub or from files put by hand, offline."""

import hashlib
import json

import datasets
import huggingface_hub
import pytest
from tokenizers import Tokenizer

from adasde.common import InputError
from adasde.workloads.data import hub
from adasde.workloads.data.entries import Corpus, Source
from adasde.workloads.data.registry import DATASETS, dataset_named, prepare
from workloads.texts import WIKITEXT, byte_level, parquet, prose


def test_only_the_hub_is_left_where_no_file_was_put_by_hand(tmp_path, monkeypatch):
    for module in (huggingface_hub.constants, datasets.config):  # which would ask an unreachable hub five times
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    byte_level(["<|endoftext|>"], tmp_path / "wikitext-103/sources/tokenizer.json")
    corpus = dataset_named("wikitext-103")
    source = corpus.sources["train"][0]
    with pytest.raises(
        InputError, match=r"train: cannot be read from Salesforce/wikitext \(.*\); put its parquet files"
    ):
        next(hub.documents(source, tmp_path / "wikitext-103", 0))
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
    assert hub.facts([source], tmp_path) == {"bookcorpus": "x/y@" + "5" * 40}
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"/bookcorpus: cannot be read from x/y \(.*\); put its parquet files into"):
        hub.facts([source], tmp_path)


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
