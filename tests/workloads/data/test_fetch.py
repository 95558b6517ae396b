"""Sources in order, hashes, and the messages when something is wrong."""

import gzip
import os
import shutil
from dataclasses import replace

import pytest

from adasde.common import InputError
from adasde.workloads.data import fetch
from adasde.workloads.data.fetch import Debian, Mirror, Package
from adasde.workloads.data.registry import DATASETS, dataset_named, load_arrays, prepare
from workloads.archives import Folder


def use_sources(monkeypatch, *found):
    monkeypatch.setitem(DATASETS, "fashion-mnist", replace(DATASETS["fashion-mnist"], sources=found))


def test_the_cache_comes_first_and_the_next_source_when_one_fails(small, tmp_path, monkeypatch):
    use_sources(monkeypatch, Folder(None, "out of order"), Folder(small))
    folder = prepare("fashion-mnist", tmp_path / "data")
    shutil.rmtree(small)
    for path in folder.glob("*.npy"):
        path.unlink()
    prepare("fashion-mnist", tmp_path / "data")
    assert len(load_arrays("fashion-mnist", tmp_path / "data")) == 4


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(gzip.compress(b"something else")), "has SHA-256 .*, not "),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is truncated or no gzip file"),
        (lambda path: path.write_bytes(b""), "has SHA-256 e3b0c44298fc..., not "),
        (lambda path: path.write_bytes(gzip.compress(bytes(1001))), "holds more than 1,000 bytes"),
        (lambda path: path.unlink(), "no train-images-idx3-ubyte.gz"),
        (lambda path: path.unlink() or os.mkfifo(path), "is a pipe, a socket or a device"),
    ],
)
def test_bad_files_end_in_one_line_that_says_where_to_put_a_good_one(spoil, reason, small, tmp_path, monkeypatch):
    spoil(small / "train-images-idx3-ubyte.gz")
    monkeypatch.setattr(fetch, "MOST", 1000 if "1,000" in reason else fetch.MOST)
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


def test_c14_a_pipe_in_the_cache_is_replaced(small, tmp_path, monkeypatch, caplog):
    use_sources(monkeypatch, Folder(small))
    place = tmp_path / "data/fashion-mnist/sources/train-images-idx3-ubyte.gz"
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    prepare("fashion-mnist", tmp_path / "data")
    assert f"{place}: not usable" in caplog.text
    assert place.is_file()


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


def test_a_changed_or_missing_extract_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Package, "path", lambda self, file, work: tmp_path / "nothing")
    place = tmp_path / "wiki-mini/sources" / dataset_named("wiki-mini").files[0].name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    with pytest.raises(InputError, match=r"wiki-mini: cannot get enwiki.*Put it at .* by hand; SHA-256 a53f4648"):
        prepare("wiki-mini", tmp_path)
    assert not list(tmp_path.glob("wiki-mini/*.npy"))
