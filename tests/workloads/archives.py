"""Small files and archives of images in exactly the official forms, for tests."""

import hashlib
import io
import itertools
import pickle
import struct
import tarfile
from dataclasses import replace

import numpy as np
import scipy.io
from PIL import Image
from torchvision.datasets import imagenet as official

from adasde.workloads.data.fetch import File
from adasde.workloads.data.registry import DATASETS, prepare


def idx(array):
    return struct.pack(">4B", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


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


def loaded(folder):
    # A process that is killed may leave a temporary file, whose name is not an array's.
    return {path.stem: np.load(path) for path in folder.glob("[!.]*.npy")}


def prepare_cifar(content, root, monkeypatch):
    """Prepare CIFAR-10 in ``root`` from ``content``, an archive that lies there already, with its own hash."""
    file = File("cifar-10-python.tar.gz", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(DATASETS, "cifar-10", replace(DATASETS["cifar-10"], files=(file,), sources=()))
    (root / "cifar-10/sources").mkdir(parents=True)
    (root / "cifar-10/sources" / file.name).write_bytes(content)
    prepare("cifar-10", root)
