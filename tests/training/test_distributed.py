"""Several processes that share a run, and options that do not fit together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.training import distributed
from adasde.training.loop import train
from adasde.workloads import language
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed, load_run, slow
from random_texts import LANGUAGE, learning, texts

CLOSE = 1e-5  # between sums in another order, relative to the weights' scale


BAD = [
    ({"processes": 3}, r"processes = 3: must divide the batch size 32 \(kappa 1\)"),
    ({"micro_batch": 24}, r"micro_batch = 24: must divide the 32 examples of a batch of 32"),
    ({"processes": 2, "micro_batch": 32}, r"micro_batch = 32: must divide the 16 examples of a batch of 32"),
    ({"precision": "tf32"}, "precision = 'tf32': only a GPU has it"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_options_that_do_not_fit_are_named(options, message, config):
    config["experiments"]["fashion-cnn-adam"] |= {
        key: {"value": value, "source": "ours"} for key, value in options.items()
    }
    with pytest.raises(InputError, match=f"experiments.fashion-cnn-adam: {message}"):
        plan(config)


def test_a_gpu_that_is_not_here_and_a_wrong_number_of_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(
            InputError, match="device = 'cuda': torch finds no GPU here; the scales smoke and mini need none"
        ),
        distributed.process_group(device="cuda"),
    ):
        pass
    with (
        pytest.raises(InputError, match="processes = 2: torchrun or srun started 1; start it by"),
        distributed.process_group(2),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="processes = 1: torchrun or srun started 2"), distributed.process_group(1):
        pass


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[07-09,12],big1", "gpu07"), ("r[1-2]n[10-11].site", "r1n10.site"), ("a1,b[2-3]", "a1")],
)
def test_the_processes_of_srun_meet_at_the_first_node(nodes, first, monkeypatch):
    """Torch's variables are those of srun, but for those that are set already."""
    slurm = {"PROCID": "5", "LOCALID": "1", "STEP_NUM_TASKS": "8", "STEP_NODELIST": nodes, "JOB_ID": "1230007"}
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(InputError, match="processes = 2: torchrun or srun started 8"), distributed.process_group(2):
        pass
    assert [environment[name] for name in names] == ["5", "1", "8", first, "20007"]
    monkeypatch.setattr(os, "environ", environment | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "torchrun's"})
    with pytest.raises(InputError, match="processes = 1: torchrun or srun started 2"), distributed.process_group(1):
        pass
    assert (os.environ["RANK"], os.environ["MASTER_ADDR"]) == ("0", "torchrun's")
    alone = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    monkeypatch.setattr(os, "environ", alone)
    with distributed.process_group(1):
        assert "RANK" not in alone


