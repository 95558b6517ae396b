"""Workloads on real text, and ImageNet in small archives."""

from dataclasses import replace

import pytest
from torchvision.datasets import imagenet as official

from adasde.workloads import language
from adasde.workloads.data import imagenet
from adasde.workloads.data.registry import DATASETS, load_arrays, prepare
from workloads.archives import LEAVES, TEST, TRAIN, Miniature, loaded
from workloads.texts import MINI


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    return Miniature(tmp_path_factory.mktemp("archives"))


@pytest.fixture
def mini(archives, monkeypatch):
    """The miniature in the registry, and nothing prepared."""
    monkeypatch.delenv(imagenet.FOLDER, raising=False)
    monkeypatch.setattr(official, "ARCHIVE_META", archives.hashes)
    monkeypatch.setattr(imagenet, "BLOCK", 4)
    entry = replace(DATASETS["imagenet"], train_size=TRAIN, test_size=TEST, classes=len(LEAVES))
    monkeypatch.setitem(DATASETS, "imagenet", entry)
    return archives


@pytest.fixture
def root(mini, tmp_path):
    """A data folder with the archives in it."""
    mini.put(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def whole(root):
    """The arrays of a packed data set that nothing has disturbed."""
    return loaded(prepare("imagenet", root, packed=True))


@pytest.fixture
def packed_folder(whole, root):
    """The data set's folder, packed from the archives, of which nothing else is left."""
    for of in imagenet.SPLITS.values():
        (root / f"imagenet/sources/{of}").rename(root / of)
    return root / "imagenet"


@pytest.fixture(scope="module")
def wiki(data_root):
    """The two small language models on the real extract, by name, and its arrays."""
    tensors = load_arrays("wiki-mini", data_root)
    return {name: language.load(name, tensors) for name in MINI}, tensors
