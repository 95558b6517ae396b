"""Files of a run's states: checkpoints, and its final weights. Damage is noticed, and no pickled code is loaded."""

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from adasde.common import InputError, atomic

log = logging.getLogger(__name__)

CHECKPOINT = b"adasde checkpoint 4\n"
_SHA256 = hashlib.sha256().digest_size
_START = len(CHECKPOINT) + _SHA256  # of what torch has saved


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], spec_hash: str) -> None:
    """Write a run's final weights, by name, as safetensors with the hash of its spec inside."""
    with atomic(path) as temporary:
        # Copies: the format refuses tensors that share their memory, as tied embeddings do, and channels-last ones.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        temporary.write_bytes(save(copies, {"spec_hash": spec_hash, "sha256": _digest(copies)}))


def read_weights(path: Path, spec_hash: str) -> dict[str, torch.Tensor]:
    """Return the weights, by name, of the run whose spec has this hash; InputError if the file holds anything else."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            facts, tensors = file.metadata() or {}, {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: no safetensors file, or a damaged one; name another, or make it again") from error
    if "spec_hash" in facts and facts.get("sha256") != _digest(tensors):
        raise InputError(f"{path}: damaged (not what was written); delete it, and run again what made it")
    if facts.get("spec_hash") != spec_hash:
        raise InputError(f"{path}: weights of another run; name another file")
    return tensors


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the states of a run: the kind and version of the file, a digest, and ``state`` as torch saves it."""
    with atomic(path) as temporary, temporary.open("w+b") as file:  # not by way of memory: a state can be gigabytes
        file.write(CHECKPOINT + bytes(_SHA256))
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer, when it ends, hides that the disk is full
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.seek(_START)
        whole = hashlib.file_digest(file, "sha256").digest()
        file.seek(len(CHECKPOINT))
        file.write(whole)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the states in a checkpoint, or None with a warning if it is damaged or of another version.

    Raises InputError if the file is not a checkpoint.
    """
    with _Saved(path) as file:
        kind, digest = file.read(len(CHECKPOINT)), file.read(_SHA256)
        if not kind.startswith(CHECKPOINT.rstrip(b"0123456789\n")):
            raise InputError(f"checkpoint = {path}: holds something else; name another file")
        if kind != CHECKPOINT or hashlib.file_digest(file, "sha256").digest() != digest:
            why = "damaged checkpoint" if kind == CHECKPOINT else "checkpoint of another version"
            log.warning("%s: %s, starting from the beginning", path, why)
            return None
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


class _Saved(io.FileIO):
    """The part of a checkpoint that torch has saved, as a file: torch counts from its start."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return super().seek(offset + _START if whence == 0 else offset, whence) - _START

    def tell(self) -> int:
        return super().tell() - _START


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
