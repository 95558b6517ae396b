"""data/imagenet.py and tasks/imagenet.py, on small archives of exactly the official form."""

import hashlib
import io
import itertools
import multiprocessing
import os
import signal
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.datasets import imagenet as official
from torchvision.datasets.folder import pil_loader

from adasde import cli
from adasde.common import InputError, Stopped
from adasde.training.loop import train
from adasde.workloads.data import imagenet, registry
from adasde.workloads.data.imagenet import Images
from adasde.workloads.data.registry import DATASETS, dataset_named, load_arrays, prepare
from adasde.workloads.imagenet import Crops, ImageNetWorkload
from adasde.workloads.metrics import speed
from adasde.workloads.registry import load_workload, workload_named

# (ILSVRC2012_ID, WNID, children, training images): numbered in another order than that of the names, inner nodes last.
SYNSETS = [
    (1, "n02119789", [], 7),
    (2, "n01440764", [], 12),
    (3, "n02100735", [], 9),
    (4, "n02083346", [1, 3], 0),
    (5, "n00001740", [2, 4], 0),
]
LEAVES = {number: wnid for number, wnid, children, _ in SYNSETS if not children}
VALIDATION = [3, 1, 2, 2, 3, 1, 1]  # the classes of the validation images, as the devkit numbers them
TRAIN, TEST = 28, len(VALIDATION)


def picture(seed):
    """A small file of one of the kinds that ImageNet holds: of any shape, in colour, grey or CMYK; 5 is a PNG."""
    random = np.random.default_rng(seed)
    height, width = random.integers(24, 90, 2)
    mode = ("RGB", "RGB", "L", "CMYK")[seed % 4]
    coarse = Image.frombytes(mode, (4, 4), random.bytes(16 * len(Image.new(mode, (1, 1)).getbands())))
    image = coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if seed == 5 else "JPEG")
    return buffer.getvalue()


def tar(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def devkit():
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    synsets = np.zeros((len(SYNSETS), 1), [(field, object) for field in fields])
    for row, (number, wnid, children, images) in zip(synsets[:, 0], SYNSETS, strict=True):
        words = f"word {number}, another word"
        values = (number, wnid, words, "gloss", len(children), np.array(children, float), len(children) // 2, images)
        for field, value in zip(fields, values, strict=True):
            row[field] = value
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in VALIDATION)
    folder = "ILSVRC2012_devkit_t12"
    return tar(
        {
            f"{folder}/readme.txt": b"",
            f"{folder}/data/meta.mat": buffer.getvalue(),
            f"{folder}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        },
        "w:gz",
    )


class Miniature:
    """The three archives, and what is in them: ``files`` has path within the unpacked folder -> content."""

    def __init__(self, folder):
        self.folder, self.files, self.hashes = folder, {}, {}
        seeds, classes = itertools.count(), {}
        for _, wnid, _, count in SYNSETS:
            if count:
                names = [f"{wnid}_{17 * n + 3}.JPEG" for n in range(count)]
                classes[wnid] = {name: picture(next(seeds)) for name in names}
                self.files |= {f"train/{wnid}/{name}": content for name, content in classes[wnid].items()}
        held = {f"ILSVRC2012_val_{n:08d}.JPEG": picture(next(seeds)) for n in range(1, TEST + 1)}
        for number, (name, content) in zip(VALIDATION, held.items(), strict=True):
            self.files[f"val/{LEAVES[number]}/{name}"] = content
        contents = {
            "train": tar({f"{wnid}.tar": tar(files) for wnid, files in classes.items()}),
            "val": tar(held),
            "devkit": devkit(),
        }
        for key, content in contents.items():
            name = official.ARCHIVE_META[key][0]
            (folder / name).write_bytes(content)
            self.hashes[key] = (name, hashlib.md5(content).hexdigest())

    def put(self, root):
        """Put the archives where a user would; return the folder."""
        place = root / "imagenet/sources"
        place.mkdir(parents=True)
        for name, _ in self.hashes.values():
            (place / name).symlink_to(self.folder / name)
        return place

    def lay_out(self, place):
        """Write the unpacked folder to ``place``, which is returned."""
        for path, content in self.files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        return place


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


def loaded(folder):
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


# The data set


def test_the_registry_knows_the_real_data(tmp_path):
    entry = dataset_named("imagenet")
    assert (entry.train_size, entry.test_size, entry.classes) == (1_281_167, 50_000, 1000)
    assert entry.facts(tmp_path)["files"]["ILSVRC2012_img_val.tar"] == "MD5 29b22e2961454d5413ddabcf34fc5622"


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
    imagenet._sync = sync
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
        patched.setattr(imagenet, "npy_header", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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


# What the user is told


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


# The task

DRAWS = [
    (torch.tensor([3, 27, 0, 3, 14]), torch.tensor([7, 2**62, -5, 8, 0])),
    (torch.tensor([9, 9]), torch.tensor([1, 1])),
    (torch.arange(28), torch.arange(100, 128)),
]


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 3))


@pytest.fixture
def folder(mini, tmp_path):
    """The data set, prepared from a folder."""
    mini.lay_out(tmp_path / "laid out/imagenet/sources")
    return prepare("imagenet", tmp_path / "laid out")


def task_in(folder, workers=0, build=tiny, resolution=32):
    return ImageNetWorkload(load_arrays("imagenet", folder.parent), folder, build, workers=workers, resolution=resolution)


def equal(found, wanted):
    pairs = zip(found, wanted, strict=True)
    return all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


@pytest.fixture
def packed_folder(whole, root):
    """The data set's folder, packed from the archives, of which nothing else is left."""
    for of in imagenet.SPLITS.values():
        (root / f"imagenet/sources/{of}").rename(root / of)
    return root / "imagenet"


def test_batches_depend_on_the_draws_alone(folder, packed_folder, monkeypatch):
    monkeypatch.setattr("adasde.workloads.imagenet.PIECE", 3)
    task, before = task_in(folder), torch.get_rng_state()
    wanted = [task.gather(*draw) for draw in DRAWS]
    for workers in (0, 1, 2):
        assert equal(task_in(folder, workers).stream(DRAWS), wanted), workers
    assert equal(task_in(packed_folder, 2).stream(iter(DRAWS)), wanted)
    parts = [(indices[i : i + 2], numbers[i : i + 2]) for indices, numbers in DRAWS for i in range(0, len(indices), 2)]
    joined = zip(*task.stream(parts), strict=True)
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(joined, zip(*wanted, strict=True), strict=True))
    assert torch.equal(torch.get_rng_state(), before)  # the model's noise is not touched
    assert wanted[0][0].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(wanted[0][0][0], wanted[0][0][3])  # one image, two numbers
    assert torch.equal(*wanted[1][0])


