"""Arrays of images from the official files."""

import pickle
import shutil

import numpy as np
import pytest

from adasde.workloads.data import images
from adasde.workloads.data.registry import load_arrays
from workloads.archives import cifar_archive, idx, prepare_cifar


def test_cifar_archive_in_the_official_form(tmp_path, monkeypatch):
    content, batches = cifar_archive()
    prepare_cifar(content, tmp_path, monkeypatch)
    tensors = load_arrays("cifar-10", tmp_path)
    assert tensors["train-images"].shape == (20, 3, 32, 32)
    pixels, labels = batches["data_batch_2"]
    assert np.array_equal(tensors["train-images"][5, 1], pixels[1].reshape(3, 32, 32)[1])
    assert tensors["train-labels"][4:8].tolist() == labels
    assert tensors["test-labels"].tolist() == batches["test_batch"][1]


def test_an_archive_builds_nothing_but_arrays():
    content, _ = cifar_archive(extra=shutil.rmtree)
    with pytest.raises(pickle.UnpicklingError, match="no place in an archive of images"):
        images.cifar10({"cifar-10-python.tar.gz": content})


def test_other_bytes_are_no_idx_file():
    with pytest.raises(ValueError, match="not an idx file of 3 dimensions"):
        images._idx(idx(np.zeros((2, 2), np.uint8)) + bytes(20), 3)
