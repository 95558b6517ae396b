"""Data sets in small files of exactly the real forms, and no network."""

import gzip
import hashlib
from dataclasses import replace

import datasets
import numpy as np
import pytest

from adasde.workloads.data.entries import Corpus, Source
from adasde.workloads.data.fetch import File
from adasde.workloads.data.registry import DATASETS, dataset_named
from workloads.archives import Folder, idx
from workloads.texts import WIKITEXT, byte_level, parquet


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test waits for a web that is not there."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte.gz": random.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": random.integers(0, 10, 20, dtype=np.uint8),
        "t10k-images-idx3-ubyte.gz": random.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": random.integers(0, 10, 10, dtype=np.uint8),
    }


@pytest.fixture
def small(arrays, tmp_path, monkeypatch):
    """Fashion-MNIST in the registry replaced by 30 images in the same files, at one source."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    files = []
    for name, array in arrays.items():
        (mirror / name).write_bytes(gzip.compress(idx(array)))
        files.append(File(name, hashlib.sha256(idx(array)).hexdigest(), decompressed=True))
    dataset = replace(DATASETS["fashion-mnist"], files=tuple(files), sources=(Folder(mirror),))
    monkeypatch.setitem(DATASETS, "fashion-mnist", dataset)
    return mirror
