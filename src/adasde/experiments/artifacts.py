"""What a job leaves behind: one tidy table of its runs, with everything that they depend on inside the file.

The table has one row per (run, step, time, metric, value). Every run's spec, its hash, the versions, the device, the
seconds and the peak memory travel in the file, and so does a digest of its rows. So a damaged file is noticed, and runs
can be compared whenever they were made.
"""

import json
import platform
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import adasde
from adasde.common import MALFORMED, InputError, atomic, canonical, check_regular, difference, digest, opened
from adasde.experiments.specs import AnySpec, Simulation, spec_of
from adasde.training.source import source_digest

KEY = b"adasde"  # of the metadata inside the parquet file
_TYPES = {
    "run": pa.string(), "process": pa.string(), "metric": pa.string(),
    "step": pa.int64(), "batch": pa.int64(),
    "level": pa.float64(), "time": pa.float64(), "value": pa.float64(),
}  # fmt: skip
COLUMNS = ("run", "step", "time", "metric", "value")  # of training runs
NAMED = 3  # files made by different code that a line names
EARLIER = "earlier"  # folder beside tables, of those that hold other runs than their jobs; jobs take their runs from it
SIMULATED = ("run", "process", "level", "batch", "time", "metric", "value")  # of simulations


@dataclass(frozen=True)
class Result:
    """A finished run: its spec, its rows as `columns` says, and facts such as seconds, device and versions."""

    spec: AnySpec
    rows: Sequence[tuple]
    facts: dict[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what a row holds."""
        return SIMULATED if isinstance(self.spec, Simulation) else COLUMNS

    @property
    def diverged(self) -> float | None:
        """The time at which the run diverged; None if it came to its end."""
        return next((row[2] for row in self.rows if row[3] == "diverged"), None)


def provenance(device: Any = None) -> dict[str, Any]:
    """Return the versions and the torch ``device`` that a result depends on, of the CPU by default.

    There are no host names and no paths in it.
    """
    import torch  # what only reads results needs no torch

    return {
        "adasde": adasde.__version__,
        "source": source_digest(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
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


def rows_digest(rows: Iterable[Sequence]) -> str:
    """SHA-256 of the rows' exact values, each a text, an int or a float; NaN equals NaN."""
    exact = [[value.hex() if isinstance(value, float) else value for value in row] for row in rows]
    return digest(json.dumps(exact))


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write finished runs, all of one kind, as one table, whole or not at all."""
    facts = []
    for result in results:
        own = {"spec": result.spec.document, "spec_hash": result.spec.hash, "rows_sha256": rows_digest(result.rows)}
        own |= {"rows": len(result.rows), **result.facts}
        facts.append({**own, "sha256": _seal(own)})
    rows = [row for result in results for row in result.rows]
    columns = results[0].columns
    arrays = [pa.array([row[place] for row in rows], _TYPES[name]) for place, name in enumerate(columns)]
    table = pa.table(arrays, columns).replace_schema_metadata({KEY: json.dumps(facts).encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_results(path: Path) -> list[Result]:
    """Return the runs in a file; InputError names a file that is missing, cut, altered or of another kind."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a run's .parquet file in it")
    try:
        with opened(path) as content, pq.ParquetFile(content) as file:
            described = _facts(file.schema_arrow)
            if sum(facts["rows"] for facts in described) != file.metadata.num_rows:
                raise InputError(f"{path}: damaged (its rows are not what was written); delete it and run again")
            table = file.read()
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        results, whole, start = [], True, 0
        for facts in described:
            whole = whole and facts.pop("sha256") == _seal(facts)
            part = rows[start : start + facts.pop("rows")]
            start += len(part)
            whole = whole and rows_digest(part) == facts["rows_sha256"]
            results.append((facts.pop("spec"), part, facts))
    except InputError:
        raise
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        raise InputError(f"{path}: not a run's table, or a damaged one ({type(error).__name__})") from error
    if not whole:
        raise InputError(f"{path}: damaged (its rows or spec are not what was written); delete it and run again")
    return [_result(path, table.schema, *parts) for parts in results]


