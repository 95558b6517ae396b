"""What several tests share: prepared real data, a small synthetic task, and a spec to train."""

import copy
import csv
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock

from adasde.__main__ import main
from adasde.common import text_table
from adasde.experiments import execute
from adasde.experiments.artifacts import Result, read_results, write_results
from adasde.experiments.plan import plan
from adasde.experiments.specs import spec_of
from adasde.training.checkpoint import read_checkpoint
from adasde.workloads.data.registry import prepare
from adasde.workloads.vision import BUILDERS, ImageWorkload

ROOT = Path(__file__).parents[1]
FAULTS = {}  # (kind, fault, seen, outcome) -> times tried, of the tests that break something on purpose
LONGEST = ("test_workflow.py", "test_slurm.py", "test_paper.py")  # begun first, so that two workers end together

torch.set_num_threads(1)  # as jobs run: two threads that wait for a shared core can take a hundred times as long


@pytest.fixture(autouse=True)
def own_settings():
    """Undo what a job sets for its whole process."""
    yield
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory, worker_id):
    """Folder with the data sets of smoke and mini fetched, verified and prepared, by one worker for all."""
    folder = tmp_path_factory.getbasetemp()
    root = (folder if worker_id == "master" else folder.parent) / "data"
    with FileLock(f"{root}.lock"):
        prepare("fashion-mnist", root)
        prepare("wiki-mini", root)
    return root


@pytest.fixture(scope="session")
def tensors():
    """600 synthetic images of ten classes that a network can tell apart, in the form of Fashion-MNIST."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (10, 1, 28, 28), generator=generator)

    def split(n):
        labels = torch.randint(0, 10, (n,), generator=generator)
        noise = torch.randint(-60, 60, (n, 1, 28, 28), generator=generator)
        return (patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels.to(torch.uint8)

    (train, train_labels), (test, test_labels) = split(600), split(300)
    names = ("train-images", "train-labels", "test-images", "test-labels")
    return dict(zip(names, (train, train_labels, test, test_labels), strict=True))


@pytest.fixture(params=["fashion-cnn", "fashion-resnet"])
def task(request, tensors):
    return ImageWorkload(tensors, BUILDERS[request.param.partition("-")[2]], 0.5, 0.3)


@pytest.fixture
def synthetic(tensors, monkeypatch):
    """Jobs in this process train a CNN on the synthetic images, which are evaluated in no time."""
    workload = ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)
    monkeypatch.setattr(execute, "load_workload", lambda *where, **device: workload)
    return workload


@pytest.fixture
def config():
    """A copy of the smoke config."""
    return copy.deepcopy(yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text()))


@pytest.fixture
def spec(config):
    """Spec of the smoke config's first run."""
    return next(iter(plan(config).runs.values()))


@pytest.fixture
def small_spec(spec):
    """The same, cut to the size of the synthetic task: 40 steps, three evaluations, with a schedule."""
    schedule = {"warmup": 0.1, "warmup_from": 0.01, "decays": [0.5], "decay_factor": 0.1}
    return changed(spec, samples=1280, horizon=2e-5, evaluate=[320, 640, 1280], schedule=schedule)


def changed(spec, **changes):
    """The spec with other values, checked like every spec; noise is measured at the start and at the new end."""
    noise = {"noise": [0, changes["evaluate"][-1]]} if "evaluate" in changes and spec.noise else {}
    return spec_of({**spec.document, **noise, **changes})


def slow(*values):
    """A case that `make test` leaves out, since others of its kind are there."""
    return pytest.param(*values, marks=pytest.mark.slow)


def save_run(path, rows, spec, **facts):
    """Write a file with one finished run."""
    write_results(path, [Result(spec, rows, facts)])


def load_run(path):
    """The only run in a file."""
    (result,) = read_results(path)
    return result


def same_state(one, other):
    """Whether two files hold the same state, but for the seconds that it took."""

    def leaves(node, place=()):
        if not isinstance(node, dict | list | tuple):
            return [(place, node.tolist() if isinstance(node, torch.Tensor) else node)]
        children = node.items() if isinstance(node, dict) else enumerate(node)
        return [leaf for key, child in children for leaf in leaves(child, (*place, key))]

    first, second = (leaves({**read_checkpoint(path), "seconds": None}) for path in (one, other))
    return len(first) > 50 and first == second


@pytest.fixture
def adasde():
    """Run the command line in this process, which spares the imports; returns exit status and output like a process."""

    def run(*arguments, cwd=None, env=None):
        output, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            if cwd is not None:
                patch.chdir(cwd)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            status = main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())

    return run


@pytest.fixture
def adasde_process():
    """The same in a process of its own, as a user calls it."""

    def run(*arguments, env=None, **options):
        command = [sys.executable, "-m", "adasde", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), **options)

    return run


@pytest.fixture
def broken(request):
    """Note for the table of faults: their kind, what was broken, how often, and what came of it and was seen."""

    def note(kind, fault, times, outcome, seen=""):
        request.node.user_properties.append(("fault", (kind, fault, seen, outcome, times)))

    return note


def pytest_addoption(parser):
    """Add ``--faults FILE``, by which `make faults` writes docs/faults.csv."""
    parser.addoption("--faults", type=Path, metavar="FILE", help="write what was broken on purpose as CSV")


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_runtest_logreport(report):
    """Collect what was broken, of whichever worker ran it."""
    if report.when == "call" and report.passed:
        for *fault, times in (what for name, what in report.user_properties if name == "fault"):
            FAULTS[tuple(fault)] = FAULTS.get(tuple(fault), 0) + times


def pytest_terminal_summary(terminalreporter, config):
    """Print what was broken on purpose, and what came of it; with --faults also as a file."""
    rows = [("kind", "fault", "tried", "seen", "outcome")]
    rows += sorted((kind, fault, str(times), seen, outcome) for (kind, fault, seen, outcome), times in FAULTS.items())
    if not any(row[3] for row in rows[1:]):
        rows = [(*row[:3], row[4]) for row in rows]
    if FAULTS:
        terminalreporter.section("faults")
        terminalreporter.write_line(text_table(rows))
    if (path := config.getoption("--faults")) is not None:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