def test_seeds_come_from_the_generator_that_is_given(folder):
    task = task_in(folder)
    (first,), (second,) = (task.noise(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(set(first.tolist())) == 5
    torch.manual_seed(0)
    given = task.gather(DRAWS[0][0], *task.noise(5))
    torch.manual_seed(0)
    assert equal([task.gather(DRAWS[0][0])], [given])


def test_images_are_those_of_the_usual_transforms(folder):
    task = task_in(folder)
    normal = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    training = transforms.Compose([transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), *normal])
    testing = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32), *normal])
    indices, numbers = DRAWS[2]
    images, labels = task.gather(indices, numbers)
    for index, number, image, label in zip(indices, numbers, images, labels, strict=True):
        path = task.train.images.where(int(index))
        torch.manual_seed(int(number))
        assert torch.allclose(image, training(pil_loader(path)), atol=1e-5)
        assert sorted(LEAVES.values())[label] == Path(path).parent.name
    ((images, labels),) = task.test
    for number, image in enumerate(images):
        assert torch.allclose(image, testing(pil_loader(task.tested.images.where(number))), atol=1e-5)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_workers_decode_ahead_with_one_thread_each_and_end_with_the_iterator(folder, monkeypatch):
    read = []

    def threads(self, pairs):
        return torch.full((len(pairs), 3, 1, 1), torch.get_num_threads(), dtype=torch.uint8)

    def endless():
        for draw in itertools.cycle(DRAWS):
            read.append(draw)
            yield draw

    monkeypatch.setattr(Crops, "__getitem__", threads)
    torch.set_num_threads(2)
    task = task_in(folder, 2)
    stream = task.stream(endless())
    (images, _), *_ = (next(stream) for _ in DRAWS)  # some of each worker
    torch.set_num_threads(1)
    assert torch.allclose(images, task._normalised(torch.ones(5, 3, 1, 1)))
    assert len(multiprocessing.active_children()) == 2
    assert len(read) >= 8  # four pieces for each of two workers
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)  # as Slurm does to all of a job, of which one process has to save the run
    assert all(torch.equal(next(stream)[1], task.train.images.labels[DRAWS[n % 3][0]]) for n in range(30))
    stream.close()
    assert not multiprocessing.active_children()
    assert len(list(task.stream(DRAWS))) == 3
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_that_says_where_it_is(workers, folder, root_damaged):
    path = folder / "sources/val/n02119789/ILSVRC2012_val_00000002.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"^{path}: no image, or a damaged one \(image file is truncated.*\)$"):
        list(task_in(folder, workers).test)
    with pytest.raises(InputError) as caught:
        list(task_in(root_damaged, workers).stream(DRAWS))
    assert str(caught.value) == (
        f"train/n01440764/n01440764_105.JPEG (image 0 of {root_damaged}/train-jpegs.npy): no image, or a damaged one "
        "(no known format)"
    )
    assert not multiprocessing.active_children()


