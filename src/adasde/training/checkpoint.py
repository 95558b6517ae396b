"""TO DESCRIBE."""

import hashlib
import io
import logging
from pathlib import Path

from adasde.common import InputError, atomic, spec_hash

log = logging.getLogger(__name__)

CHECKPOINT = b"adasde checkpoint 2\n"


def write_weights(path, tensors, spec):
    """Write a run's final weights, by name, as safetensors with the hash of its spec inside."""
    import torch
    from safetensors.torch import save

    with atomic(path) as temporary:
        # Copies: the format refuses tensors that share their memory, as tied embeddings do, and channels-last ones.
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        temporary.write_bytes(save(copies, {"spec_hash": spec_hash(spec), "sha256": _tensor_digest(copies)}))


def read_weights(path, wanted: str) -> dict:
    """Return the weights, by name, of the run whose spec has the hash ``wanted``; InputError if they are no such."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).exists():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            facts, tensors = file.metadata() or {}, {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: no safetensors file, or a damaged one; name another, or make it again") from error
    if "spec_hash" in facts and facts.get("sha256") != _tensor_digest(tensors):
        raise InputError(f"{path}: damaged (not what was written); delete it, and run again what made it")
    if facts.get("spec_hash") != wanted:
        raise InputError(f"{path}: weights of another run; name another file")
    return tensors


def write_checkpoint(path, state):
    """Write the states of a run: what the file is, the digest of the rest, and ``state`` as torch saves it."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(CHECKPOINT + hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())


def read_checkpoint(path):
    """Return the states in a checkpoint; None if it is damaged or another version's; InputError if it is none."""
    import torch

    content = memoryview(Path(path).read_bytes())
    start = len(CHECKPOINT) + hashlib.sha256().digest_size
    kind = bytes(content[: len(CHECKPOINT)])
    if not kind.startswith(CHECKPOINT.rstrip(b"0123456789\n")):
        raise InputError(f"checkpoint = {path}: holds something else; name another file")
    whole = hashlib.sha256(content[start:]).digest() == bytes(content[len(CHECKPOINT) : start])
    if kind != CHECKPOINT or not whole:
        why = "damaged checkpoint" if kind == CHECKPOINT else "checkpoint of another version"
        log.warning("%s: %s, starting from the beginning", path, why)
        return None
    return torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)


def _tensor_digest(tensors):
    """SHA-256 of names, types, shapes and values."""
    import torch

    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
