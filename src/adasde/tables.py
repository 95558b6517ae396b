"""The tidy tables of a scale: all runs stacked, one row per run, and what figures and claims read from them.

trajectories.parquet  run and its coordinates (experiment, rule, kappa, ...), step, samples, epoch, time, metric, value
runs.csv              one row per run: hyperparameters, final test functions, divergence, seconds, memory, versions
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError
from .store import atomic, read_run
from .tasks import task_named

COORDINATES = ("experiment", "task", "rule", "kappa", "batch_size", "seed")


def collect(paths) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (trajectories, runs) of the run files at ``paths``."""
    trajectories, runs = [], []
    for path in paths:
        rows, metadata = read_run(path)
        spec = metadata["spec"]
        size = task_named(spec["task"]).dataset.train_size
        where = {name: spec[name] for name in COORDINATES} | {"optimizer": spec["optimizer"]["name"]}
        frame = pd.DataFrame(rows, columns=["run", "step", "time", "metric", "value"])
        samples = frame["step"] * spec["batch_size"]
        trajectories.append(frame.assign(**where, samples=samples, epoch=samples / size))
        ended = frame.loc[frame["metric"] == "diverged", "time"]
        last = frame[(frame["step"] == frame["step"].max()) & (frame["metric"] != "diverged")]
        facts = {k: v for k, v in metadata.items() if k not in ("spec", "spec_hash", "rows_sha256")}
        runs.append(
            {
                "run": spec["run"],
                **where,
                **{k: v for k, v in spec["optimizer"].items() if k != "name"},
                "samples": spec["samples"],
                "steps": spec["samples"] // spec["batch_size"],
                "diverged_time": ended.iloc[0] if len(ended) else np.nan,
                **{f"final_{m}": v for m, v in zip(last["metric"], last["value"], strict=True)},
                **facts,
            }
        )
    if not runs:
        raise InputError("collect: no run files given")
    return pd.concat(trajectories, ignore_index=True), pd.DataFrame(runs)


def write(folder, trajectories: pd.DataFrame, runs: pd.DataFrame):
    """Write the two tables into ``folder``, each whole or not at all."""
    with atomic(Path(folder, "trajectories.parquet")) as temporary:
        trajectories.to_parquet(temporary, index=False, compression="zstd")
    with atomic(Path(folder, "runs.csv")) as temporary:
        runs.to_csv(temporary, index=False)


def read(folder) -> pd.DataFrame:
    """Return the trajectories in ``folder``; a missing file is an InputError that says how it is made."""
    path = Path(folder, "trajectories.parquet")
    if not path.exists():
        raise InputError(f"{path}: no such file; `snakemake --cores all` makes it, from runs by `adasde collect`")
    return pd.read_parquet(path)


@dataclass(frozen=True)
class Groups:
    """Runs of one experiment, rule and metric: per kappa an array (seeds, points), on one grid of points.

    Points after a divergence are NaN; ``diverged`` names such runs, by kappa.
    """

    time: np.ndarray
    epoch: np.ndarray
    batch_size: dict[float, int]
    values: dict[float, np.ndarray]
    diverged: dict[float, list[str]]

    @property
    def kappas(self) -> list[float]:
        """Batch multipliers, ascending."""
        return sorted(self.values)


def groups(trajectories: pd.DataFrame, experiment: str, rule: str, metric: str) -> Groups:
    """Select one experiment, rule and metric; the baseline, kappa = 1, is part of every rule."""
    runs = trajectories[trajectories["experiment"] == experiment]
    grid = runs[runs["metric"] != "diverged"].drop_duplicates("samples").sort_values("samples")
    runs = runs[(runs["rule"] == rule) | (runs["kappa"] == 1)]
    table = runs[runs["metric"] == metric]
    if table.empty:
        raise InputError(f"no values of {metric} for experiment {experiment} and rule {rule}")
    values = {
        kappa: part.pivot(index="seed", columns="samples", values="value").reindex(columns=grid["samples"]).to_numpy()
        for kappa, part in table.groupby("kappa")
    }
    ended = runs[runs["metric"] == "diverged"]
    return Groups(
        time=grid["time"].to_numpy(),
        epoch=grid["epoch"].to_numpy(),
        batch_size=table.groupby("kappa")["batch_size"].first().to_dict(),
        values=values,
        diverged=ended.groupby("kappa")["run"].apply(list).to_dict(),
    )
