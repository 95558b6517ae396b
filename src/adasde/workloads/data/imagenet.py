"""ImageNet (ILSVRC 2012): lists of JPEG files in folders by class, and on request all of them packed into one array.

Per split there are ``<split>-names``, the files' paths back to back as bytes, and ``<split>-labels`` (images,), int64,
with classes numbered in the order of their folders' names; the official validation images are the split ``test``. The
packed form adds ``<split>-jpegs``, the files themselves back to back. Beside what lies back to back is
``<split>-names-index`` or ``<split>-jpegs-index`` (images + 1,), int64: item i is bytes[index[i] : index[i + 1]].
"""

import hashlib
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from adasde.common import InputError, atomic
from adasde.workloads.data.corpora import HEADER, npy_header

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "test": "val"}  # ours, and the official ones
# Torchvision's names of what each folder is unpacked from; the smaller first, since whatever is wrong with it should be
# known before hours of the larger.
ARCHIVES = {"val": ("devkit", "val"), "train": ("train",)}
FOLDER = "ADASDE_IMAGENET"  # environment variable that names a folder of images
BLOCK = 512  # files read and packed at once, about 60 MB
SAID = 50  # blocks between two lines in the log
READERS = 16  # threads that read them: on a cluster's file system each file is a wait


@dataclass(frozen=True)
class ImageNet:
    """Registry entry. The images are not free to download: the user puts them, or their archives, into ``sources``."""

    name: str = "imagenet"
    licence: str = "non-commercial research and education; see image-net.org"
    download_bytes: int = 154_644_969_000
    prepared_bytes: int = 154_700_000_000  # the unpacked images; the lists of files are 60 MB
    train_size: int = 1_281_167
    test_size: int = 50_000
    classes: int = 1000
    packed: bool = False
    unit: str = "images"

    def facts(self, folder: Path) -> dict:
        """Return what the images come from, by MD5."""
        from torchvision.datasets.imagenet import ARCHIVE_META

        return {"files": {name: f"MD5 {md5}" for name, md5 in ARCHIVE_META.values()}}

    def make(self, folder: Path) -> list[str]:
        """Write the arrays, as .npy files, and return their names; what was packed once is packed again.

        InputError if there are no images, or not as many as there should be. What an interrupted call had packed is
        kept; what it had unpacked of an archive is not, but never taken for the whole.
        """
        import numpy as np

        place = place_of(folder)
        if not os.environ.get(FOLDER):
            _unpack(place)
        _check(place)
        found = {split: self._listed(place, split) for split in SPLITS}
        if found["train"][0] != found["test"][0]:
            other = sorted(set(found["train"][0]) ^ set(found["test"][0]))
            raise InputError(f"{self.name}: {place}/train and {place}/val hold other classes ({other[0]}, for one)")
        arrays = {}
        for split, (_, paths, labels) in found.items():
            names = [os.fsencode(path) for path in paths]
            arrays |= {
                f"{split}-names": np.frombuffer(b"".join(names), np.uint8),
                f"{split}-names-index": np.cumsum([0, *map(len, names)], dtype=np.int64),
                f"{split}-labels": np.array(labels, np.int64),
            }
        for name, content in arrays.items():
            with atomic(folder / f"{name}.npy") as temporary:
                np.save(temporary, content)
        if self.packed or any(folder.glob("*-jpegs*")):
            return [*arrays, *_pack(folder, place, {split: paths for split, (_, paths, _) in found.items()})]
        return list(arrays)

    def _listed(self, place, split):
        """Return the classes of a split, the paths of its images within ``place``, class by class, and their labels."""
        of, size = SPLITS[split], getattr(self, f"{split}_size")
        with os.scandir(place / of) as entries:
            classes = sorted(e.name for e in entries if re.fullmatch(r"n\d{8}", e.name) and e.is_dir())
        paths, labels = [], []
        for label, wnid in enumerate(classes):
            files = sorted(file for file in os.listdir(place / of / wnid) if file.endswith(".JPEG"))  # noqa: PTH208
            paths += [f"{of}/{wnid}/{file}" for file in files]
            labels += [label] * len(files)
        if (len(classes), len(paths)) != (self.classes, size):
            raise InputError(
                f"{self.name}: {place / of} holds {len(classes):,} classes and {len(paths):,} images, not "
                f"{self.classes:,} and {size:,}; take it away and unpack it again"
            )
        return classes, paths, labels


