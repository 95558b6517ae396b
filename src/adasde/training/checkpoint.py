"""Files of a run's states: checkpoints, and its final weights. Damage is noticed, and no pickled code is loaded.

Each says which spec it is of, and which code has made it.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from adasde.common import MALFORMED, InputError, atomic, difference, opened
from adasde.training.source import source_digest

CHECKPOINT = b"adasde checkpoint 5\n"
_SHA256 = hashlib.sha256().digest_size
_START = len(CHECKPOINT) + _SHA256  # of what torch has saved


class UnusableCheckpoint(InputError):
    """A checkpoint from which its run cannot go on: damaged, of another version, or made by different code."""


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], spec_hash: str) -> None:
    """Write a run's final weights, by name, as safetensors with the hash of its spec inside."""
    with atomic(path) as temporary:
        # Copies: the format refuses tensors that share their memory, as tied embeddings do, and channels-last ones.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        temporary.write_bytes(
            save(copies, {"spec_hash": spec_hash, "source": source_digest(), "sha256": _digest(copies)})
        )


def read_weights(path: Path, spec_hash: str) -> dict[str, torch.Tensor]:
    """Return the weights, by name, of the run whose spec has this hash; InputError if the file holds anything else."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file")
    try:
        with opened(path), safe_open(path, "pt") as file:
            facts, tensors = file.metadata() or {}, {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: no safetensors file, or a damaged one; name another, or make it again") from error
    if "spec_hash" in facts and facts.get("sha256") != _digest(tensors):
        raise InputError(f"{path}: damaged (not what was written); delete it, and run again what made it")
    if facts.get("spec_hash") != spec_hash:
        raise InputError(f"{path}: weights of another run; name another file")
    return tensors


def source_of_weights(path: Path) -> str:
    """Return the digest of the code that has made a file of weights; empty if it does not say."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("source", "")


def write_checkpoint(path: Path, spec: str, state: Mapping[str, Any]) -> None:
    """Write the states of the run whose spec has the canonical JSON ``spec``.

    The file holds its kind and version, a digest of the rest, and the rest as torch saves it: spec, source and state.
    """
    with atomic(path) as temporary, temporary.open("w+b") as file:  # not by way of memory: a state can be gigabytes
        file.write(CHECKPOINT + bytes(_SHA256))
        try:
            torch.save({**state, "spec": spec, "source": source_digest()}, file)
        except RuntimeError as error:  # torch's writer, when it ends, hides that the disk is full
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.seek(_START)
        whole = hashlib.file_digest(file, "sha256").digest()
        file.seek(len(CHECKPOINT))
        file.write(whole)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the states in a checkpoint, and with them its ``spec`` and ``source``, whichever these are.

    Raises:
        UnusableCheckpoint: If it is damaged or of another version.
        InputError: If the file is not a checkpoint.
    """
    with opened(path), _Saved(path) as file:
        kind, digest = file.read(len(CHECKPOINT)), file.read(_SHA256)
        if not kind.startswith(CHECKPOINT.rstrip(b"0123456789\n")):
            raise InputError(f"checkpoint = {path}: holds something else; name another file")
        if kind != CHECKPOINT:
            raise UnusableCheckpoint(f"{path}: checkpoint of another version")
        if hashlib.file_digest(file, "sha256").digest() != digest:
            raise UnusableCheckpoint(f"{path}: damaged checkpoint")
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            if isinstance(json.loads(state["spec"]), dict) and isinstance(state["source"], str):
                return state
        except (*MALFORMED, RuntimeError, EOFError, pickle.UnpicklingError):
            pass
    raise UnusableCheckpoint(f"{path}: holds no states of a run")


def read_own_checkpoint(path: Path, spec: str) -> dict[str, Any]:
    """Return the states from which the run with this spec goes on, as `read_checkpoint` does.

    Raises:
        UnusableCheckpoint: If there is no going on, also because different code made the checkpoint.
        InputError: If it is of another spec.
    """
    state = read_checkpoint(path)
    if differs := difference(json.loads(state["spec"]), json.loads(spec)):
        raise InputError(f"{path}: checkpoint of another spec ({differs}); delete it, or name another file")
    if state["source"] != source_digest():
        raise UnusableCheckpoint(f"{path}: made by different code")
    return state


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
