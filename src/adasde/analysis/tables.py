"""The tidy tables of a scale: all runs stacked, one row per run, and what figures and claims read from them.

trajectories.parquet  run and its coordinates (experiment, rule, kappa, ell, ...), its kind (scratch, branch, finetune),
                      step, samples, epoch, time, metric, value; samples and epoch are those of the plain run at that
                      time, whatever the run took itself; in branches they count from the branch point
simulations.parquet   run and what it simulates (oracle, optimizer, ...), process, level, batch, time, metric, value
runs.csv              one row per run: hyperparameters, final test functions, divergence, seconds, memory, versions
"""

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from adasde.analysis.optimizers import TITLES, optimizer_name
from adasde.common import MALFORMED, InputError, atomic, opened, read_text, short
from adasde.experiments.artifacts import COLUMNS as MEASURED
from adasde.experiments.artifacts import KEY, SIMULATED, Result, read_all
from adasde.experiments.oracles import ORACLES
from adasde.experiments.specs import Simulation
from adasde.scaling.rules import RULES
from adasde.workloads.registry import WORKLOADS, workload_named

COORDINATES = ("experiment", "workload", "rule", "kappa", "ell", "batch_size", "seed")
COLUMNS = {
    "trajectories": (*MEASURED, *COORDINATES, "kind", "second_moment", "parent", "optimizer", "samples", "epoch"),
    "simulations": (*SIMULATED, "simulation", "study", "oracle", "optimizer"),
}
KEYS = {
    "trajectories": ["run", "step", "metric"],
    "simulations": ["run", "process", "level", "batch", "time", "metric"],
}
POSITIVE = ("kappa", "ell", "batch_size", "level")
NUMBERS = (*POSITIVE, "step", "time", "value", "seed", "samples", "epoch", "batch")
KNOWN: dict[str, Collection[str]] = {
    "workload": WORKLOADS, "optimizer": TITLES, "oracle": ORACLES,
    "rule": {*RULES, "svag", "finetune", "scratch"}, "kind": {"scratch", "branch", "finetune"},
    "second_moment": {"transport", "keep", "fresh"},
}  # fmt: skip
LARGEST = 2**23  # bytes of a CSV file; a run's row has some 400
WIDEST = 1000  # columns of one
Tables = tuple[pd.DataFrame, pd.DataFrame]  # trajectories, simulations


def _stack(frames, name):
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({column: [] for column in COLUMNS[name]})


NO_SIMULATIONS = _stack([], "simulations")


