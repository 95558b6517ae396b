"""Branches of an interrupted run: what `adasde.branch` reports from one of our checkpoints."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from adasde.common import InputError, positive, whole
from adasde.experiments.artifacts import other_code_line
from adasde.experiments.specs import Trained, spec_of
from adasde.scaling.branch import BranchReport, branch, branch_sizes
from adasde.scaling.optimizers import as_torch
from adasde.scaling.rules import ScalingWarning
from adasde.training.checkpoint import read_checkpoint
from adasde.training.run import Run
from adasde.training.sampling import Sampler
from adasde.training.source import source_digest
from adasde.workloads.base import Workload
from adasde.workloads.registry import load_workload

log = logging.getLogger(__name__)

LOSSES = ("test_loss", "log_perplexity")  # by which branches are compared, the first that a workload measures


def branch_checkpoint(
    path: Path,
    root: Path,
    kappas: Sequence[float],
    tolerance: float,
    repeats: int,
    betas: str = "linear",
    examples: int | None = None,
) -> BranchReport:
    """Branch the run in a checkpoint of ours at several batch sizes, on examples that it has not seen.

    Args:
        path: The checkpoint, as an interrupted run leaves it.
        root: Folder of prepared data.
        kappas: Batch multipliers to try.
        tolerance: Largest gap that counts as no difference, in nats.
        repeats: Orders of the examples, at least 2.
        betas: ``linear`` (default) or ``half-life``.
        examples: Most examples of a branch; None (default) for the number that the run has seen.

    Raises:
        InputError: If the file is damaged, or holds a run of SVAG or of several processes, or if too few of its
            training examples are unseen.
    """
    state = read_checkpoint(path)
    spec = spec_of(json.loads(state["spec"]))
    if not isinstance(spec, Trained) or spec.ell != 1 or spec.processes != 1 or spec.parent is not None:
        raise InputError(f"{path}: holds {spec.run}; branches start from a plain training run of one process")
    _check(spec, kappas, tolerance, repeats, betas)
    if state["source"] != source_digest():
        log.warning(other_code_line([path]))
    workload = load_workload(spec.workload, root)
    run = Run(spec, workload)
    run.take(state)
    name = next(name for name in LOSSES if name in workload.measure(run.model))
    return branch(
        run.model,
        as_torch(run.optimizer),
        workload.loss,
        _Unseen(workload, spec, state["step"] * spec.batch_size, examples),
        lambda model: workload.measure(model)[name],
        spec.batch_size,
        kappas,
        tolerance,
        repeats,
        betas=betas,
        micro_batch=spec.micro_batch,
    )


def _check(spec: Trained, kappas: Sequence[float], tolerance: float, repeats: int, betas: str) -> None:
    """Raise an InputError, before the data are read, for what `branch` would refuse of these."""
    positive("tolerance", tolerance)
    whole("repeats", repeats, least=2)
    with warnings.catch_warnings(action="ignore", category=ScalingWarning):  # `branch` warns
        for kappa in branch_sizes(spec.batch_size, kappas):
            if spec.micro_batches is None:
                spec.optimizer.hyperparameters.scaled(kappa, betas=betas)


class _Unseen:
    """Training examples that a run has not drawn in its first ``count``, each with random numbers of its own.

    There are at most ``most``, by default ``count``.
    """

    def __init__(self, workload: Workload, spec: Trained, count: int, most: int | None = None) -> None:
        most, unseen = most or count, torch.ones(workload.size, dtype=torch.bool)
        sampler = Sampler(workload, spec.sampling, spec.stream)
        while count:
            indices, *_ = sampler.draw(min(count, 4096))
            unseen[indices] = False
            count -= len(indices)
        places = unseen.nonzero().flatten()
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
        self.places, self.workload = places[order[:most]], workload
        self.randomness = workload.randomness(len(self.places), torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: Tensor) -> tuple[Tensor, ...]:
        return self.workload.gather(self.places[places], *(part[places] for part in self.randomness))
