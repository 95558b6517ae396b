"""Measured speeds: examples per second of finished runs, as CSV, from which `cost` tells what others will take."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from adasde.common import MALFORMED, InputError, atomic, canonical, positive, read_text
from adasde.experiments.artifacts import read_all
from adasde.experiments.cost import DEVICES, work
from adasde.experiments.specs import Simulation

KEY = ("workload", "device", "precision", "engine", "batch_size")  # what has a speed of its own
COLUMNS = (*KEY, "examples_per_second", "runs", "source")
LARGEST = 2**20  # bytes of a CSV file


def write_throughput(paths: Iterable[Path], out: Path) -> None:
    """Write examples per second, as `cost` counts and reads them, as CSV.

    ``paths`` are files of finished runs, and tables of single steps (.csv) that benchmarks/gpu.py measured. Plain runs
    count that came to their end, on one device and, if that is a CPU, on one core; those at one batch size of a
    workload count together. Rows of ``out`` for other workloads, devices, precisions, engines and sizes are kept.
    """
    paths = list(paths)
    steps = [path for path in paths if path.suffix == ".csv"]
    # A spec may have been run several times, each at a speed of its own.
    results = read_all(
        (path for path in paths if path not in steps), lambda result: (result.spec.hash, canonical(result.facts))
    )
    if len({path.resolve() for path in steps}) < len(steps):
        raise InputError(f"{steps[-1]}: a file is named twice; name it once")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    if out.exists():
        rows = {tuple(row[name] for name in KEY): row for row in _table(out, COLUMNS)}
    sums: dict[tuple[str, ...], list] = {}
    for path, result in results:
        spec, facts = result.spec, result.facts
        simulated = isinstance(spec, Simulation)
        gpu = not simulated and spec.device == "cuda"
        last = result.rows[-1][1] if result.rows else 0
        if not simulated and (last < spec.steps or spec.ell != 1 or spec.processes != 1):
            continue
        if not gpu and facts.get("threads") != 1:
            continue
        device_name, torch_version = str(facts.get("device")), facts.get("torch")
        name = f"{spec.study}.{spec.oracle}" if simulated else spec.workload
        device = _gpu_named(device_name, path) if gpu else "cpu-core"
        own = ("float32", "eager", "") if simulated else (spec.precision, spec.engine, str(spec.batch_size))
        key = (name, device, *own)
        source = f"finished runs on {device_name}, torch {torch_version}"
        total = sums.setdefault(key, [0.0, 0.0, 0, source])
        total[0] += spec.path_steps if simulated else sum(work(spec))
        total[1] += positive(f"{path}: seconds of {spec.run}", facts.get("seconds"))
        total[2] += 1
    for key, (amount, seconds, count, source) in sums.items():
        values = (*key, str(float(f"{amount / seconds:.4g}")), str(count), source)
        rows[key] = dict(zip(COLUMNS, values, strict=True))
    for path in steps:
        rows |= {tuple(row[name] for name in KEY): row for row in _measured_steps(path)}

    def order(row: dict[str, str]) -> tuple:
        return row["device"], row["workload"], row["precision"], row["engine"], float(row["batch_size"] or "inf")

    with atomic(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=order))


def _measured_steps(path: Path) -> list[dict[str, str]]:
    """Return rows of COLUMNS from a table of steps: those of plain runs."""
    kept = ("workload", "precision", "engine", "batch_size", "examples_per_second")
    return [
        {
            **{name: row[name] for name in kept},
            "device": _gpu_named(row["device"], path),
            "runs": "",
            "source": f"steps on {row['device']}, torch {row['torch']}",
        }
        for row in _table(path, (*kept, "device", "torch", "ell"))
        if row["ell"] == "1"
    ]


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file. InputError if it lacks one of the columns, or has text where a number is due.

    A file without the column ``engine`` is of the time when all was eager.
    """
    text = read_text(path, LARGEST)
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        if missing := set(columns) - {"engine", *(reader.fieldnames or ())}:
            raise ValueError(f"no column {missing}")
        rows = [{name: row.get(name, "eager") if name == "engine" else row[name] for name in columns} for row in reader]
        for row in rows:
            positive("examples_per_second", float(row["examples_per_second"]))
            positive("batch_size", float(row["batch_size"] or 1))
            if None in row.values():
                raise ValueError("a row that is too short")
    except (csv.Error, *MALFORMED) as error:
        raise InputError(f"{path}: not a table of speeds, as benchmarks/gpu.py and this command write them") from error
    return rows


def _gpu_named(model: str, path: Path) -> str:
    """Return the name in DEVICES of a GPU from that which the system gives it."""
    names = [name for name, device in DEVICES.items() if device.unit == "GPU" and device.model in model]
    if not names:
        raise InputError(f"{path}: made on {model}, which is not a device that cost.py knows")
    return names[0]