@pytest.fixture
def root_damaged(packed_folder):
    """A packed data set whose first file is none."""
    path, manifest = packed_folder / "train-jpegs.npy", packed_folder / "manifest.json"
    content, before = path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(content[:128] + b"x" + content[129:])
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(before, after))
    return packed_folder


def test_a_folder_that_went_away_is_said_before_any_image_is_read(folder):
    (folder / "sources/val").rename(folder / "val")
    with pytest.raises(InputError, match=f"imagenet: {folder}/sources: holds no folder val; it must hold"):
        task_in(folder)
    (folder / "val").rename(folder / "sources/val")
    task = task_in(folder)
    (folder / "sources/train/n01440764/n01440764_105.JPEG").unlink()
    with pytest.raises(InputError, match=r"n01440764_105.JPEG: no image, or a damaged one \(.* No such file"):
        task.gather(torch.tensor([0]), torch.tensor([0]))


def test_the_metrics_are_those_of_all_images(folder, monkeypatch):
    monkeypatch.setattr("adasde.workloads.imagenet.CHUNK", 3)
    monkeypatch.setattr("adasde.workloads.imagenet.NOISE_CHUNK", 5)
    task = task_in(folder, 1)
    torch.manual_seed(0)
    model = task.model()
    (images, labels) = (torch.cat(tensors) for tensors in zip(*task.test, strict=True))
    found = task.measure(model, 0.1, 1e-8)
    assert model.training
    model.eval()
    logits = model(images)
    assert len(labels) == TEST
    assert found["test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert found["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    (images, labels) = (torch.cat(tensors) for tensors in zip(*task.subset, strict=True))
    assert sorted(labels.tolist()) == task.train.images.labels.tolist()  # all of them, as there are so few
    assert labels.tolist() != sorted(labels.tolist())
    assert found["train_loss"] == pytest.approx(nn.functional.cross_entropy(model(images), labels).item())
    assert {"gradient_norm", "noise_trace", "squared_norm", speed(2)} <= found.keys()
    assert task.measure(model, 0.1, 1e-8) == found


def test_a_weighted_loss_is_what_svag_needs(folder):
    task = task_in(folder)
    images, labels = task.gather(*DRAWS[0])
    model = task.model()
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    assert task.loss(model, images, labels).item() == pytest.approx(task.loss(model, images, labels, weights).item())


def test_the_registered_task_is_torchvisions_resnet50(folder):
    task = load_workload("imagenet-resnet50", folder.parent)
    assert task.size == TRAIN
    assert task.workers == min(len(os.sched_getaffinity(0)) - 1, 16)
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.gather(*DRAWS[1])[0].shape == (2, 3, 224, 224)
    entry = workload_named("imagenet-resnet50")
    assert (entry.kind, entry.train_size) == ("vision", TRAIN)


def test_a_run_that_is_stopped_leaves_no_process_behind(folder, spec, monkeypatch):
    """Workers leave SIGTERM to the run, so whoever waits for them at the end of the process would wait for ever."""
    monkeypatch.setattr("adasde.workloads.imagenet.NOISE_CHUNK", 14)
    monkeypatch.setattr("adasde.training.loop.CHUNK", 1)
    task = task_in(folder, workers=1)
    batches = {"batch_size": 4, "samples": 16, "evaluate": [16], "task": "imagenet-resnet50"}
    with pytest.raises(Stopped) as stopped:
        train({**spec, **batches}, task, folder / "checkpoint", stopping=lambda: True)
    assert "asked to stop at step" in str(stopped.value)  # and its traceback holds the run
    assert not multiprocessing.active_children()
