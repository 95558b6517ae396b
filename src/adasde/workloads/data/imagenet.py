"""ImageNet (ILSVRC 2012): lists of JPEG files in folders by class, and on request all of them packed into one array.

Per split there are ``<split>-names``, the files' paths back to back as bytes, and ``<split>-labels`` (images,), int64,
with classes numbered in the order of their folders' names. The official validation images are the split ``test``. The
packed form adds ``<split>-jpegs``, the files themselves back to back. The indices of both, as arrays.py describes them,
are ``<split>-names-index`` and ``<split>-jpegs-index``.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.datasets import imagenet as official

from adasde.common import InputError
from adasde.workloads.data.arrays import BlockWriter, back_to_back, save_arrays
from adasde.workloads.data.entries import ImageNet

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "test": "val"}  # ours, and the official ones
# Torchvision's names of what each folder is unpacked from. The smaller comes first, so that a fault in it is known
# before hours are spent on the larger.
ARCHIVES = {"val": ("devkit", "val"), "train": ("train",)}
FOLDER = "ADASDE_IMAGENET"  # environment variable that names a folder of images
BLOCK = 512  # files read and packed at once, about 60 MB
SAID = 50  # blocks between two lines in the log
READERS = 16  # threads that read files: on a cluster's file system each file is a wait


def facts(imagenet: ImageNet, folder: Path) -> dict[str, str]:
    """Return the archives that the images come from, by MD5."""
    return {name: f"MD5 {md5}" for name, md5 in official.ARCHIVE_META.values()}


def make(imagenet: ImageNet, folder: Path) -> list[str]:
    """Write the arrays into ``folder`` and return their names; what was packed once is packed again.

    What an interrupted call had packed is kept. A folder that it had unpacked in part is unpacked anew. InputError if
    there are no images, or another number of them than there should be.
    """
    place = place_of(folder)
    if not os.environ.get(FOLDER):
        _unpack(place)
    _check(place)
    found = {split: _listed(imagenet, place, split) for split in SPLITS}
    if found["train"][0] != found["test"][0]:
        other = sorted(set(found["train"][0]) ^ set(found["test"][0]))
        raise InputError(f"imagenet: {place}/train and {place}/val hold other classes ({other[0]}, for one)")
    arrays = {}
    for split, (_, paths, labels) in found.items():
        names = (np.frombuffer(os.fsencode(path), np.uint8) for path in paths)
        arrays[f"{split}-names"], arrays[f"{split}-names-index"] = back_to_back(names, np.uint8)
        arrays[f"{split}-labels"] = np.array(labels, np.int64)
    made = save_arrays(folder, arrays)
    if imagenet.packed or any(folder.glob("*-jpegs*")):
        made += _pack(folder, place, {split: paths for split, (_, paths, _) in found.items()})
    return made


class Images:
    """The images of one split, by number, as the bytes of their files, read from the packed form if there is one.

    ``labels`` is a tensor (images,). Copies in other processes share the arrays, which are mapped into memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor], split: str, folder: Path):
        self.labels = tensors[f"{split}-labels"]
        self.names, self.names_index = (tensors[f"{split}-names{end}"].numpy() for end in ("", "-index"))
        self.jpegs, self.place = None, place_of(folder)
        if f"{split}-jpegs" in tensors:
            self.jpegs, self.index = (tensors[f"{split}-jpegs{end}"].numpy() for end in ("", "-index"))
            self.place = Path(folder, f"{split}-jpegs.npy").absolute()
        else:
            _check(self.place)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, number: int) -> str:
        """Return the path of an image within the folder of images."""
        start, end = self.names_index[number : number + 2]
        return os.fsdecode(self.names[start:end].tobytes())

    def read(self, number: int) -> bytes:
        """Return the content of an image's file."""
        if self.jpegs is None:
            return Path(self.place, self.name(number)).read_bytes()
        start, end = self.index[number : number + 2]
        return self.jpegs[start:end].tobytes()

    def where(self, number: int) -> str:
        """Return where an image lies, for messages."""
        if self.jpegs is None:
            return str(Path(self.place, self.name(number)))
        return f"{self.name(number)} (image {number} of {self.place})"


