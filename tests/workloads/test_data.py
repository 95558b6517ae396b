"""data/: sources in order, hashes, the prepared arrays, and what is said when something is wrong."""

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from adasde.common import InputError
from adasde.workloads.data import images
from adasde.workloads.data.fetch import Debian, File, Mirror
from adasde.workloads.data.registry import DATASETS, load_arrays, prepare


def idx(array):
    return struct.pack(">4B", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte.gz": random.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": random.integers(0, 10, 20, dtype=np.uint8),
        "t10k-images-idx3-ubyte.gz": random.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": random.integers(0, 10, 10, dtype=np.uint8),
    }


class Folder:
    """A source that reads from a folder, in the place of Debian or a mirror."""

    def __init__(self, folder, reason=None):
        self.folder, self.reason = folder, reason

    def __str__(self):
        return "folder"

    def path(self, file, work):
        if self.reason:
            raise ValueError(self.reason)
        return self.folder / file.name


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


def use_sources(monkeypatch, *found):
    monkeypatch.setitem(DATASETS, "fashion-mnist", replace(DATASETS["fashion-mnist"], sources=found))


def test_prepared_arrays_are_the_files(small, arrays, tmp_path):
    prepare("fashion-mnist", tmp_path / "data")
    tensors = load_arrays("fashion-mnist", tmp_path / "data")
    assert tensors["train-images"].shape == (20, 1, 28, 28)
    assert tensors["train-images"].dtype == torch.uint8
    assert np.array_equal(tensors["train-images"][:, 0], arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(tensors["test-labels"], arrays["t10k-labels-idx1-ubyte.gz"])


def test_the_cache_comes_first_and_the_next_source_when_one_fails(small, tmp_path, monkeypatch):
    use_sources(monkeypatch, Folder(None, "out of order"), Folder(small))
    folder = prepare("fashion-mnist", tmp_path / "data")
    shutil.rmtree(small)
    for path in folder.glob("*.npy"):
        path.unlink()
    prepare("fashion-mnist", tmp_path / "data")
    assert len(load_arrays("fashion-mnist", tmp_path / "data")) == 4


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


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(gzip.compress(b"something else")), "has SHA-256 .*, not "),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is truncated or no gzip file"),
        (lambda path: path.unlink(), "no train-images-idx3-ubyte.gz"),
    ],
)
def test_bad_files_end_in_one_line_that_says_where_to_put_a_good_one(spoil, reason, small, tmp_path):
    spoil(small / "train-images-idx3-ubyte.gz")
    place = tmp_path / "data/fashion-mnist/sources/train-images-idx3-ubyte.gz"
    message = (
        rf"cannot get train-images-idx3-ubyte.gz \(tried cache: no .*folder: .*{reason}.*Put it at {place} by hand"
    )
    with pytest.raises(InputError, match=message) as caught:
        prepare("fashion-mnist", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not place.exists()
    assert not list((tmp_path / "data").rglob("*.npy"))
    assert not list((tmp_path / "data").rglob(".*"))


def test_a_file_put_by_hand_is_used_and_a_wrong_one_replaced(small, tmp_path, monkeypatch, caplog):
    use_sources(monkeypatch)
    cache = tmp_path / "data/fashion-mnist/sources"
    shutil.copytree(small, cache)
    prepare("fashion-mnist", tmp_path / "data")
    (cache / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    (cache.parent / "manifest.json").unlink()
    with pytest.raises(InputError, match="cannot get t10k-labels"):
        prepare("fashion-mnist", tmp_path / "data")
    use_sources(monkeypatch, Folder(small))
    prepare("fashion-mnist", tmp_path / "data")
    assert "t10k-labels-idx1-ubyte.gz: not usable" in caplog.text


def test_no_source_at_all_names_each_attempt(tmp_path, monkeypatch):
    use_sources(
        monkeypatch,
        Debian("no-such-package", "nowhere"),
        Mirror("http://localhost:1/nothing/"),
    )
    with pytest.raises(InputError) as caught:
        prepare("fashion-mnist", tmp_path)
    message = str(caught.value)
    assert "cache: no train-images" in message
    assert "Debian package no-such-package: " in message
    assert "http://localhost:1/nothing/: " in message
    assert "\n" not in message


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
    with pytest.raises(InputError, match="not prepared; run `adasde data cifar-10"):
        load_arrays("cifar-10", tmp_path)


def cifar_archive(extra=None):
    """A small archive of exactly the official form; returns its bytes, images and labels."""
    random = np.random.default_rng(0)
    buffer, batches = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            pixels = random.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = [int(x) for x in random.integers(0, 10, 4)]
            content = {b"batch_label": b"x", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * 4}
            batches[name] = pixels, labels
            if extra:
                content[b"extra"] = extra
            written = pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core")
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(written)
            archive.addfile(info, io.BytesIO(written))
        info = tarfile.TarInfo("cifar-10-batches-py/readme.html")
        archive.addfile(info, io.BytesIO())
    return buffer.getvalue(), batches


def test_cifar_archive_in_the_official_form(tmp_path, monkeypatch):
    content, batches = cifar_archive()
    file = File("cifar-10-python.tar.gz", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(DATASETS, "cifar-10", replace(DATASETS["cifar-10"], files=(file,), sources=()))
    (tmp_path / "cifar-10/sources").mkdir(parents=True)
    (tmp_path / "cifar-10/sources" / file.name).write_bytes(content)
    prepare("cifar-10", tmp_path)
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
