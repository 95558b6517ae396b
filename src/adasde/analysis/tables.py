"""The tidy tables of a scale: all runs stacked, one row per run, and what figures and claims read from them.

trajectories.parquet  run and its coordinates (experiment, rule, kappa, ell, ...), step, samples, epoch, time, metric,
                      value; samples and epoch are the plain run's at that time, whatever the run drew to get there
simulations.parquet   run and what it simulates (oracle, optimizer, ...), process, level, batch, time, metric, value
runs.csv              one row per run: hyperparameters, final test functions, divergence, seconds, memory, versions
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from adasde.common import InputError, atomic
from adasde.experiments import cost
from adasde.experiments.artifacts import KEY, SIMULATED, read_run
from adasde.experiments.studies import path_steps
from adasde.scaling.clock import step_count
from adasde.workloads.registry import workload_named

COORDINATES = ("experiment", "task", "rule", "kappa", "ell", "batch_size", "seed")
COLUMNS = ("run", "step", "time", "metric", "value", *COORDINATES, "parent", "optimizer", "samples", "epoch")
THROUGHPUT = ("task", "device", "precision", "batch_size", "examples_per_second", "runs", "source")
SIMULATED_COLUMNS = (*SIMULATED, "simulation", "study", "oracle", "optimizer")


def _empty(columns):
    return pd.DataFrame({name: [] for name in columns})


NO_SIMULATIONS = _empty(SIMULATED_COLUMNS)


def collect(paths) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return (trajectories, simulations, runs) of the run files at ``paths``."""
    trajectories, simulations, runs = [], [], []
    for path in paths:
        rows, metadata = read_run(path)
        spec = metadata["spec"]
        facts = {k: v for k, v in metadata.items() if k not in ("spec", "spec_hash", "rows_sha256")}
        if "study" in spec:
            what = {"simulation": spec["simulation"], "study": spec["study"], "oracle": spec["oracle"]}
            what["optimizer"] = spec["optimizer"]["name"]
            simulations.append(pd.DataFrame(rows, columns=SIMULATED).assign(**what))
            runs.append({"run": spec["run"], "optimizer": what["optimizer"], **facts})
            continue
        size = workload_named(spec["task"]).train_size
        where = {name: spec[name] for name in COORDINATES} | {"parent": spec.get("parent", {}).get("run", "")}
        where |= {"optimizer": spec["optimizer"]["name"], "eps": spec["optimizer"]["eps"]}
        betas = [value for name, value in spec["optimizer"].items() if name.startswith("beta")]
        where["smallest_beta"] = min((beta for beta in betas if beta), default=0.0)  # of those that average
        frame = pd.DataFrame(rows, columns=["run", "step", "time", "metric", "value"])
        samples = (frame["step"] * spec["batch_size"] / spec["ell"] ** 2).round().astype("int64")
        trajectories.append(frame.assign(**where, samples=samples, epoch=samples / size))
        ended = frame.loc[frame["metric"] == "diverged", "time"]
        last = frame[(frame["step"] == frame["step"].max()) & (frame["metric"] != "diverged")]
        runs.append(
            {
                "run": spec["run"],
                **where,
                **{k: v for k, v in spec["optimizer"].items() if k not in where and k != "name"},
                "samples": spec["samples"],
                "steps": step_count(spec["samples"], spec["batch_size"], spec["ell"]),
                "diverged_time": ended.iloc[0] if len(ended) else np.nan,
                **{f"final_{m}": v for m, v in zip(last["metric"], last["value"], strict=True)},
                **facts,
            }
        )
    return _stack(trajectories, COLUMNS), _stack(simulations, SIMULATED_COLUMNS), pd.DataFrame(runs)


def _stack(frames, columns):
    return pd.concat(frames, ignore_index=True) if frames else _empty(columns)


def write(folder, trajectories: pd.DataFrame, simulations: pd.DataFrame, runs: pd.DataFrame):
    """Write the tables into ``folder``, each whole or not at all."""
    for name, frame in (("trajectories", trajectories), ("simulations", simulations)):
        with atomic(Path(folder, f"{name}.parquet")) as temporary:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            table = table.replace_schema_metadata({KEY: _digest(frame)})
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    with atomic(Path(folder, "runs.csv")) as temporary:
        runs.to_csv(temporary, index=False)


def write_throughput(paths, out):
    """Write examples per second, as cost.py counts and reads them, of the run files at ``paths`` as CSV.

    Counted are plain runs that came to their end, on one device and on one core if that is a CPU; those at one batch
    size of a task count together. A path may also be a CSV of steps that were measured, by benchmarks/gpu.py. Rows of
    ``out`` for other tasks, devices, precisions or batch sizes are kept.
    """
    sums, steps = {}, []
    for path in paths:
        if Path(path).suffix == ".csv":
            steps += _measured_steps(path)
            continue
        rows, found = read_run(path)
        spec = found["spec"]
        simulated, gpu = "study" in spec, spec.get("device") == "cuda"
        if not simulated and (rows[-1][1] < cost.work(spec)[0] or spec["ell"] != 1 or spec.get("processes", 1) != 1):
            continue
        if not gpu and found["threads"] != 1:
            continue
        device = _gpu_named(found["device"], path) if gpu else "cpu-core"
        name = f"{spec['study']}.{spec['oracle']}" if simulated else spec["task"]
        size = "" if simulated else str(spec["batch_size"])
        amount = path_steps(spec) if simulated else sum(cost.work(spec)[1:])
        source = f"finished runs on {found['device']}, torch {found['torch']}"
        total = sums.setdefault((name, device, spec.get("precision", "float32"), size), [0.0, 0.0, 0, source])
        total[0] += amount
        total[1] += found["seconds"]
        total[2] += 1
    key = list(THROUGHPUT[:4])
    new = pd.DataFrame(
        [(*where, str(float(f"{amount / taken:.4g}")), n, source) for where, (amount, taken, n, source) in sums.items()]
        + steps,
        columns=THROUGHPUT,
    )
    if Path(out).exists():
        new = pd.concat([new, pd.read_csv(out, dtype=str, keep_default_na=False)]).drop_duplicates(
            key, ignore_index=True
        )
    order = new.assign(size=pd.to_numeric(new["batch_size"])).sort_values(["device", "task", "precision", "size"]).index
    with atomic(Path(out)) as temporary:
        new.loc[order].to_csv(temporary, index=False)


