"""The plan: what a config asks for, all numbers resolved, and its jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adasde.common import digest
from adasde.experiments.specs import AnySpec, Branch, Finetune, Simulation, Training

LONGEST = 100_000  # characters of a job's specs: Linux lets an argument of a command have 131,072


@dataclass(frozen=True)
class PlannedJob:
    """The runs of one job, one after another."""

    name: str
    specs: tuple[AnySpec, ...]

    @property
    def document(self) -> str:
        """The specs as a JSON list, which a job takes."""
        return f"[{','.join(spec.canonical for spec in self.specs)}]"

    @property
    def hash(self) -> str:
        """SHA-256 of all specs, in hexadecimal."""
        return digest(self.document)


@dataclass(frozen=True)
class Plan:
    """What a config asks for: specs by run id, the figures' names, and what one job runs.

    ``per_job`` is a ``run``, a ``cell`` or an ``experiment``, as in the config.
    """

    scale: str
    runs: dict[str, AnySpec]
    figures: tuple[str, ...]
    per_job: str = "cell"

    @cached_property
    def jobs(self) -> dict[str, PlannedJob]:
        """The jobs by name, in the order of their first runs; one that is too long for a command line is numbered."""
        groups: dict[str, list[AnySpec]] = {}
        for spec in self.runs.values():
            groups.setdefault(self._job_name(spec), []).append(spec)
        found = {}
        for name, specs in groups.items():
            parts = _parts(specs)
            for number, part in enumerate(parts):
                own = name if len(parts) == 1 else f"{name}.{number}"
                found[own] = PlannedJob(own, tuple(part))
        return found

    @cached_property
    def job_of(self) -> dict[str, str]:
        """The name of the job that makes a run, by run id."""
        return {spec.run: job.name for job in self.jobs.values() for spec in job.specs}

    @cached_property
    def parents(self) -> dict[str, str]:
        """The runs from whose final weights others start, by the ids of these."""
        return {s.run: s.parent.run for s in self.runs.values() if isinstance(s, Finetune) and s.parent}

    @cached_property
    def states(self) -> dict[str, tuple[Training, int]]:
        """The states from which runs branch, by name: the run, and the samples that it has seen by then, in order."""
        points = {s.parent.state: (s.parent.run, s.parent.samples) for s in self.runs.values() if isinstance(s, Branch)}
        return {
            state: (self.runs[run], samples) for state, (run, samples) in sorted(points.items(), key=lambda i: i[1])
        }

    @cached_property
    def baselines(self) -> dict[str, list[str]]:
        """The baseline's runs of every experiment that takes the square-root rule to larger batches, by its name."""
        trained = [spec for spec in self.runs.values() if isinstance(spec, Training)]
        larger = {spec.experiment for spec in trained if spec.rule == "sqrt" and spec.kappa != 1}
        found: dict[str, list[str]] = {}
        for spec in (spec for spec in trained if spec.is_baseline and spec.experiment in larger):
            found.setdefault(spec.experiment, []).append(spec.run)
        return found

    def _job_name(self, spec: AnySpec) -> str:
        """Name of the job that makes a run; a baseline from which larger batches are forecast has its own."""
        if self.per_job == "run":
            return spec.run
        if self.per_job == "cell" or isinstance(spec, Finetune):
            return spec.cell
        if isinstance(spec, Simulation):
            return spec.simulation
        part = f".{'baseline' if spec.is_baseline else 'others'}" if spec.experiment in self.baselines else ""
        return f"{spec.experiment}{part}"

    def states_of(self, run: str, before: float = float("inf")) -> list[str]:
        """Names of a run's states, in order, up to and without that after ``before`` samples."""
        return [state for state, (spec, samples) in self.states.items() if spec.run == run and samples < before]

    def starts(self, spec: AnySpec) -> list[str]:
        """Names of the states from which a run starts: the last of its own, and a branch that of its parent."""
        return self.states_of(spec.run)[-1:] + ([spec.parent.state] if isinstance(spec, Branch) else [])


def _parts(specs: Sequence[AnySpec]) -> list[list[AnySpec]]:
    """Cut the runs of a job where its command would become too long."""
    parts: list[list[AnySpec]] = [[]]
    room = LONGEST
    for spec in specs:
        room -= len(spec.canonical) + 1
        if room < 0 and parts[-1]:
            parts.append([])
            room = LONGEST - len(spec.canonical) - 1
        parts[-1].append(spec)
    return parts