def collect(paths: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return (trajectories, simulations, runs) of the run files at ``paths``."""
    trajectories, simulations, runs = [], [], []
    for _, result in read_all(paths):
        spec, frame = result.spec, pd.DataFrame(result.rows, columns=result.columns)
        if isinstance(spec, Simulation):
            own = {"simulation": spec.simulation, "study": spec.study, "oracle": spec.oracle}
            simulations.append(frame.assign(**own, optimizer=optimizer_name(spec)))
            row = {"run": spec.run, "recipe": spec.recipe, "optimizer": optimizer_name(spec)}
        else:
            where = _coordinates(spec)
            samples = (frame["step"] * spec.batch_size / spec.ell**2).round().astype("int64")
            epoch = samples / workload_named(spec.workload).train_size
            trajectories.append(frame.assign(**where, samples=samples, epoch=epoch))
            row = {"run": spec.run, "recipe": spec.recipe, **where, **_ends(result, frame, where)}
        runs.append(row | {k: v for k, v in result.facts.items() if k != "rows_sha256"})
    return _stack(trajectories, "trajectories"), _stack(simulations, "simulations"), pd.DataFrame(runs)


def _coordinates(spec):
    """What tells a training run apart, with the smallest beta of those that average."""
    where = {name: getattr(spec, name) for name in COORDINATES} | {"kind": spec.origin}
    where |= {"second_moment": getattr(spec, "second_moment", "transport")}
    where |= {"parent": spec.parent.run if spec.parent else ""}
    optimizer = spec.optimizer.model_dump()
    betas = [value for name, value in optimizer.items() if name.startswith("beta") and value]
    where |= {"optimizer": optimizer_name(spec), "eps": optimizer["eps"]}
    return where | {"smallest_beta": min(betas, default=0.0)}


def _ends(result: Result, frame, where):
    """What a row of runs.csv holds of a training run beside its coordinates."""
    spec, diverged = result.spec, result.diverged
    last = frame[(frame["step"] == frame["step"].max()) & (frame["metric"] != "diverged")]
    return {
        **{k: v for k, v in sorted(spec.optimizer.model_dump().items()) if k not in where and k != "name"},
        "samples": spec.samples,
        "steps": spec.steps,
        "diverged_time": np.nan if diverged is None else diverged,
        **{f"final_{m}": v for m, v in zip(last["metric"], last["value"], strict=True)},
    }


def write(folder: Path, trajectories: pd.DataFrame, simulations: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Write the tables into ``folder``, each whole or not at all."""
    for name, frame in (("trajectories", trajectories), ("simulations", simulations)):
        with atomic(Path(folder, f"{name}.parquet")) as temporary:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            table = table.replace_schema_metadata({KEY: _digest(frame)})
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    with atomic(Path(folder, "runs.csv")) as temporary:
        runs.to_csv(temporary, index=False)


def both(folder: Path) -> Tables:
    """Return the tables of a scale in ``folder``, trajectories and simulations."""
    return read(folder, "trajectories"), read(folder, "simulations")


def read_runs(folder: Path) -> pd.DataFrame:
    """Return runs.csv of a folder. InputError if it is missing, no such table, or has a run twice."""
    path = Path(folder, "runs.csv")
    table = read_csv(path, ("run",), "collect", numbers=("seconds", "peak_bytes"), dtype={"run": str})
    if len(twice := table.loc[table["run"].duplicated() | table["run"].isna(), "run"]):
        raise InputError(f"{path}: run = {twice.iloc[0]}: is there twice, or no name; delete it and collect again")
    return table


def read_csv(
    path: Path, columns: Iterable[str], command: str, numbers: Iterable[str] = (), **options: Any
) -> pd.DataFrame:
    """Return the table in a CSV file that `adasde` makes by a command; ``options`` are those of pandas.

    InputError if it is missing, damaged or too large, lacks one of the ``columns``, or if one of the ``numbers`` that
    it has is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde {command}`")
    text = read_text(path, LARGEST)
    try:
        rows = csv.reader(io.StringIO(text))
        names = next(rows, [])
        if len(names) > WIDEST or any(len(row) > len(names) for row in rows):  # over which pandas would take minutes
            raise ValueError("too many columns")
        table = pd.read_csv(io.StringIO(text), **options)
    except (csv.Error, *MALFORMED) as error:
        raise InputError(f"{path}: not a table, or a damaged one; delete it and make it again") from error
    for column in columns:
        if column not in table:
            raise InputError(f"{path}: not such a table (no column {column!r}); delete it and make it again")
    for column in (name for name in numbers if name in table):
        values = pd.to_numeric(table[column], errors="coerce")
        if len(odd := table.loc[values.isna() & table[column].notna(), column]):
            raise InputError(f"{path}: {column} = {short(odd.iloc[0])}: must be a number; make it again")
        table[column] = values.astype(float) if values.dtype == object else values
    return table


def read(folder: Path, name: str = "trajectories") -> pd.DataFrame:
    """Return one of the two tables in ``folder``. InputError if it is missing, damaged or another."""
    path = Path(folder, f"{name}.parquet")
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it from the runs, by `adasde collect`")
    try:
        with opened(path) as content:
            table = pq.read_table(content, page_checksum_verification=True)
        frame = table.to_pandas(ignore_metadata=True)
    except InputError:
        raise
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}); delete it and collect the runs again") from error
    missing = [column for column in COLUMNS[name] if column not in frame]
    if missing:
        raise InputError(f"{path}: not a table of {name} (no column {missing[0]!r})")
    bytes_for_text = any(pa.types.is_binary(kind) for kind in table.schema.types)  # which have the same digest
    if bytes_for_text or (table.schema.metadata or {}).get(KEY) != _digest(frame):
        raise InputError(f"{path}: damaged (not what was written); delete it and collect the runs again")
    for column in COLUMNS[name] if len(frame) else ():
        if not _sound(frame[column], column):
            raise InputError(f"{path}: not a table of {name} ({column} has other values); collect the runs again")
    if frame.duplicated(KEYS[name]).any():
        raise InputError(f"{path}: not a table of {name} (a row is there twice); collect the runs again")
    return frame


def _sound(values: pd.Series, column: str) -> bool:
    """Whether a column holds what it should: numbers that are finite, or texts, of those that are known."""
    if column in NUMBERS:
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            return False
        least = 0.0 if column in ("step", "time", "samples", "epoch", "batch") else -np.inf
        finite = np.isfinite(values) | (column == "value")
        return bool(finite.all() and (values[finite] >= least).all() and (column not in POSITIVE or (values > 0).all()))
    found = set(values.unique())
    return all(isinstance(text, str) for text in found) and all(map(partial(_known, column), found))


def _known(column: str, text: str) -> bool:
    """Whether a column may hold a text; beside the registered workloads there are models."""
    if column == "workload" and "/" in text:
        with suppress(InputError):
            return workload_named(text).model is not None
    return text in KNOWN.get(column, (text,))


@contextmanager
def whole_simulations() -> Iterator[None]:
    """Say in one line what reading a simulation raises that has not all the rows of its study."""
    try:
        yield
    except InputError:
        raise
    except MALFORMED as error:
        raise InputError(
            f"simulations.parquet: one lacks rows of its study ({type(error).__name__}); run it again, and collect"
        ) from error


def _digest(frame):
    """SHA-256 over the table's columns and values, as the metadata of the file holds it."""
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256(",".join(frame.columns).encode() + rows.tobytes()).hexdigest().encode()


@dataclass(frozen=True)
class Groups:
    """Runs of one experiment, rule and metric: an array (repeats, points) per level, ascending, at the same times.

    The level is kappa, or ell for the rule ``svag``. ``repeats`` are the seeds by level, ascending, or those of the
    pre-trained models. Points after a divergence are NaN; ``diverged`` names such runs, by level.
    """

    time: np.ndarray
    epoch: np.ndarray
    batch_size: dict[float, int]
    values: dict[float, np.ndarray]
    repeats: dict[float, list[int]]
    diverged: dict[float, list[str]]

    @property
    def healthy(self) -> dict[float, np.ndarray]:
        """The values of the levels at which no run diverged."""
        return {level: values for level, values in self.values.items() if level not in self.diverged}

    @property
    def seeds(self) -> int:
        """Number of seeds of the level that has fewest."""
        return min(map(len, self.values.values()))

    def pairs(self, level: float, baseline: "Groups", first: float) -> tuple[np.ndarray, np.ndarray]:
        """The runs at ``level``, and those of ``baseline`` at ``first`` with the same repeats; others do not count."""
        own, theirs = self.repeats[level], baseline.repeats[first]
        both = [repeat for repeat in own if repeat in theirs]
        return (
            self.values[level][[own.index(repeat) for repeat in both]],
            baseline.values[first][[theirs.index(repeat) for repeat in both]],
        )

    @property
    def diverged_runs(self) -> list[str]:
        """Names of all runs that diverged."""
        return [run for runs in self.diverged.values() for run in runs]


def groups(
    trajectories: pd.DataFrame, experiment: str, rule: str, metric: str, second_moment: str = "transport"
) -> Groups:
    """Select the runs of one experiment, rule, metric and treatment of the second moment.

    The baseline, sqrt at kappa = ell = 1, is part of every rule. Fine-tunings of one pre-trained model are averaged:
    the repeats are the models.
    """
    runs = trajectories[trajectories["experiment"] == experiment]
    measured = runs[runs["metric"] == metric]
    if runs.empty or (measured.empty and not (runs["metric"] == "diverged").any()):
        raise InputError(f"no values of {metric} for experiment {experiment}")
    # If every run diverged before it was measured, the divergences are the only points.
    grid = (runs if measured.empty else measured).drop_duplicates("samples").sort_values("samples")
    baseline = (runs["rule"] == "sqrt") & (runs["kappa"] == 1) & (runs["ell"] == 1)
    runs = runs[((runs["rule"] == rule) & (runs["second_moment"] == second_moment)) | baseline]
    level = "ell" if rule == "svag" else "kappa"
    if rule == "finetune":  # run ids end in their seed
        runs = runs.assign(seed=runs["parent"].str.extract(r"\.s(\d+)$", expand=False).astype(int))
    rows = runs[[level, "seed"]].drop_duplicates().sort_values([level, "seed"])  # some may have diverged at once
    found = runs[runs["metric"] == metric].groupby([level, "seed", "samples"])["value"].mean().unstack("samples")
    found = found.reindex(index=pd.MultiIndex.from_frame(rows), columns=grid["samples"])
    array, levels = found.to_numpy(float), rows[level].to_numpy()
    return Groups(
        time=grid["time"].to_numpy(),
        epoch=grid["epoch"].to_numpy(),
        batch_size=runs.groupby(level)["batch_size"].first().to_dict(),
        values={value: array[levels == value] for value in dict.fromkeys(levels.tolist())},
        repeats={value: part.tolist() for value, part in rows.groupby(level)["seed"]},
        diverged=runs[runs["metric"] == "diverged"].groupby(level)["run"].apply(list).to_dict(),
    )
