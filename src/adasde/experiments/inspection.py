"""What is left of a plan's jobs: which files are whole, of the planned specs, and made by this code."""

import os
from dataclasses import dataclass
from pathlib import Path

from adasde.common import InputError, digest
from adasde.experiments.artifacts import other_code, other_code_line, read_results
from adasde.experiments.jobs import Plan, PlannedJob
from adasde.training.branching import read_state
from adasde.training.checkpoint import read_weights, source_of_weights
from adasde.training.source import source_digest


@dataclass(frozen=True)
class Inspection:
    """How many runs are ``planned`` and are ``there``; what is wrong with files, and which different code made."""

    planned: int
    there: int
    faults: list[tuple[Path, str]]
    other: list[Path]

    @property
    def lines(self) -> list[str]:
        """A line for each fault, one for different code, what mends both, and a line that counts."""
        named = [f"{path}: {fault}" for path, fault in self.faults]
        named += [other_code_line(self.other)] if self.other else []
        if self.wrong:
            named.append("to make these again: the same command with --delete, and then `make figures` or snakemake")
        return [*named, f"{self.there} of {self.planned} runs are there, whole and as planned"]

    @property
    def wrong(self) -> list[Path]:
        """The files that are there and would better not be. One that cannot be read may be whole, and is left."""
        files = {path for path, _ in self.faults if path.is_file()} | set(self.other)
        return sorted(path for path in files if os.access(path, os.R_OK))


def inspect(plan: Plan, results: Path) -> Inspection:
    """Read all that the jobs of a plan have left in the folder ``results``."""
    faults: list[tuple[Path, str]] = []
    tables = {results / "runs" / f"{job.name}.parquet": job for job in plan.jobs.values()}
    there = sum(_there(path, job, faults) for path, job in tables.items())
    states = {results / "states" / f"{name}.state": spec.hash for name, (spec, _) in plan.states.items()}
    weights = {
        results / "weights" / plan.job_of[run] / f"{run}.safetensors": plan.runs[run].hash
        for run in plan.parents.values()
    }
    other = other_code(tables)
    for path in filter(Path.exists, [*states, *weights]):
        try:
            source = _source_of_state(path, states[path]) if path in states else _source_of_weights(path, weights[path])
        except InputError as error:
            faults.append((path, str(error).removeprefix(f"{path}: ")))
        else:
            other += [path] if source != source_digest() else []
    return Inspection(len(plan.runs), there, faults, other)


def _there(path: Path, job: PlannedJob, faults: list[tuple[Path, str]]) -> int:
    """Return how many runs of a job are in its file as planned; what is wrong goes to ``faults``."""
    try:
        found = {result.spec.run: result.spec for result in read_results(path)}
    except InputError as error:
        faults.append((path, str(error).removeprefix(f"{path}: ")))
        return 0
    wrong = [spec.run for spec in job.specs if found.get(spec.run) != spec]
    faults += [(path, f"{run} made from another spec" if run in found else f"no {run}") for run in wrong]
    return len(job.specs) - len(wrong)


def _source_of_state(path: Path, spec_hash: str) -> str:
    state = read_state(path)
    if digest(state["spec"]) != spec_hash:
        raise InputError(f"{path}: made from another spec")
    return state["source"]


def _source_of_weights(path: Path, spec_hash: str) -> str:
    read_weights(path, spec_hash)
    return source_of_weights(path)
