"""One job: some runs, one after another, resumable at any time; and the state of a run from which others branch.

Finished runs are skipped, and the one that was interrupted goes on from its checkpoint. So one import of torch and one
reading of the data serve all seeds.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from adasde.common import InputError, check_writable
from adasde.experiments.artifacts import EARLIER, Result, other_code_line, provenance, read_results, write_results
from adasde.experiments.simulations import run_simulation
from adasde.experiments.specs import AnySpec, Branch, Finetune, Simulation, Trained, Training, spec_of
from adasde.training import distributed, signals
from adasde.training.branching import branch_off, read_state
from adasde.training.checkpoint import read_weights, source_of_weights
from adasde.training.loop import keep_memory, prepare_torch, train
from adasde.training.run import Run
from adasde.training.source import source_digest
from adasde.workloads.base import Workload
from adasde.workloads.registry import load_workload

log = logging.getLogger(__name__)

# Shows the progress of one run: called with its id, it yields a function report(step, steps), or None to stay quiet.
Progress = Callable[[str], AbstractContextManager]


@dataclass
class Job:
    """The runs of ``specs`` that end in the file ``out``.

    ``root`` is the folder of prepared data. With a file ``checkpoint`` a run is saved there every ``every`` seconds,
    and finished runs wait in a folder beside it until all are there. Final weights go to the folder ``weights``, if
    that is given, as RUN.safetensors; those that runs start from are looked for in the folders ``pretrained``.
    ``states`` are files of `save_state`: a branch starts from its parent's, and a run goes on from its own. With
    ``overwrite``, ``out`` may hold runs of other specs. Runs that are in ``out`` already, or in the tables of a folder
    ``earlier`` beside it, are not run again.
    """

    specs: Sequence[AnySpec]
    out: Path
    root: Path
    checkpoint: Path | None = None
    every: float = 10.0
    weights: Path | None = None
    pretrained: Sequence[Path] = ()
    states: Sequence[Path] = ()
    threads: int = 1
    overwrite: bool = False
    progress: Progress = field(default=lambda run: nullcontext())
    _workload_read: tuple[str, Workload] | None = field(default=None, init=False, repr=False)
    _state_read: tuple[Path, dict[str, Any]] | None = field(default=None, init=False, repr=False)
    _start_metrics: dict[tuple, dict[str, float]] = field(default_factory=dict, init=False, repr=False)
    _named: set[Path] = field(default_factory=set, init=False, repr=False)

    def check(self) -> None:
        """InputError, before any work, for outputs that cannot be written and for inputs that are missing."""
        if not 1 <= self.threads <= (os.cpu_count() or 1):
            raise InputError(f"threads = {self.threads}: this machine has 1 to {os.cpu_count()}")
        _check_saving(self.out, self.checkpoint, self.every)
        if self.weights is not None:
            if isinstance(self.specs[0], Simulation):
                raise InputError(f"weights = {self.weights}: a simulation has none; leave it out")
            check_writable("weights", self.weights, folder=True)
        children = [spec for spec in self.specs if isinstance(spec, Finetune) and spec.parent]
        if self.pretrained and not children:
            raise InputError(
                f"pretrained = {self.pretrained[0]}: {self.specs[0].run} starts from new weights; leave it out"
            )
        if children and not self.pretrained:
            raise InputError(
                f"pretrained: the run starts from the weights of {children[0].parent.run}; "
                "name their folder by --pretrained"
            )
        for spec in self.specs:
            if isinstance(spec, Branch) and (spec.parent.spec_hash, spec.parent.samples) not in self._states:
                raise InputError(
                    f"states: {spec.run} branches from {spec.parent.run} after {spec.parent.samples} samples; "
                    "name the file of that state by --states"
                )
        starts = {(spec.parent.spec_hash, spec.parent.samples) for spec in self.specs if isinstance(spec, Branch)}
        own = {spec.hash for spec in self.specs}
        for (spec_hash, samples), (path, spec) in self._states.items():
            if spec_hash not in own and (spec_hash, samples) not in starts:
                raise InputError(
                    f"states = {path}: {spec.run} after {samples} samples, and no run here starts or goes on from it; "
                    "leave it out"
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
        for folder in filter(None, [self.out.parent / EARLIER, self.waiting]):
            for path in sorted(folder.glob("*.parquet")):
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
        _prepare_process(self.threads)
        with distributed.process_group(self.specs[0].processes, self.specs[0].device) as device:
            for spec in self.specs:
                if spec.hash not in results:
                    results[spec.hash] = self._run_one(spec, device)
                    new.append(results[spec.hash])
            if distributed.rank() == 0:
                write_results(self.out, [results[spec.hash] for spec in self.specs])
                if new and self.checkpoint is not None:  # where nothing was run, the file is not this job's
                    self.checkpoint.unlink(missing_ok=True)
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
                # Runs that start from the same weights share what is measured there.
                shared = None
                if not isinstance(spec, Finetune) and 0 not in spec.noise:
                    own = spec.workload, spec.init_seed, spec.tested, spec.frozen, spec.precision
                    shared = *own, spec.parent and spec.parent.state
                with signals.stopping() as stop:
                    rows, facts = train(
                        spec,
                        self._workload(spec, device),
                        self.checkpoint,
                        self.every,
                        report,
                        weights,
                        stopping=stop,
                        start=self._start_metrics.get(shared),
                        begin=self._branching_off(spec),
                        earlier=self._own_state(spec),
                    )
                if shared:
                    self._start_metrics[shared] = {metric: value for _, step, _, metric, value in rows if step == 0}
        result = Result(spec, rows, {**provenance(device), **facts})
        if first and self.waiting:
            write_results(self.waiting / f"{spec.run}.parquet", [result])
            self.checkpoint.unlink(missing_ok=True)  # for the next run; one that is alone keeps it until `out` is there
        return result

    @cached_property
    def _states(self) -> dict[tuple[str, int], tuple[Path, Training]]:
        """The files of states, and the specs of their runs, by the hash of the spec and the samples seen."""
        described = [(path, *_described(self._state(path))) for path in self.states]
        return {(spec.hash, samples): (path, spec) for path, spec, samples in described}

    def _state(self, path: Path) -> dict[str, Any]:
        """The state in a file; runs that branch from one state one after another share it."""
        if self._state_read is None or self._state_read[0] != path:
            self._state_read = path, read_state(path)
        return self._state_read[1]

    def _branching_off(self, spec: Trained) -> Callable[[Run], None] | None:
        """What puts a branch into the state in which it begins; None for other runs."""
        if not isinstance(spec, Branch):
            return None
        path, parent = self._states[spec.parent.spec_hash, spec.parent.samples]
        self._name_other_code(path, self._state(path)["source"])
        return lambda run: branch_off(run, parent, self._state(path))

    def _own_state(self, spec: Trained) -> Path | None:
        """The file with the last state of a run from which others branch; None for other runs."""
        own = [samples for spec_hash, samples in self._states if spec_hash == spec.hash]
        return self._states[spec.hash, max(own)][0] if own else None

    def _workload(self, spec: Trained, device: torch.device) -> Workload:
        """The workload of a spec; runs that do not start from pre-trained weights share one."""
        if not isinstance(spec, Finetune) or spec.parent is None:
            if self._workload_read is None or self._workload_read[0] != spec.workload:
                self._workload_read = spec.workload, load_workload(spec.workload, self.root, device=device)
            return self._workload_read[1]
        places = [folder / f"{spec.parent.run}.safetensors" for folder in self.pretrained]
        place = next((path for path in places if path.exists()), places[0])
        weights = read_weights(place, spec.parent.spec_hash)
        self._name_other_code(place, source_of_weights(place))
        return load_workload(spec.workload, self.root, weights, device)

    def _name_other_code(self, path: Path, source: str) -> None:
        """Warn, once for each file, that a parent's state or weights were made by different code."""
        if source != source_digest() and path not in self._named and distributed.rank() == 0:
            log.warning("%s; `adasde check CONFIG --delete` deletes such files", other_code_line([path]))
            self._named.add(path)

    def _has_weights(self, spec: AnySpec) -> bool:
        places = [folder / f"{spec.run}.safetensors" for folder in (self.waiting, self.weights) if folder]
        return any(path.exists() for path in places)

    def _clean_up(self) -> None:
        """Move the weights to their place, and remove what finished runs have left on the way."""
        if self.waiting is None:
            return
        for path in self.waiting.glob("*.safetensors") if self.weights else ():
            self.weights.mkdir(parents=True, exist_ok=True)
            path.replace(self.weights / path.name)
        shutil.rmtree(self.waiting, ignore_errors=True)


