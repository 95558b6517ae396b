"""Files that appear whole or not at all, and the one table a run leaves behind.

A run's table is tidy: one row per (run, step, time, metric, value). The run's whole spec, its hash, the
versions, the device, the seconds and the peak memory travel inside the file, and so does a digest of the
rows, so that a damaged file is noticed and two runs can be compared without looking at when they ran.
"""

import fcntl
import hashlib
import io
import json
import logging
import os
import platform
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

log = logging.getLogger(__name__)

COLUMNS = ("run", "step", "time", "metric", "value")  # of a training run
SIMULATED = ("run", "process", "level", "batch", "time", "metric", "value")  # of a simulation
KEY = b"adasde"  # metadata key inside the parquet file
CHECKPOINT = b"adasde checkpoint 2\n"
_held = []  # open lock files: closed ones let go of their locks


@contextmanager
def atomic(path):
    """Yield a temporary path beside ``path`` that replaces it at the end, or vanishes on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:  # a full disk, say, of which what writes does not always tell the file
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def hold(path, what: str):
    """Hold the lock file at ``path`` until this process ends, however it does; InputError if another process has it.

    ``what`` it is held for is in the message.
    """
    file = Path(path).open("a+")  # noqa: SIM115, since it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        who = file.read().strip()
        file.close()
        raise InputError(
            f"{what}: process {who} is making this scale here; wait for its end, or work in a folder of your own"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.append(file)


def check_writable(name: str, path):
    """InputError, before any work, if ``path`` cannot be written; ``name`` is what the user calls it."""
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".", dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{name} = {path}: cannot be written ({error.strerror})") from error


def canonical(spec) -> str:
    """Return ``spec`` as JSON with sorted keys: equal specs are equal strings."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"))


def spec_hash(spec) -> str:
    """SHA-256 of the canonical spec, in hexadecimal."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()


def provenance(device=None) -> dict:
    """Return the versions and the ``device`` that a result depends on (no host names, no paths); if None the CPU."""
    import numpy
    import torch

    from . import __version__

    return {
        "adasde": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": torch.cuda.get_device_name(device) if getattr(device, "type", "cpu") == "cuda" else device_name(),
        "threads": torch.get_num_threads(),
    }


def device_name() -> str:
    """Model of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def digest(rows) -> str:
    """SHA-256 of the rows' exact values, each a text, an int or a float; NaN equals NaN."""
    exact = [[value.hex() if isinstance(value, float) else value for value in row] for row in rows]
    return hashlib.sha256(json.dumps(exact).encode()).hexdigest()


def write_run(path, rows, spec, columns=COLUMNS, **facts):
    """Write a run's rows, each as ``columns`` says, with its spec and ``facts`` inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {"spec": spec, "spec_hash": spec_hash(spec), "rows_sha256": digest(rows), **facts}
    metadata["sha256"] = _sealed(metadata)
    table = pa.table([_column([row[i] for row in rows]) for i in range(len(columns))], columns)
    table = table.replace_schema_metadata({KEY: json.dumps(metadata).encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


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


def read_run(path):
    """Return a run's rows and metadata; a missing, cut or altered file is an InputError that names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a run's .parquet file in it")
    try:
        table = pq.read_table(path)
        metadata = json.loads(table.schema.metadata[KEY])
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        seal = metadata.pop("sha256", None) or _sealed(metadata)  # earlier versions had none
        whole = digest(rows) == metadata["rows_sha256"] and spec_hash(metadata["spec"]) == metadata["spec_hash"]
        whole = whole and seal == _sealed(metadata)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no run's table, or a damaged one ({type(error).__name__})") from error
    if not whole:
        raise InputError(f"{path}: damaged (its rows or spec are not what was written); delete it and run again")
    return rows, metadata


def _sealed(metadata):
    """SHA-256 of what a run's file says beside its rows."""
    return hashlib.sha256(canonical(metadata).encode()).hexdigest()


def _tensor_digest(tensors):
    """SHA-256 of names, types, shapes and values."""
    import torch

    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def _column(values):
    """An arrow array built from its buffers: pyarrow imports pandas to look at a list, 0.3 seconds in every job."""
    import numpy as np
    import pyarrow as pa

    if not values:
        return pa.array([])
    if isinstance(values[0], str):
        texts = [value.encode() for value in values]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    kind, dtype = (pa.int64(), np.int64) if isinstance(values[0], int) else (pa.float64(), np.float64)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.array(values, dtype))])


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