def _measured_steps(path):
    """Return rows of THROUGHPUT from a table of steps: those of plain runs."""
    try:
        table = pd.read_csv(path, dtype=str)
        return [
            (row.task, _gpu_named(row.device, path), row.precision, row.batch_size, row.examples_per_second, "",
             f"steps on {row.device}, torch {row.torch}")
            for row in table.itertuples() if row.ell == "1"
        ]  # fmt: skip
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path}: no table of steps, as benchmarks/gpu.py writes it") from error


def _gpu_named(model, path):
    """Return cost.py's name of a GPU from that which the system gives it."""
    names = [name for name, device in cost.DEVICES.items() if device.unit == "GPU" and device.model in model]
    if not names:
        raise InputError(f"{path}: made on {model}, which is no device that cost.py knows")
    return names[0]


def both(folder) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of a scale in ``folder``, trajectories and simulations."""
    return read(folder, "trajectories"), read(folder, "simulations")


def read(folder, name: str = "trajectories") -> pd.DataFrame:
    """Return one of the two tables in ``folder``; InputError if it is missing, damaged or another."""
    path = Path(folder, f"{name}.parquet")
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it from the runs, by `adasde collect`")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        frame = table.to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}); delete it and collect the runs again") from error
    columns = {"trajectories": COLUMNS, "simulations": SIMULATED_COLUMNS}[name]
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(f"{path}: no table of {name} (no column {missing[0]!r})")
    bytes_for_text = any(pa.types.is_binary(kind) for kind in table.schema.types)  # which have the same digest
    if bytes_for_text or (table.schema.metadata or {}).get(KEY) != _digest(frame):
        raise InputError(f"{path}: damaged (not what was written); delete it and collect the runs again")
    return frame


@dataclass(frozen=True)
class Groups:
    """Runs of one experiment, rule and metric: per level, ascending, an array (seeds, points) on one grid of points.

    The level is kappa, or ell for the rule ``svag``. Points after a divergence are NaN; ``diverged`` names such runs,
    by level.
    """

    time: np.ndarray
    epoch: np.ndarray
    batch_size: dict[float, int]
    values: dict[float, np.ndarray]
    diverged: dict[float, list[str]]

    @property
    def healthy(self) -> dict[float, np.ndarray]:
        """The values of the levels at which no run diverged."""
        return {level: values for level, values in self.values.items() if level not in self.diverged}

    @property
    def seeds(self) -> int:
        """Number of seeds, of the level that has fewest."""
        return min(map(len, self.values.values()))

    @property
    def diverged_runs(self) -> list[str]:
        """Names of all runs that diverged."""
        return [run for runs in self.diverged.values() for run in runs]


def _digest(frame):
    """SHA-256 over the table's columns and values, as the metadata of the file holds it."""
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256(",".join(frame.columns).encode() + rows.tobytes()).hexdigest().encode()


def groups(trajectories: pd.DataFrame, experiment: str, rule: str, metric: str) -> Groups:
    """Select one experiment, rule and metric; the baseline, sqrt at kappa = ell = 1, is part of every rule.

    Fine-tunings of the same pre-trained model are averaged: the repeats are the models.
    """
    runs = trajectories[trajectories["experiment"] == experiment]
    measured = runs[runs["metric"] == metric]
    if runs.empty or (measured.empty and not (runs["metric"] == "diverged").any()):
        raise InputError(f"no values of {metric} for experiment {experiment}")
    # Where every run diverged before it was measured, the divergences are the only points there are.
    grid = (runs if measured.empty else measured).drop_duplicates("samples").sort_values("samples")
    baseline = (runs["rule"] == "sqrt") & (runs["kappa"] == 1) & (runs["ell"] == 1)
    runs = runs[(runs["rule"] == rule) | baseline]
    level = "ell" if rule == "svag" else "kappa"
    repeat = "parent" if rule == "finetune" else "seed"
    rows = runs[[level, repeat]].drop_duplicates().sort_values([level, repeat])  # some may have diverged at once
    found = runs[runs["metric"] == metric].groupby([level, repeat, "samples"])["value"].mean().unstack("samples")
    found = found.reindex(index=pd.MultiIndex.from_frame(rows), columns=grid["samples"])
    array, levels = found.to_numpy(float), rows[level].to_numpy()
    values = {value: array[levels == value] for value in dict.fromkeys(levels.tolist())}
    ended = runs[runs["metric"] == "diverged"]
    return Groups(
        time=grid["time"].to_numpy(),
        epoch=grid["epoch"].to_numpy(),
        batch_size=runs.groupby(level)["batch_size"].first().to_dict(),
        values=values,
        diverged=ended.groupby(level)["run"].apply(list).to_dict(),
    )
