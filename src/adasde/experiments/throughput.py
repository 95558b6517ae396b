"""Measured speeds: examples per second of finished runs, as CSV, from which `cost` tells what others will take."""

import csv
from collections.abc import Iterable
from pathlib import Path

from adasde.common import InputError, atomic
from adasde.experiments.artifacts import read_results
from adasde.experiments.cost import DEVICES, work
from adasde.experiments.specs import Simulation

COLUMNS = ("workload", "device", "precision", "batch_size", "examples_per_second", "runs", "source")


def write_throughput(paths: Iterable[Path], out: Path) -> None:
    """Write examples per second, as `cost` counts and reads them, as CSV.

    ``paths`` are files of finished runs, and tables of single steps (.csv) that benchmarks/gpu.py measured. Plain runs
    count that came to their end, on one device and, if that is a CPU, on one core; those at one batch size of a
    workload count together. Rows of ``out`` for other workloads, devices, precisions and sizes are kept.
    """
    paths = list(paths)
    steps = [path for path in paths if path.suffix == ".csv"]
    results = [(path, result) for path in paths if path not in steps for result in read_results(path)]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    if out.exists():
        with out.open(newline="") as file:
            rows = {tuple(row[name] for name in COLUMNS[:4]): row for row in csv.DictReader(file)}
    sums: dict[tuple[str, ...], list] = {}
    for path, result in results:
        spec, facts = result.spec, result.facts
        simulated = isinstance(spec, Simulation)
        gpu = not simulated and spec.device == "cuda"
        if not simulated and (result.rows[-1][1] < spec.steps or spec.ell != 1 or spec.processes != 1):
            continue
        if not gpu and facts["threads"] != 1:
            continue
        name = f"{spec.study}.{spec.oracle}" if simulated else spec.workload
        device = _gpu_named(facts["device"], path) if gpu else "cpu-core"
        key = (name, device, *(("float32", "") if simulated else (spec.precision, str(spec.batch_size))))
        source = f"finished runs on {facts['device']}, torch {facts['torch']}"
        total = sums.setdefault(key, [0.0, 0.0, 0, source])
        total[0] += spec.path_steps if simulated else sum(work(spec))
        total[1] += facts["seconds"]
        total[2] += 1
    for key, (amount, seconds, count, source) in sums.items():
        values = (*key, str(float(f"{amount / seconds:.4g}")), str(count), source)
        rows[key] = dict(zip(COLUMNS, values, strict=True))
    for path in steps:
        rows |= {tuple(row[name] for name in COLUMNS[:4]): row for row in _measured_steps(path)}

    def order(row: dict[str, str]) -> tuple:
        return row["device"], row["workload"], row["precision"], float(row["batch_size"] or "inf")

    with atomic(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=order))


def _measured_steps(path: Path) -> list[dict[str, str]]:
    """Return rows of COLUMNS from a table of steps: those of plain runs."""
    try:
        with path.open(newline="") as file:
            return [
                {
                    **{name: row[name] for name in ("workload", "precision", "batch_size", "examples_per_second")},
                    "device": _gpu_named(row["device"], path),
                    "runs": "",
                    "source": f"steps on {row['device']}, torch {row['torch']}",
                }
                for row in csv.DictReader(file)
                if row["ell"] == "1"
            ]
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no table of steps, as benchmarks/gpu.py writes it") from error


def _gpu_named(model: str, path: Path) -> str:
    """Return the name in DEVICES of a GPU from that which the system gives it."""
    names = [name for name, device in DEVICES.items() if device.unit == "GPU" and device.model in model]
    if not names:
        raise InputError(f"{path}: made on {model}, which is not a device that cost.py knows")
    return names[0]
