"""Much of everything: jobs, graphs at once, data larger than memory, steps."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from adasde.training.loop import train
from adasde.workloads.base import Form, Workload
from adasde.workloads.data.registry import DATASETS, LARGE, _sampled, load_arrays
from conftest import ROOT, changed

pytestmark = pytest.mark.slow

_MEASURE = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump({"seconds": used.ru_utime, "bytes": used.ru_maxrss * 1024}, open(sys.argv[1], "w"))
sys.exit(code)
"""
STEPS = 100_000  # a million pass too, in some minutes


def test_a_graph_of_2000_runs_is_planned_in_20_seconds_and_a_gigabyte(config, tmp_path, broken):
    experiment = config["experiments"]["fashion-cnn-adam"]
    experiment["rules"] = {rule: {"value": kappas, "source": "ours"} for rule, kappas in
                           (("sqrt", [1, 2, 4, 8]), ("none", [2, 4, 8, 16]))}  # fmt: skip
    experiment["seeds"] = {"value": 250, "source": "ours"}
    config = {"scale": "many", "job": "run", "figures": [], "experiments": {"fashion-cnn-adam": experiment}}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "-n", "--configfile", "many.yaml"]
    # By a process between: a child begins with the peak of its parent, and this one's is that of other tests.
    measured = [sys.executable, "-c", _MEASURE, tmp_path / "used.json", *command]
    done = subprocess.run(measured, cwd=tmp_path, capture_output=True, text=True)
    used = json.loads((tmp_path / "used.json").read_text())
    assert done.returncode == 0, done.stderr
    assert re.search(r"^run +2000$", done.stdout, re.M)
    assert used["seconds"] < 20  # of one core, whatever else the machine does
    assert used["bytes"] < 1 << 30
    broken("load", "graph of 2,000 runs", 1, "planned within 20 seconds and 1 GB")


def test_two_graphs_at_once_one_on_a_copy(data_root, tmp_path, broken):
    """Their files, the locks too, are apart: neither waits for the other, and both make the same."""
    target, folders = "results/smoke/runs/fashion-cnn-adam.sqrt.k4.parquet", [tmp_path / "one", tmp_path / "copy"]
    command = [sys.executable, "-m", "snakemake", "-c1", "--snakefile", ROOT / "Snakefile", "--nolock"]
    config = ["--configfile", ROOT / "workflow/config/smoke.yaml"]
    (folders[0] / "results").mkdir(parents=True)
    shutil.copytree(data_root, folders[0] / "results/data")
    processes = [subprocess.Popen([*command, target, *config], cwd=folders[0], stderr=subprocess.PIPE, text=True)]
    held = folders[0] / ".snakemake/adasde.smoke"
    while not held.exists():  # the first graph runs, and its lock is copied too
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.05)
    shutil.copytree(folders[0], folders[1], ignore=shutil.ignore_patterns("*.checkpoint"))
    processes.append(subprocess.Popen([*command, target, *config], cwd=folders[1], stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    checks = [subprocess.run([sys.executable, "-m", "adasde", "collect", folder / target, "--out", folder], check=True)
              and (folder / "trajectories.parquet").read_bytes() for folder in folders]  # fmt: skip
    assert checks[0] == checks[1]
    broken("load", "two graphs at once, one in a copy of the other's folder", 1, "both ended, with identical tables")


def anonymous():
    """Bytes of this process's memory that no file backs: what cannot be given back while it lives."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_data_larger_than_memory_are_mapped(tmp_path, broken, monkeypatch):
    """Ten gigabytes, of which the disk holds nothing: a file with a hole. What is read can be dropped again."""
    folder, shape = tmp_path / "fashion-mnist", (10 * 2**20, 1024)
    forms = {"train-images": Form("uint8", shape[1:])}
    monkeypatch.setitem(DATASETS, "fashion-mnist", replace(DATASETS["fashion-mnist"], forms=forms))
    folder.mkdir()
    path = folder / "train-images.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array[123_456], array[-1] = 7, 9
    array.flush()
    del array
    size = path.stat().st_size
    assert size > 10 * LARGE
    facts = {"train-images": {"sha256": "0" * 64, "shape": shape, "dtype": "uint8", "sampled": _sampled(path)}}
    (folder / "manifest.json").write_text(json.dumps({"arrays": facts}))
    before, begun = anonymous(), time.monotonic()
    images = load_arrays("fashion-mnist", tmp_path)["train-images"]
    indices = torch.randint(len(images), (2000,), generator=torch.Generator().manual_seed(0))
    assert images[torch.cat([indices, torch.tensor([123_456, len(images) - 1])])].sum().item() == 1024 * (7 + 9)
    assert time.monotonic() - begun < 20
    assert anonymous() - before < 100e6
    broken("load", "data set of 10 GB, mapped into memory", 1, "takes less than 100 MB of it")


class Tiny(Workload):
    """A regression on four numbers, so that a step takes next to no time."""

    size, device = 256, torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(self.size, 4, generator=generator)
        self.targets = self.inputs.sum(1, keepdim=True) + torch.randn(self.size, 1, generator=generator)

    def model(self):
        return torch.nn.Linear(4, 1)

    def gather(self, indices, *noise):
        return self.inputs[indices], self.targets[indices]

    def loss(self, model, inputs, targets, weights=None):
        return (model(inputs) - targets).square().mean()

    def measure(self, model, meter=None, tested=None):
        with torch.no_grad():
            return {"train_loss": self.loss(model, self.inputs, self.targets).item()}


def written():
    """Bytes that this process has given the system to write."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar"))
    return int(line.split()[1])


def test_many_steps_write_no_more_than_few(small_spec, tmp_path, broken):
    """What is written depends on the number of checkpoints and evaluations, and not on that of the steps."""
    path, half = tmp_path / "checkpoint", STEPS // 2
    spec = changed(small_spec, batch_size=1, samples=STEPS, evaluate=[half, STEPS], noise=[], kappa=0.03125)
    before, begun = written(), time.monotonic()
    rows, facts = train(spec, Tiny(), path, every=0.5)
    taken, amount = time.monotonic() - begun, written() - before
    assert rows[-1][1] == STEPS
    assert len(rows) == 3
    size = path.stat().st_size
    assert size < 100_000
    assert amount < (taken / 0.5 + 2) * 2 * size  # each is written once, and its digest; twice that leaves room
    broken("load", f"run of {STEPS:,} steps", 1, "writes its checkpoints and three rows, nothing per step")