def _torchrun(arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = ["--master-addr", "localhost", "--master-port", str(port)]
    return subprocess.Popen([*command, *place, *map(str, arguments)], text=True, **options)


def test_micro_batches_of_several_processes_go_without_batch_norm(small_spec, resnet, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(InputError, match=r"micro_batch = 8, processes = 2: batch norm .*; drop one of them"):
        train(changed(small_spec, micro_batch=8, processes=2), resnet)


def workload_of(network, tensors):
    """Augmented images for a network, or texts for a transformer whose gradients travel in several parts."""
    if network in BUILDERS:
        return ImageWorkload(tensors, BUILDERS[network], 0.5, 0.3, crop=2)
    language.LOGITS = 1000  # so that the loss is in chunks
    return texts(LANGUAGE[network == "roberta"], width=256)


TOGETHER = """
import json, sys, torch
from adasde.experiments.specs import spec_of
from adasde.training import distributed
from adasde.training.loop import train
from test_distributed import workload_of
torch.set_num_threads(1)
tensors = torch.load(sys.argv[1], weights_only=True)
specs, found = json.loads(sys.argv[2]), {}
with distributed.process_group(2):  # once: torch's groups cannot be left and joined again
    for name, (network, spec) in specs.items():
        workload = workload_of(network, tensors)
        checkpoint = sys.argv[3] + name if name.endswith("saved") else None
        rows, _ = train(spec_of(spec), workload, checkpoint, every=0)
        if checkpoint:  # again, from the checkpoint at the end
            again, _ = train(spec_of(spec), workload, checkpoint)
            assert again == rows
        if distributed.rank() == 0:
            found[name] = rows
if found:
    print("ROWS", json.dumps(found))
"""


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("eager", ("plain", "whole-saved", "svag-micro-saved")),
        slow("eager", ("micro", "invariant", "svag")),
        slow("compile", ("whole-saved", "svag", "svag-micro-saved")),
        slow("compile", ("gpt2", "roberta")),
    ],
)
def test_two_processes_are_one(engine, names, at_ell, small_spec, spec, tensors, tmp_path, monkeypatch):
    """Plain and SVAG, whole batches with batch norm and micro-batches without, augmentation; checkpoints, too."""
    monkeypatch.setattr(language, "LOGITS", language.LOGITS)  # which workload_of changes
    # Few steps: Adam divides by the gradient's size, and what rounding differs by grows tenfold in ten steps.
    few = changed(small_spec, evaluate=[160, 320], samples=320)
    svag = changed(at_ell(2), evaluate=[64], samples=64)
    specs = {
        "plain": ("cnn", few),
        "whole-saved": ("resnet", changed(few, clip=1.0)),
        "micro": ("cnn", changed(few, micro_batch=8)),
        "invariant": (
            "cnn",
            changed(few, rule="invariant", kappa=4, batch_size=128, micro_batch=16, samples=640, evaluate=[128, 640]),
        ),
        "svag": ("resnet", svag),
        "svag-micro-saved": ("cnn", changed(svag, micro_batch=8)),
        "gpt2": ("gpt2", changed(learning(spec), samples=80, evaluate=[40, 80])),
    }
    specs["roberta"] = ("roberta", specs["gpt2"][1])
    specs = {name: specs[name] for name in names}
    torch.save(tensors, tmp_path / "tensors")
    shared = {"processes": 2, "engine": engine}
    both = {name: (network, changed(spec, **shared).document) for name, (network, spec) in specs.items()}
    (tmp_path / "together.py").write_text(TOGETHER)
    job = _torchrun(
        [tmp_path / "together.py", tmp_path / "tensors", json.dumps(both), tmp_path / "checkpoint-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )
    try:
        output, errors = job.communicate(timeout=180 if engine == "eager" else 900)
    finally:
        job.kill()
    assert job.returncode == 0, errors[:3000]
    assert "FutureWarning" not in errors
    found = json.loads(output.partition("ROWS ")[2])
    for name, (network, spec) in specs.items():
        alone, _ = train(spec, workload_of(network, tensors))
        assert len(alone) == len(found[name])
        for (*place, value), (*other, shared) in zip(alone, found[name], strict=True):
            assert place == other
            # A metric of differences has their rounding.
            close = CLOSE if place[3] in ("train_loss", "test_loss", "log_perplexity", "squared_norm") else 100 * CLOSE
            assert shared == pytest.approx(value, rel=close, abs=close), (name, place)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(adasde_process, data_root, config, tmp_path):
    """Alone and with torchrun; what goes on from there equals an undisturbed run."""
    spec = plan(config).runs["fashion-cnn-adam.sqrt.k1.s0"]
    spec = changed(spec, samples=32 * 3000, evaluate=[32 * 1500, 32 * 3000])

    def arguments(name):
        paths = ("--out", tmp_path / f"{name}.parquet", "--checkpoint", tmp_path / f"{name}.checkpoint")
        return [*paths, "--data", data_root, "--checkpoint-every", "0.2"]

    done = adasde_process("run", "--spec", spec.canonical, *arguments("whole"))
    assert done.returncode == 0, done.stderr
    whole = load_run(tmp_path / "whole.parquet").rows
    for name, count in (("alone", 1), ("shared", 2)):
        own = changed(spec, processes=2) if count == 2 else spec
        run = ["-m", "adasde", "run", "--spec", own.canonical, *arguments(name)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        options = {"stderr": subprocess.PIPE, "env": environment}

        def start(run=run, count=count, options=options):
            if count == 2:
                return _torchrun(run, **options)
            return subprocess.Popen([sys.executable, *map(str, run)], text=True, **options)

        job, begun = start(), time.monotonic()
        while not (tmp_path / f"{name}.checkpoint").exists() and time.monotonic() - begun < 60:
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=60)
        assert job.returncode != 0
        if count == 1:
            assert job.returncode == 143
            assert "asked to stop at step" in errors
            assert "goes on from there" in errors
        assert not (tmp_path / f"{name}.parquet").exists()
        job = start()
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors[:3000]
        assert "resumed at step" in errors
        rows = load_run(tmp_path / f"{name}.parquet").rows
        if count == 1:
            assert rows_digest(rows) == rows_digest(whole)
        else:
            (*place, norm), (*other, alone) = (
                [r for r in found if r[3] == "squared_norm"][-1] for found in (rows, whole)
            )
            assert place == other
            assert norm == pytest.approx(alone, rel=0.01)