def read_all(
    paths: Iterable[Path], key: Callable[[Result], Hashable] = lambda result: result.spec.run
) -> list[tuple[Path, Result]]:
    """Return the runs in several files, each with its file. InputError if a run, as ``key`` tells it, is there twice.

    It would count twice: a file may be named twice, or be a copy of another.
    """
    found, places = [], dict[Hashable, Path]()
    for path in paths:
        for result in read_results(path):
            if key(result) in places:
                raise InputError(f"{path}: {result.spec.run} is also in {places[key(result)]}; name it once")
            places[key(result)] = path
            found.append((path, result))
    return found


def _facts(schema: pa.Schema) -> list[dict[str, Any]]:
    """What a file says of each of its runs; errors of many kinds if it is not a file of ours."""
    described = json.loads(schema.metadata[KEY])
    if not isinstance(described, list) or not described:
        raise ValueError("no facts of runs")
    if not all(type(facts["rows"]) is int and type(facts["spec"]["run"]) is str for facts in described):
        raise ValueError("facts of no run")
    return described


def _described(path: Path) -> list[dict[str, Any]]:
    """The same of a file at ``path``, without its rows; nothing if it is damaged, which whoever reads it will say."""
    with suppress(pa.ArrowException, OSError, *MALFORMED):
        check_regular(path)
        return _facts(pq.read_schema(path))
    return []


def specs_in(folder: Path) -> dict[Path, list[dict[str, Any]]]:
    """Return the specs of the runs in each table of ``folder``, as they are there; none of one that is damaged."""
    return {path: [facts["spec"] for facts in _described(path)] for path in sorted(Path(folder).glob("*.parquet"))}


def other_code(paths: Iterable[Path]) -> list[Path]:
    """Return the files that hold a run made by different code, whose results may differ."""
    own = source_digest()
    return [path for path in paths if any(facts.get("source") != own for facts in _described(path))]


def other_code_line(files: Sequence[Path]) -> str:
    """Name files made by different code, in one line."""
    rest = f" and {len(files) - NAMED} more files" if len(files) > NAMED else ""
    return f"{', '.join(map(str, files[:NAMED]))}{rest}: made by different code"


def finished_runs(wanted: Mapping[str, AnySpec], folder: Path) -> set[str]:
    """Return the names of the runs in the files of ``folder``, all of which must be ``wanted`` as they are there.

    So a config that was changed, or another of the same name, never writes over finished runs, nor over the tables,
    claims and figures that show them.

    Raises:
        InputError: If a file holds a run that is not wanted, or one of another spec.
    """
    names = set()
    for path, specs in specs_in(folder).items():
        for there in specs:
            here = wanted.get(there["run"])
            differs = "this config does not name it" if here is None else difference(there, here.document)
            if differs:
                raise InputError(
                    f"{path}: holds runs of another config ({there['run']}: {differs}); delete it, or choose another "
                    "name for the scale"
                )
            names.add(there["run"])
    return names


def misplaced(job_of: Mapping[str, str], folder: Path) -> list[Path]:
    """Return the tables in ``folder`` that hold other runs than their job has.

    So it is where a config asks for more seeds than before, or divides its runs otherwise. ``job_of`` has the job of
    each run, which is the table's name.
    """
    held = {path: {spec["run"] for spec in specs} for path, specs in specs_in(folder).items()}
    owned = {path: {run for run, job in job_of.items() if job == path.stem} for path in held}
    return [path for path, runs in held.items() if runs and runs != owned[path]]


def _result(path: Path, schema: pa.Schema, document: Any, rows: list[tuple], facts: dict[str, Any]) -> Result:
    try:
        result = Result(spec_of(document), rows, facts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    types = {name: _TYPES[name] for name in result.columns}
    if dict(zip(schema.names, schema.types, strict=True)) != types or any(row[0] != result.spec.run for row in rows):
        raise InputError(f"{path}: not a table of {result.spec.run}; delete it and run again")
    return result


def _seal(facts: dict[str, Any]) -> str:
    """SHA-256 of what a file says of a run beside its rows."""
    return digest(canonical(facts))