def _check_saving(out: Path, checkpoint: Path | None, every: float) -> None:
    """InputError for files that cannot be written or are the same, and for seconds between checkpoints below 0."""
    if not every >= 0:
        raise InputError(f"checkpoint-every = {every:g}: must be a number of seconds >= 0")
    check_writable("out", out)
    if checkpoint is not None:
        check_writable("checkpoint", checkpoint)
        if checkpoint.resolve() == out.resolve():
            raise InputError(f"checkpoint = {checkpoint}: is also the output; name another file")


def _prepare_process(threads: int) -> None:
    """Set what runs depend on, to the last bit and in their speed."""
    keep_memory()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # the averages of inactive units decay into numbers that are slow to add


def _described(state: Mapping[str, Any]) -> tuple[Training, int]:
    """Spec of the run whose state this is, and the samples that it has seen."""
    spec = spec_of(json.loads(state["spec"]))
    return spec, state["step"] * spec.batch_size


def save_state(
    spec: Training,
    samples: int,
    out: Path,
    root: Path,
    checkpoint: Path | None = None,
    before: Path | None = None,
    every: float = 10.0,
    progress: Progress = lambda run: nullcontext(),
) -> None:
    """Train a run up to the time from which others branch, and write its state there.

    The state is a checkpoint of the run, which goes on from it as if it had not been interrupted.

    Args:
        spec: The run.
        samples: Examples that it has seen at the branch point, a multiple of its batch size.
        out: File to write.
        root: Folder of prepared data.
        checkpoint: File from which this is resumed, if it exists, and to which it is saved; removed at the end.
        before: File of an earlier state of the same run, to go on from.
        every: Seconds between two checkpoints.
        progress: Shows how far the run is.

    Raises:
        InputError: If the run ends before, or diverges, if ``before`` is not an earlier state of it, or if a file
            cannot be written.
    """
    if not 0 < samples <= spec.samples or samples % spec.batch_size:
        raise InputError(
            f"samples = {samples}: a state of {spec.run} is after whole steps of {spec.batch_size}, "
            f"up to its end at {spec.samples}"
        )
    if before is not None and (seen := _described(read_state(before))[1]) >= samples:
        raise InputError(f"before = {before}: a state after {seen} samples; one before {samples} is wanted")
    _check_saving(out, checkpoint, every)
    _prepare_process(threads=1)
    with distributed.process_group(spec.processes, spec.device) as device:
        prepare_torch(device, spec.precision)
        workload = load_workload(spec.workload, root, device=device)
        first = distributed.rank() == 0
        with progress(spec.run) if first else nullcontext() as report, signals.stopping() as stop:
            train(spec, workload, checkpoint, every, report, stopping=stop, earlier=before, until=(samples, out))
        if first and checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
