"""Preparing and loading: arrays with their manifest, verified, and shared by processes."""

import hashlib
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from adasde.common import InputError
from adasde.workloads.data.entries import Corpus
from adasde.workloads.data.registry import DATASETS, load_arrays, prepare


def test_prepared_arrays_are_the_files(small, arrays, tmp_path):
    prepare("fashion-mnist", tmp_path / "data")
    tensors = load_arrays("fashion-mnist", tmp_path / "data")
    assert tensors["train-images"].shape == (20, 1, 28, 28)
    assert tensors["train-images"].dtype == torch.uint8
    assert np.array_equal(tensors["train-images"][:, 0], arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(tensors["test-labels"], arrays["t10k-labels-idx1-ubyte.gz"])


def test_a_prepared_set_is_left_alone_and_an_altered_one_mended(small, tmp_path):
    folder = prepare("fashion-mnist", tmp_path / "data")
    path = folder / "train-images.npy"
    before = path.stat().st_mtime_ns
    prepare("fashion-mnist", tmp_path / "data")
    assert path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train-images.npy: missing or altered; run `adasde data fashion-mnist"):
        load_arrays("fashion-mnist", tmp_path / "data")
    prepare("fashion-mnist", tmp_path / "data")
    assert len(load_arrays("fashion-mnist", tmp_path / "data")["train-images"]) == 20


@pytest.mark.parametrize("fault", ["missing", "dtype", "shape"])
def test_arrays_of_other_code_are_named_and_made_again(fault, small, tmp_path):
    """Their digests are right, and training would stumble over them."""
    root = tmp_path / "my data"
    folder = prepare("fashion-mnist", root)
    path = folder / "manifest.json"
    manifest, content = json.loads(path.read_text()), np.load(folder / "train-labels.npy")
    if fault == "missing":
        del manifest["arrays"]["train-labels"]
    else:
        content = content.astype(np.int64) if fault == "dtype" else content[:, None]
        np.save(folder / "train-labels.npy", content)
        digest = hashlib.sha256((folder / "train-labels.npy").read_bytes()).hexdigest()
        facts = {"sha256": digest, "shape": content.shape, "dtype": str(content.dtype)}
        manifest["arrays"]["train-labels"] = facts
    path.write_text(json.dumps(manifest))
    there = {"missing": "no such array", "dtype": "numbers of int64", "shape": r"items of uint8 \[1\]"}[fault]
    line = (
        rf"my data/fashion-mnist: prepared by different code \(train-labels: {there}, and not numbers of uint8\); run "
    )
    with pytest.raises(InputError, match=line + f"`adasde data fashion-mnist --data '{root}'`"):
        load_arrays("fashion-mnist", root)
    prepare("fashion-mnist", root)
    assert load_arrays("fashion-mnist", root)["train-labels"].shape == (20,)


def test_arrays_are_those_that_the_registry_declares(data_root):
    for name in ("fashion-mnist", "wiki-mini"):
        arrays = load_arrays(name, data_root)
        forms = {array: (str(tensor.numpy().dtype), tuple(tensor.shape[1:])) for array, tensor in arrays.items()}
        assert forms == DATASETS[name].forms


def _prepare(arguments):
    return str(prepare(*arguments))


@pytest.mark.slow
def test_two_processes_preparing_at_once_do_no_harm(data_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data_root / "fashion-mnist/sources", root / "fashion-mnist/sources")
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_prepare, [("fashion-mnist", root)] * 2))
    assert len(load_arrays("fashion-mnist", root)["train-images"]) == 60_000
    assert not list(root.rglob(".*"))


def test_the_real_data(data_root):
    tensors = load_arrays("fashion-mnist", data_root)
    dataset = DATASETS["fashion-mnist"]
    assert tensors["train-images"].shape == (dataset.train_size, 1, 28, 28)
    assert tensors["test-images"].shape == (dataset.test_size, 1, 28, 28)
    assert torch.equal(tensors["train-labels"].bincount(), torch.full((10,), 6000))
    pixels = tensors["train-images"].double() / 255
    assert (pixels.mean() - 0.2860).abs() < 5e-5
    assert (pixels.std() - 0.3530).abs() < 5e-5


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="data = 'mnist': must be one of fashion-mnist, cifar-10"):
        prepare("mnist", tmp_path)
    with pytest.raises(InputError, match="not prepared; run `adasde data cifar-10 --data '.*/a b'`"):
        load_arrays("cifar-10", tmp_path / "a b")


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
