"""One job: the runs of a cell, one after another, resumable at any time.

Finished runs are skipped, and the one that was interrupted goes on from its checkpoint. So one import of torch and one
reading of the data serve all seeds.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from adasde.common import InputError, check_writable
from adasde.experiments.artifacts import Result, provenance, read_results, write_results
from adasde.experiments.simulations import run_simulation
from adasde.experiments.specs import AnySpec, Simulation, Trained
from adasde.training import distributed, signals
from adasde.training.checkpoint import read_weights
from adasde.training.loop import keep_memory, prepare_torch, train
from adasde.workloads.base import Workload
from adasde.workloads.registry import load_workload

# Shows the progress of one run: called with its id, it yields a function report(step, steps), or None to stay quiet.
Progress = Callable[[str], AbstractContextManager]


@dataclass
class Job:
    """The runs of ``specs`` that end in the file ``out``.

    ``root`` is the folder of prepared data. With a file ``checkpoint`` a run is saved there every ``every`` seconds,
    and finished runs wait in a folder beside it until all are there. Final weights go to the folder ``weights``, if
    that is given, as RUN.safetensors; those that runs start from are looked for in the folders ``pretrained``. With
    ``overwrite``, ``out`` may hold runs of other specs.
    """

    specs: Sequence[AnySpec]
    out: Path
    root: Path
    checkpoint: Path | None = None
    every: float = 10.0
    weights: Path | None = None
    pretrained: Sequence[Path] = ()
    threads: int = 1
    overwrite: bool = False
    progress: Progress = field(default=lambda run: nullcontext())
    _workload_read: tuple[str, Workload] | None = field(default=None, init=False, repr=False)
    _start_metrics: dict[str, float] | None = field(default=None, init=False, repr=False)

    def check(self) -> None:
        """InputError, before any work, for outputs that cannot be written and for inputs that are missing."""
        if not 1 <= self.threads <= (os.cpu_count() or 1):
            raise InputError(f"threads = {self.threads}: this machine has 1 to {os.cpu_count()}")
        if not self.every >= 0:
            raise InputError(f"checkpoint-every = {self.every:g}: must be a number of seconds >= 0")
        check_writable("out", self.out)
        if self.checkpoint is not None:
            check_writable("checkpoint", self.checkpoint)
            if self.checkpoint.resolve() == self.out.resolve():
                raise InputError(f"checkpoint = {self.checkpoint}: is also the output; name another file")
        if self.weights is not None:
            check_writable("weights", self.weights / "any")
        children = [spec for spec in self.specs if spec.parent]
        if self.pretrained and not children:
            raise InputError(
                f"pretrained = {self.pretrained[0]}: {self.specs[0].run} starts from new weights; leave it out"
            )
        if children and not self.pretrained:
            raise InputError(
                f"pretrained: the run starts from the weights of {children[0].parent.run}; "
                "name their folder by --pretrained"
            )

    @cached_property
    def waiting(self) -> Path | None:
        """The folder where finished runs wait for the others."""
        alone = self.checkpoint is None or len(self.specs) == 1
        return None if alone else self.checkpoint.with_name(f"{self.checkpoint.name}.finished")

    def finished(self) -> dict[str, Result]:
        """Return the runs that need not be run again, by the hash of their spec."""
        wanted = {spec.hash for spec in self.specs}
        found = read_results(self.out) if self.out.exists() else []
        if not self.overwrite and any(result.spec.hash not in wanted for result in found):
            raise InputError(f"out = {self.out}: holds the run of another spec; delete it, or name another file")
        for path in sorted(self.waiting.glob("*.parquet")) if self.waiting else ():
            found += read_results(path)
        return {
            result.spec.hash: result
            for result in found
            if result.spec.hash in wanted and (self.weights is None or self._has_weights(result.spec))
        }

    def run(self) -> list[Result]:
        """Run what is not finished, write the file and clean up; return the runs that were run now.

        Of several processes that share the runs, the first writes.
        """
        self.check()
        results, new = self.finished(), []
        keep_memory()
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)  # the averages of inactive units decay into numbers that are slow to add
        with distributed.process_group(self.specs[0].processes, self.specs[0].device) as device:
            for spec in self.specs:
                if spec.hash not in results:
                    results[spec.hash] = self._run_one(spec, device)
                    new.append(results[spec.hash])
            if distributed.rank() == 0:
                write_results(self.out, [results[spec.hash] for spec in self.specs])
                self._clean_up()
        return new

    def _run_one(self, spec: AnySpec, device: torch.device) -> Result:
        first = distributed.rank() == 0
        with self.progress(spec.run) if first else nullcontext() as report:
            if isinstance(spec, Simulation):
                rows, facts = run_simulation(spec, self.root, self.checkpoint, report)
            else:
                prepare_torch(device, spec.precision)
                weights = self.weights and (self.waiting or self.weights) / f"{spec.run}.safetensors"
                with signals.stopping() as stop:
                    rows, facts = train(
                        spec,
                        self._workload(spec, device),
                        self.checkpoint,
                        self.every,
                        report,
                        weights,
                        stop,
                        self._start_metrics,
                    )
                if spec.parent is None:  # the other seeds start from the same weights
                    self._start_metrics = {metric: value for _, step, _, metric, value in rows if step == 0}
        result = Result(spec, rows, {**provenance(device), **facts})
        if first and self.waiting:
            write_results(self.waiting / f"{spec.run}.parquet", [result])
        if first and self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)
        return result

    def _workload(self, spec: Trained, device: torch.device) -> Workload:
        """The workload of a spec; runs that start from new weights share one."""
        if spec.parent is None:
            if self._workload_read is None or self._workload_read[0] != spec.workload:
                self._workload_read = spec.workload, load_workload(spec.workload, self.root, device=device)
            return self._workload_read[1]
        places = [folder / f"{spec.parent.run}.safetensors" for folder in self.pretrained]
        place = next((path for path in places if path.exists()), places[0])
        return load_workload(spec.workload, self.root, read_weights(place, spec.parent.spec_hash), device)

    def _has_weights(self, spec: AnySpec) -> bool:
        places = [folder / f"{spec.run}.safetensors" for folder in (self.waiting, self.weights) if folder]
        return any(path.exists() for path in places)

    def _clean_up(self) -> None:
        """Move the weights to their place, and remove what finished runs have left on the way."""
        if self.waiting is None:
            return
        for path in self.waiting.glob("*.safetensors") if self.weights else ():
            path.replace(self.weights / path.name)
        shutil.rmtree(self.waiting, ignore_errors=True)
