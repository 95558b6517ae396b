"""Measured speeds: examples per second of finished runs, as CSV, from which `cost` tells what others will take."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from adasde.common import MALFORMED, InputError, atomic, canonical, positive, read_text
from adasde.experiments.artifacts import Result, read_all
from adasde.experiments.cost import DEVICES, work
from adasde.experiments.specs import Simulation, Trained
from adasde.workloads.registry import workload_named

KEY = ("workload", "device", "precision", "engine", "batch_size")  # what has a speed of its own
COLUMNS = (*KEY, "examples_per_second", "runs", "source")
LARGEST = 2**20  # bytes of a CSV file

log = logging.getLogger(__name__)


def write_throughput(paths: Iterable[Path], out: Path) -> None:
    """Write examples per second, as `cost` counts and reads them, as CSV.

    ``paths`` are files of finished runs, and tables of single steps (.csv) that benchmarks/gpu.py measured. Plain runs
    count that came to their end, on one device and, if that is a CPU, on one core; those at one batch size of a
    workload count together; a warning counts the others. Rows of ``out`` for other workloads, devices, precisions,
    engines and sizes are kept.

    Raises:
        InputError: If no run or step says a speed, or if a file is none of these.
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
    left_out: Counter[str] = Counter()
    for path, result in results:
        spec, facts = result.spec, result.facts
        simulated = isinstance(spec, Simulation)
        gpu = not simulated and spec.device == "cuda"
        if reason := _says_nothing(result):
            left_out[reason] += 1
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
    measured = [row for path in steps for row in _measured_steps(path, left_out)]
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    if not (sums or measured):
        raise InputError(f"{paths[0]}: says no speed of a plain run on one device: {reasons or 'no runs'}")
    if reasons:
        log.warning("left out, since they say nothing of a plain run on one device: %s", reasons)
    rows |= {tuple(row[name] for name in KEY): row for row in measured}

    def order(row: dict[str, str]) -> tuple:
        return row["device"], row["workload"], row["precision"], row["engine"], float(row["batch_size"] or "inf")

    with atomic(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=order))


def _says_nothing(result: Result) -> str | None:
    """Why a run does not say the speed of a plain run on one device; None if it does."""
    spec = result.spec
    if not isinstance(spec, Simulation):
        if spec.ell != 1:
            return "of SVAG"
        if spec.processes != 1:
            return "of several processes"
        if (result.rows[-1][1] if result.rows else 0) < spec.steps:
            return "that did not come to their end"
        if spec.device == "cuda":
            return None
    return None if result.facts.get("threads") == 1 else "on several cores"


def _measured_steps(path: Path, left_out: Counter[str]) -> list[dict[str, str]]:
    """Return rows of COLUMNS from a table of steps: those of plain runs; count the others."""
    kept = ("workload", "precision", "engine", "batch_size", "examples_per_second")
    found = []
    for row in _table(path, (*kept, "device", "torch", "ell")):
        if row["ell"] != "1":
            left_out["of SVAG"] += 1
            continue
        try:
            workload_named(row["workload"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        for name in ("engine", "precision"):
            if row[name] not in (allowed := get_args(Trained.model_fields[name].annotation)):
                raise InputError(f"{path}: {name} = {row[name]!r}: must be one of {', '.join(allowed)}")
        device, source = _gpu_named(row["device"], path), f"steps on {row['device']}, torch {row['torch']}"
        found.append({**{name: row[name] for name in kept}, "device": device, "runs": "", "source": source})
    return found


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
        known = ", ".join(device.model for device in DEVICES.values() if device.unit == "GPU")
        raise InputError(
            f"{path}: device = {model}: must be one of {known}; others can be added to DEVICES in experiments/cost.py"
        )
    return names[0]