class Images:
    """The images of one split, by number, as the bytes of their files: from the packed form where there is one.

    ``labels`` is a tensor (images,). Copies of it in other processes share the arrays, which are mapped into memory.
    """

    def __init__(self, tensors, split: str, folder: Path):
        self.labels = tensors[f"{split}-labels"]
        self.names, self.names_index = (tensors[f"{split}-names{end}"].numpy() for end in ("", "-index"))
        self.jpegs, self.place = None, place_of(folder)
        if f"{split}-jpegs" in tensors:
            self.jpegs, self.index = (tensors[f"{split}-jpegs{end}"].numpy() for end in ("", "-index"))
            self.place = Path(folder, f"{split}-jpegs.npy").absolute()
        else:
            _check(self.place)

    def __len__(self):
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
        """Say where an image lies."""
        if self.jpegs is None:
            return str(Path(self.place, self.name(number)))
        return f"{self.name(number)} (image {number} of {self.place})"


def place_of(folder: Path) -> Path:
    """Return the folder that holds train/ and val/, or the archives; ``folder`` is that of the data set."""
    return Path(os.environ.get(FOLDER) or Path(folder, "sources")).absolute()


def _check(place):
    """InputError, in one line, if ``place`` does not hold the folders train/ and val/."""
    from torchvision.datasets.imagenet import ARCHIVE_META

    missing = [of for of in SPLITS.values() if not (place / of).is_dir()]
    if missing:
        named, archives = os.environ.get(FOLDER), ", ".join(name for name, _ in ARCHIVE_META.values())
        raise InputError(
            f"{f'{FOLDER} =' if named else 'imagenet:'} {place}: holds no folder {missing[0]}; it must hold train/ and "
            "val/, each with 1000 folders n01440764, ... of .JPEG files"
            + ("" if named else f", or the archives {archives}; or name such a folder by {FOLDER}")
        )


def _unpack(place):
    """Unpack the archives whose folders are not there; torchvision verifies their MD5."""
    from torchvision.datasets import imagenet as official

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
        os.sync()  # what is there by its name is whole
        part.rename(place / of)


def _pack(folder, place, paths):
    """Write <split>-jpegs and its index for the ``paths`` of every split, and return the arrays' names.

    ``progress.json`` says what is being packed; how far it has got is what the index says. Who has made the manifest
    deletes it.
    """
    made_from = hashlib.sha256("\n".join([str(place), *(path for of in paths.values() for path in of)]).encode())
    progress = folder / "progress.json"
    names = [f"{split}-{array}" for split in paths for array in ("jpegs", "jpegs-index")]
    if not progress.exists() or progress.read_text() != made_from.hexdigest():
        for path in folder.glob("*-jpegs*"):
            path.unlink()
        with atomic(progress) as temporary:
            temporary.write_text(made_from.hexdigest())
    for split, of in paths.items():
        _append(folder, split, [place / path for path in of])
    return names


def _append(folder, split, paths):
    """Append the files at ``paths`` to what is there of them, in constant memory, and give the two arrays their names.

    A block's index is written behind its content: what the index knows of is whole, and the rest is cut off.
    """
    import numpy as np

    parts = [folder / f"{split}-{array}.part" for array in ("jpegs", "jpegs-index")]
    for part in parts:
        if part.with_suffix(".npy").exists():  # the call was interrupted as it gave the files their names, or after
            part.with_suffix(".npy").replace(part)
    if not parts[1].exists() or parts[1].stat().st_size < HEADER + 8:
        for part, size in zip(parts, (HEADER, HEADER + 8), strict=True):
            part.write_bytes(bytes(size))
    ends = np.fromfile(parts[1], np.int64, offset=HEADER)
    whole = (np.diff(ends) > 0) & (ends[1:] <= parts[0].stat().st_size - HEADER)
    done = int(np.logical_and.accumulate(whole).sum())
    end = int(ends[done])
    if done:
        log.info("imagenet: going on after %s of %s %s images", f"{done:,}", f"{len(paths):,}", split)
    with parts[0].open("r+b") as jpegs, parts[1].open("r+b") as index, ThreadPoolExecutor(READERS) as pool:
        jpegs.truncate(HEADER + end)
        index.truncate(HEADER + 8 * (done + 1))
        for file in (jpegs, index):
            file.seek(0, os.SEEK_END)
        for start in range(done, len(paths), BLOCK):
            block = paths[start : start + BLOCK]
            contents = list(pool.map(Path.read_bytes, block))
            if b"" in contents:
                raise InputError(f"{block[contents.index(b'')]}: empty; unpack it again")
            ends = end + np.cumsum([len(content) for content in contents], dtype=np.int64)
            end = int(ends[-1])
            jpegs.writelines(contents)
            _sync(jpegs)
            index.write(ends.tobytes())
            _sync(index)
            if start // BLOCK % SAID == SAID - 1:
                log.info("imagenet: packed %s of %s %s images", f"{start:,}", f"{len(paths):,}", split)
        for file, dtype, count in ((jpegs, np.uint8, end), (index, np.int64, len(paths) + 1)):
            file.seek(0)
            file.write(npy_header(np.dtype(dtype), count))
            _sync(file)
    for part in parts:
        part.replace(part.with_suffix(".npy"))


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
