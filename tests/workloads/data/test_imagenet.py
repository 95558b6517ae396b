"""ImageNet's lists of files and its packed form, on small archives of exactly the official form."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torchvision

from adasde import cli
from adasde.common import InputError
from adasde.workloads.data import arrays, imagenet, registry
from adasde.workloads.data.imagenet import Images
from adasde.workloads.data.registry import dataset_named, load_arrays, prepare
from workloads.archives import TEST, TRAIN, loaded, picture


def same(found, wanted):
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_the_registry_knows_the_real_data(tmp_path):
    entry = dataset_named("imagenet")
    assert (entry.train_size, entry.test_size, entry.classes) == (1_281_167, 50_000, 1000)
    assert entry.facts(tmp_path)["ILSVRC2012_img_val.tar"] == "MD5 29b22e2961454d5413ddabcf34fc5622"


@pytest.mark.parametrize("packed", [False, True])
def test_archives_become_what_torchvision_makes_of_them(packed, root, mini):
    folder = prepare("imagenet", root, packed)
    tensors = load_arrays("imagenet", root)
    assert ("train-jpegs" in tensors) == packed
    for split, of in imagenet.SPLITS.items():
        images, theirs = Images(tensors, split, folder), torchvision.datasets.ImageNet(root / "imagenet/sources", of)
        paths = [str(Path(path).relative_to(theirs.root)) for path, _ in theirs.imgs]
        assert len(images) == (TRAIN if split == "train" else TEST)
        assert [images.name(number) for number in range(len(images))] == paths
        assert images.labels.tolist() == theirs.targets
        assert [images.read(number) for number in range(len(images))] == [mini.files[path] for path in paths]


def test_a_folder_elsewhere_is_read_and_left_alone(mini, tmp_path, monkeypatch):
    place = mini.lay_out(tmp_path / "elsewhere")
    before = sorted(place.rglob("*"))
    monkeypatch.setenv(imagenet.FOLDER, str(place))
    folder = prepare("imagenet", tmp_path / "data", packed=True)
    assert sorted(place.rglob("*")) == before
    monkeypatch.delenv(imagenet.FOLDER)
    images = Images(load_arrays("imagenet", tmp_path / "data"), "test", folder)
    assert images.read(3) == mini.files[images.name(3)]  # what is packed needs the folder no more


def test_what_was_packed_once_is_mended_packed(root, whole):
    folder = root / "imagenet"
    (folder / "train-jpegs.npy").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"train-jpegs.npy: missing or altered; run `adasde data imagenet --data"):
        load_arrays("imagenet", root)
    prepare("imagenet", root)
    assert same(loaded(folder), whole)
    assert not list(folder.glob("*.part"))
    assert not (folder / "progress.json").exists()


def test_a_folder_prepared_before_can_be_packed(root, whole, tmp_path, mini):
    (again := tmp_path / "again").mkdir()
    mini.put(again)
    prepare("imagenet", again)
    assert cli.main(["data", "imagenet", "--packed", "--data", str(again)]) == 0
    assert same(loaded(again / "imagenet"), whole)


def prepare_and_die(root, touch, touches):
    """Prepare the packed form, and be killed at the ``touch``-th time that a file is touched."""

    lock = threading.Lock()

    def note(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "sync") and str(root) in str(arguments[0]):
            with lock:
                touches.value += 1
                if touches.value == touch:
                    os.kill(os.getpid(), signal.SIGKILL)

    def sync(file):
        note("sync", (file.name,))
        file.flush()
        note("sync", (file.name,))

    sys.addaudithook(note)
    arrays._sync = sync
    prepare("imagenet", root, packed=True)


def die(root, touch):
    """Return whether the preparation was killed, and how often it touched a file."""
    fork = multiprocessing.get_context("fork")
    touches = fork.Value("i", 0, lock=False)  # a lock that dies locked would stop us
    process = fork.Process(target=prepare_and_die, args=(root, touch, touches))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL, touches.value


def test_a_kill_anywhere_leaves_nothing_that_is_taken_for_whole(mini, whole, tmp_path):
    roots = (tmp_path / f"root{n}" for n in itertools.count())
    mini.put(undisturbed := next(roots))
    killed, touches = die(undisturbed, 0)
    assert not killed
    assert touches > 150
    for touch in np.linspace(1, touches, 24).astype(int):
        mini.put(root := next(roots))
        killed, _ = die(root, touch)
        assert killed, touch
        if not (root / "imagenet/manifest.json").exists():
            with pytest.raises(InputError, match="not prepared"):
                load_arrays("imagenet", root)
        folder = prepare("imagenet", root, packed=True)
        assert same(loaded(folder), whole), touch
        assert {path.name for path in folder.iterdir() if path.suffix != ".npy"} >= {"manifest.json", "sources"}
        assert not list(folder.rglob("*.part")), touch


def test_packing_goes_on_where_it_was(root, whole, tmp_path, mini, monkeypatch, caplog):
    (again := tmp_path / "again").mkdir()
    mini.put(again)
    prepare("imagenet", again)
    read, count = Path.read_bytes, itertools.count(1)

    def dying(path):
        if path.suffix == ".JPEG" and next(count) == 14:
            raise KeyboardInterrupt
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare("imagenet", again, packed=True)
    folder = again / "imagenet"
    for name in ("train-jpegs", "train-jpegs-index"):  # what a power failure may leave behind
        with (folder / f"{name}.part").open("ab") as file:
            file.write(bytes(50))
    later = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: later.append(path.suffix) or read(path))
    prepare("imagenet", again, packed=True)
    assert later.count(".JPEG") == TRAIN + TEST - 12  # three blocks of four were whole
    assert "going on after 12 of 28 train images" in caplog.text
    assert same(loaded(folder), whole)


def test_other_images_are_not_packed_behind_those_of_before(root, whole, mini, tmp_path, monkeypatch):
    place = mini.lay_out(tmp_path / "elsewhere")
    next(place.glob("train/*/*")).write_bytes(picture(99))
    with monkeypatch.context() as patched:
        patched.setenv(imagenet.FOLDER, str(place))
        patched.setattr(arrays, "npy_header", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("imagenet", tmp_path / "new", packed=True)
    assert (tmp_path / "new/imagenet/train-jpegs.part").exists()
    mini.lay_out(tmp_path / "new/imagenet/sources")
    assert same(loaded(prepare("imagenet", tmp_path / "new", packed=True)), whole)


def test_large_arrays_are_sampled_when_loaded_and_verified_when_prepared(root, whole, monkeypatch):
    monkeypatch.setattr(registry, "LARGE", 1000)
    monkeypatch.setattr(registry, "SAMPLE", 16)
    folder = root / "imagenet"
    (folder / "manifest.json").unlink()
    prepare("imagenet", root)
    assert np.array_equal(load_arrays("imagenet", root)["train-jpegs"], whole["train-jpegs"])
    content = (path := folder / "train-jpegs.npy").read_bytes()
    for altered in (content[:-1], content + b"x", content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(altered)
        with pytest.raises(InputError, match="missing or altered"):
            load_arrays("imagenet", root)
    between = len(content) // 126  # half the distance of two samples
    path.write_bytes(content[:between] + bytes([content[between] ^ 1]) + content[between + 1 :])
    load_arrays("imagenet", root)
    prepare("imagenet", root)
    assert path.read_bytes() == content


def refused(message, root, **options):
    with pytest.raises(InputError, match=message) as caught:
        prepare("imagenet", root, **options)
    assert "\n" not in str(caught.value)
    assert not list(root.rglob("manifest.json"))


def test_missing_images_are_one_line_that_says_what_goes_where(mini, tmp_path, monkeypatch):
    what = r"must hold train/ and val/, each with 1000 folders n01440764, ... of .JPEG files"
    archives = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz"
    refused(
        f"imagenet: {tmp_path}/imagenet/sources: holds no folder train; it {what}, or the archives {archives}; or name "
        "such a folder by ADASDE_IMAGENET",
        tmp_path,
    )
    (mini.put(tmp_path) / "ILSVRC2012_img_val.tar").unlink()
    (tmp_path / "imagenet/sources/train").mkdir()
    refused("holds no folder val; it", tmp_path)
    monkeypatch.setenv(imagenet.FOLDER, str(tmp_path / "nowhere"))
    refused(f"ADASDE_IMAGENET = {tmp_path}/nowhere: holds no folder train; it {what}$", tmp_path)


def test_a_damaged_archive_is_refused_before_it_is_unpacked(root):
    path = root / "imagenet/sources/ILSVRC2012_img_train.tar"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    refused("imagenet: The archive ILSVRC2012_img_train.tar is not present in .* or is corrupted", root)
    assert not (root / "imagenet/sources/train").exists()


def test_wrong_numbers_are_refused(mini, tmp_path, monkeypatch):
    place = mini.lay_out(tmp_path / "imagenet/sources")
    paths = sorted(place.glob("train/*/*"))
    paths[0].rename(tmp_path / "kept")
    refused("train holds 3 classes and 27 images, not 3 and 28; take it away and unpack it again", tmp_path)
    (tmp_path / "kept").rename(paths[0])
    (place / "val/n02119789").rename(place / "val/n02119790")
    refused("train and .*val hold other classes .n02119789, for one", tmp_path)
    (place / "val/n02119790").rename(tmp_path / "kept")
    refused("val holds 2 classes and 4 images, not 3 and 7", tmp_path)
    (tmp_path / "kept").rename(place / "val/n02119789")
    paths[3].write_bytes(b"")
    refused(f"{paths[3]}: empty; unpack it again", tmp_path, packed=True)


def test_only_imagenet_can_be_packed(tmp_path):
    with pytest.raises(InputError, match="packed: cifar-10 has no packed form; leave it out, or name imagenet"):
        prepare("cifar-10", tmp_path, packed=True)
