"""Images as uint8 arrays of shape (images, channels, height, width), labels as uint8 of shape (images,)."""

import io
import pickle
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np


def fashion_mnist(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of Fashion-MNIST from its four idx files: 60,000 and 10,000 images of shape (1, 28, 28)."""
    return {
        f"{split}-{kind}": _idx(files[f"{prefix}-{kind}-idx{dims}-ubyte.gz"], dims)
        for split, prefix in (("train", "train"), ("test", "t10k"))
        for kind, dims in (("images", 3), ("labels", 1))
    }


def cifar10(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of CIFAR-10 from its official python archive: 50,000 and 10,000 images of shape (3, 32, 32)."""
    batches = {}
    with tarfile.open(fileobj=io.BytesIO(files["cifar-10-python.tar.gz"]), mode="r:gz") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name.startswith("data_batch_") or name == "test_batch":
                batches[name] = _ArraysOnly(archive.extractfile(member), encoding="bytes").load()
    train = [batches[name] for name in sorted(batches) if name != "test_batch"]
    arrays = {}
    for split, parts in (("train", train), ("test", [batches["test_batch"]])):
        images = np.concatenate([part[b"data"] for part in parts])
        arrays[f"{split}-images"] = np.ascontiguousarray(images.reshape(-1, 3, 32, 32))
        arrays[f"{split}-labels"] = np.concatenate([np.asarray(part[b"labels"], np.uint8) for part in parts])
    return arrays


def _idx(content, dims):
    """Return the array of an idx file: a magic number with the number of dimensions, their sizes, the bytes."""
    header = np.frombuffer(content, ">i4", count=1 + dims)
    if header[0] != 0x0800 + dims:
        raise ValueError(f"not an idx file of {dims} dimensions")
    values = np.frombuffer(content, np.uint8, offset=4 * (1 + dims)).reshape(header[1:])
    return values[:, None] if dims == 3 else values


class _ArraysOnly(pickle.Unpickler):
    """Reads the archive's pickles, whose hash has been verified; even so it builds nothing but numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
            "ndarray": ("numpy",),
            "dtype": ("numpy",),
            "encode": ("_codecs",),
        }
        if module not in allowed.get(name, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an archive of images")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
