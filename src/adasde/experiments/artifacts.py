"""Files that appear whole or not at all, and the one table a run leaves behind.

A run's table is tidy: one row per (run, step, time, metric, value). The run's whole spec, its hash, the
versions, the device, the seconds and the peak memory travel inside the file, and so does a digest of the
rows, so that a damaged file is noticed and two runs can be compared without looking at when they ran.
"""

import hashlib
import json
import logging
import platform
from contextlib import suppress
from pathlib import Path

from adasde.common import InputError, atomic, canonical, spec_hash

log = logging.getLogger(__name__)

COLUMNS = ("run", "step", "time", "metric", "value")  # of a training run
SIMULATED = ("run", "process", "level", "batch", "time", "metric", "value")  # of a simulation
KEY = b"adasde"  # metadata key inside the parquet file


def provenance(device=None) -> dict:
    """Return the versions and the ``device`` that a result depends on (no host names, no paths); if None the CPU."""
    import numpy
    import torch

    from adasde import __version__

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


def rows_digest(rows) -> str:
    """SHA-256 of the rows' exact values, each a text, an int or a float; NaN equals NaN."""
    exact = [[value.hex() if isinstance(value, float) else value for value in row] for row in rows]
    return hashlib.sha256(json.dumps(exact).encode()).hexdigest()


def write_run(path, rows, spec, columns=COLUMNS, **facts):
    """Write a run's rows, each as ``columns`` says, with its spec and ``facts`` inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {"spec": spec, "spec_hash": spec_hash(spec), "rows_sha256": rows_digest(rows), **facts}
    metadata["sha256"] = _sealed(metadata)
    table = pa.table([_column([row[i] for row in rows]) for i in range(len(columns))], columns)
    table = table.replace_schema_metadata({KEY: json.dumps(metadata).encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


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
        whole = rows_digest(rows) == metadata["rows_sha256"] and spec_hash(metadata["spec"]) == metadata["spec_hash"]
        whole = whole and seal == _sealed(metadata)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no run's table, or a damaged one ({type(error).__name__})") from error
    if not whole:
        raise InputError(f"{path}: damaged (its rows or spec are not what was written); delete it and run again")
    return rows, metadata


def _sealed(metadata):
    """SHA-256 of what a run's file says beside its rows."""
    return hashlib.sha256(canonical(metadata).encode()).hexdigest()


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