def place_of(folder: Path) -> Path:
    """Return the folder that holds train/ and val/, or the archives; ``folder`` is that of the data set."""
    named = os.environ.get(FOLDER)
    return (Path(named).expanduser() if named else Path(folder, "sources")).absolute()


def _listed(imagenet, place, split):
    """Return the classes of a split, the paths of its images within ``place``, class by class, and their labels."""
    of, size = SPLITS[split], imagenet.train_size if split == "train" else imagenet.test_size
    with os.scandir(place / of) as entries:
        classes = sorted(e.name for e in entries if re.fullmatch(r"n\d{8}", e.name) and e.is_dir())
    paths, labels = [], []
    for label, wnid in enumerate(classes):
        files = sorted(file for file in os.listdir(place / of / wnid) if file.endswith(".JPEG"))  # noqa: PTH208
        paths += [f"{of}/{wnid}/{file}" for file in files]
        labels += [label] * len(files)
    if (len(classes), len(paths)) != (imagenet.classes, size):
        raise InputError(
            f"imagenet: {place / of} holds {len(classes):,} classes and {len(paths):,} images, not "
            f"{imagenet.classes:,} and {size:,}; take it away and unpack it again"
        )
    return classes, paths, labels


def _check(place):
    """Raise an InputError, in one line, if ``place`` does not hold the folders train/ and val/."""
    missing = [of for of in SPLITS.values() if not (place / of).is_dir()]
    if missing:
        named, archives = os.environ.get(FOLDER), ", ".join(name for name, _ in official.ARCHIVE_META.values())
        raise InputError(
            f"{f'{FOLDER} =' if named else 'imagenet:'} {place}: holds no folder {missing[0]}; it must hold train/ and "
            "val/, each with 1000 folders n01440764, ... of .JPEG files"
            + ("" if named else f", or the archives {archives}; or name such a folder by {FOLDER}")
        )


def _unpack(place):
    """Unpack the archives whose folders are missing; torchvision verifies their MD5."""
    missing = [of for of in ARCHIVES if not (place / of).is_dir()]
    if not all((place / official.ARCHIVE_META[key][0]).exists() for of in missing for key in ARCHIVES[of]):
        _check(place)
    for of in missing:
        log.info("imagenet: verifying and unpacking %s", official.ARCHIVE_META[of][0])
        part = place / f"{of}.part"
        shutil.rmtree(part, ignore_errors=True)  # of an interrupted call
        try:
            if of == "val":
                official.parse_devkit_archive(place)  # it knows the classes of the images
                official.parse_val_archive(place, folder=part.name)
            else:
                official.parse_train_archive(place, folder=part.name)
        except RuntimeError as error:
            raise InputError(f"imagenet: {error}") from error
        os.sync()  # a folder that has its name is whole
        part.rename(place / of)


def _pack(folder, place, paths):
    """Write <split>-jpegs and its index for the ``paths`` of every split, in constant memory; return their names."""
    listed = "\n".join([str(place), *(path for of in paths.values() for path in of)])
    made_from = {"files": hashlib.sha256(listed.encode()).hexdigest()}
    writer = BlockWriter(folder, paths, ("jpegs", "jpegs-index"), np.uint8, made_from)
    with ThreadPoolExecutor(READERS) as pool:
        for split, of in paths.items():
            done, total = writer.lengths[split][1], f"{len(of):,}"
            if done:
                log.info("imagenet: going on after %s of %s %s images", f"{done:,}", total, split)
            for start in range(done, len(of), BLOCK):
                block = [place / path for path in of[start : start + BLOCK]]
                contents = list(pool.map(Path.read_bytes, block))
                if b"" in contents:
                    raise InputError(f"{block[contents.index(b'')]}: empty; unpack it again")
                writer.append({split: contents})
                if start // BLOCK % SAID == SAID - 1:
                    log.info("imagenet: packed %s of %s %s images", f"{start:,}", total, split)
    return writer.finish()
