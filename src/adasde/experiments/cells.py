"""Cells, which are the jobs of a plan, and the plan: what a config asks for, all numbers resolved."""

from dataclasses import dataclass
from functools import cached_property

from adasde.common import digest
from adasde.experiments.specs import AnySpec

LONGEST = 100_000  # characters of a job's specs: Linux lets an argument of a command have 131,072


@dataclass(frozen=True)
class Cell:
    """The runs of one job: those of an experiment at one rule and level, which differ in their seed only."""

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
    """What a config asks for: specs by run id, the figures' names, and how many runs of a cell a job runs at most."""

    scale: str
    runs: dict[str, AnySpec]
    figures: tuple[str, ...]
    seeds_per_job: int = 100

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """The jobs by name, in the order of their first runs.

        A cell with more runs than a job may run, or than a command line can hold, becomes several jobs. Their names end
        in their first seed.
        """
        groups: dict[str, list[AnySpec]] = {}
        for spec in self.runs.values():
            groups.setdefault(spec.cell, []).append(spec)
        cells = {}
        for name, specs in groups.items():
            size = max(1, min(self.seeds_per_job, LONGEST // max(len(spec.canonical) for spec in specs)))
            for start in range(0, len(specs), size):
                own = name if len(specs) <= size else f"{name}.s{specs[start].seed}"
                cells[own] = Cell(own, tuple(specs[start : start + size]))
        return cells

    @cached_property
    def cell_of(self) -> dict[str, str]:
        """The name of the cell that holds a run, by run id."""
        return {spec.run: cell.name for cell in self.cells.values() for spec in cell.specs}

    @cached_property
    def parents(self) -> set[str]:
        """Ids of the runs from whose final weights others start."""
        return {spec.parent.run for spec in self.runs.values() if spec.parent}
