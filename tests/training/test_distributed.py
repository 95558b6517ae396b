"""processes.py and what train.py does with micro-batches, precision, signals and too little memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from adasde.common import InputError
from adasde.experiments import plan
from adasde.experiments.artifacts import read_run, rows_digest
from adasde.training import distributed
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads.vision import BUILDERS, ImageTask

CLOSE = 1e-5  # between sums in another order, relative to the weights' scale


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.fixture
def resnet(tensors):
    """The network with batch norm, its images mirrored and cropped."""
    return ImageTask(tensors, BUILDERS["resnet"], 0.5, 0.3, crop=2)


@pytest.fixture
def at_ell(config, small_spec):
    def make(ell):
        run = plan.plan(config).runs[f"svag-fashion-cnn-adam.{'sqrt.k1' if ell == 1 else f'svag.l{ell}'}.s0"]
        return {**run, **{key: small_spec[key] for key in ("samples", "horizon", "evaluate", "schedule")}}

    return make


@pytest.mark.parametrize("ell", [1, 2])
@pytest.mark.parametrize("micro", [4, 16, 32])
def test_micro_batches_add_up_to_the_batch(ell, micro, at_ell, tensors):
    """Without batch norm, whose statistics are those of a pass, a step is the same however it is cut."""
    task = ImageTask(tensors, BUILDERS["cnn"], 0.5, 0.3)
    whole, cut = Run(at_ell(ell), task), Run({**at_ell(ell), "micro_batch": micro}, task)
    for run in (whole, cut):
        run.advance(20)
    assert torch.allclose(weights(whole), weights(cut), rtol=0, atol=CLOSE)
    assert not torch.equal(weights(whole), weights(Run(at_ell(ell), task)))


def test_batch_norm_sees_a_micro_batch_or_the_whole(small_spec, resnet):
    seen = {}
    for micro in (None, 8):
        run = Run({**small_spec, **({"micro_batch": micro} if micro else {})}, resnet)
        sizes = seen[micro] = []
        norm = next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
        norm.register_forward_hook(lambda module, args, out, sizes=sizes: sizes.append(len(args[0])))
        run.advance(2)
    assert seen == {None: [32, 32], 8: [8] * 8}


def test_svag_passes_micro_batches_of_one_minibatch_each(at_ell, resnet):
    """Whole minibatches as micro-batches are the two passes of the definition."""
    one, two = Run(at_ell(2), resnet), Run({**at_ell(2), "micro_batch": 32}, resnet)
    for run in (one, two):
        run.advance(10)
    assert torch.allclose(weights(one), weights(two), rtol=0, atol=10 * CLOSE)


def test_interrupted_with_micro_batches_is_uninterrupted(small_spec, resnet, tmp_path):
    spec = {**small_spec, "micro_batch": 8}
    whole, _ = train(spec, resnet)

    def stop(now, steps):
        if now == 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(spec, resnet, tmp_path / "c", every=0, report=stop)
    assert rows_digest(train(spec, resnet, tmp_path / "c")[0]) == rows_digest(whole)


def test_bf16_is_close_and_not_the_same(small_spec, task):
    exact, _ = train(small_spec, task)
    rough, _ = train({**small_spec, "precision": "bf16"}, task)
    assert rows_digest(exact) != rows_digest(rough)
    last = {row[3]: row[4] for row in exact}
    assert {row[3]: row[4] for row in rough}["train_loss"] == pytest.approx(last["train_loss"], rel=0.2)


def test_a_frozen_layer_keeps_its_weights_and_is_not_counted(small_spec, task):
    run = Run({**small_spec, "frozen": "last-layer"}, task)
    before, free = run.model[-1].weight.clone(), run.model[0].weight.clone()
    run.advance(5)
    assert torch.equal(run.model[-1].weight, before)
    assert not torch.equal(run.model[0].weight, free)
    run.measure()
    norms = {row[3]: row[4] for row in run.rows}
    assert norms["squared_norm"] == pytest.approx(
        sum(p.square().sum().item() for p in run.model.parameters() if p is not run.model[-1].weight)
        - run.model[-1].bias.square().sum().item(),
        rel=1e-6,
    )


def test_too_little_memory_names_the_micro_batch_that_would_fit(small_spec, task, monkeypatch):
    plain = type(task).loss

    def limited(self, model, images, labels, weights=None):
        if len(images) > 9 and model.training:
            raise torch.OutOfMemoryError("no")
        return plain(self, model, images, labels, weights)

    monkeypatch.setattr(type(task), "loss", limited)
    with pytest.raises(InputError, match=r"micro_batch = None: .*too small for 32; micro_batch = 8 would fit"):
        train(small_spec, task)
    with pytest.raises(InputError, match=r"micro_batch = 16: .*too small for 16; micro_batch = 8 would fit"):
        train({**small_spec, "micro_batch": 16}, task)
    train({**small_spec, "micro_batch": 8}, task)


def test_where_nothing_fits_that_is_said(small_spec, task, monkeypatch):
    def none(self, model, images, labels, weights=None):
        raise torch.OutOfMemoryError("no")

    run = Run(small_spec, task)
    monkeypatch.setattr(type(task), "loss", none)
    run.objective.loss = run.task.loss
    with pytest.raises(InputError, match="not even one fits"):
        run.advance(1)


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
        plan.plan(config)


def test_a_gpu_that_is_not_here_and_a_wrong_number_of_processes_are_refused(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(
            InputError, match="device = 'cuda': torch finds no GPU here; the scales smoke and mini need none"
        ),
        distributed.process_group({**spec, "device": "cuda"}),
    ):
        pass
    with (
        pytest.raises(InputError, match="processes = 2: torchrun started 1; start it by"),
        distributed.process_group({**spec, "processes": 2}),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="processes = 1: torchrun started 2"), distributed.process_group(spec):
        pass


def _torchrun(arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = ["--master-addr", "localhost", "--master-port", str(port)]
    return subprocess.Popen([*command, *place, *map(str, arguments)], text=True, **options)


TOGETHER = """
import json, sys, torch
from adasde import processes
from adasde.tasks.vision import BUILDERS, ImageTask
from adasde.train import Run, train
torch.set_num_threads(1)
tensors = torch.load(sys.argv[1], weights_only=True)
specs, found = json.loads(sys.argv[2]), {}
with processes.joined({"processes": 2}):  # once: torch's groups cannot be left and joined again
    for name, (network, spec) in specs.items():
        task = ImageTask(tensors, BUILDERS[network], 0.5, 0.3, crop=2)
        checkpoint = sys.argv[3] + name if name.endswith("saved") else None
        rows, _ = train(spec, task, checkpoint, every=0)
        if checkpoint:  # again, from the checkpoint at the end
            again, _ = train(spec, task, checkpoint)
            assert again == rows
        if processes.rank() == 0:
            found[name] = rows
if found:
    print("ROWS", json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_are_one(at_ell, small_spec, tensors, tmp_path):
    """Plain and SVAG, whole batches and micro-batches, with batch norm and augmentation; checkpoints, too."""
    # Few steps: Adam divides by the gradient's size, and what rounding differs by grows tenfold in ten steps.
    few = {**small_spec, "evaluate": [160, 320], "samples": 320}
    svag = {**at_ell(2), "evaluate": [64], "samples": 64}
    specs = {
        "plain": ("cnn", few),
        "whole-saved": ("resnet", {**few, "clip": 1.0}),
        "micro": ("resnet", {**few, "micro_batch": 8}),
        "svag": ("resnet", svag),
        "svag-micro-saved": ("resnet", {**svag, "micro_batch": 8}),
    }
    torch.save(tensors, tmp_path / "tensors")
    both = {name: (network, {**spec, "processes": 2}) for name, (network, spec) in specs.items()}
    (tmp_path / "together.py").write_text(TOGETHER)
    job = _torchrun(
        [tmp_path / "together.py", tmp_path / "tensors", json.dumps(both), tmp_path / "checkpoint-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, errors = job.communicate(timeout=180)
    finally:
        job.kill()
    assert job.returncode == 0, errors[:3000]
    found = json.loads(output.partition("ROWS ")[2])
    for name, (network, spec) in specs.items():
        alone, _ = train(spec, ImageTask(tensors, BUILDERS[network], 0.5, 0.3, crop=2))
        assert len(alone) == len(found[name])
        for (*place, value), (*other, shared) in zip(alone, found[name], strict=True):
            assert place == other
            # A metric of differences has their rounding.
            close = CLOSE if place[3] in ("train_loss", "test_loss", "squared_norm") else 100 * CLOSE
            assert shared == pytest.approx(value, rel=close, abs=close), (name, place)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(adasde, data_root, config, tmp_path):
    """Alone and with torchrun; what goes on from there equals an undisturbed run."""
    spec = plan.plan(config).runs["fashion-cnn-adam.sqrt.k1.s0"]
    spec |= {"samples": 32 * 3000, "evaluate": [32 * 1500, 32 * 3000]}

    def arguments(name):
        paths = ("--out", tmp_path / f"{name}.parquet", "--checkpoint", tmp_path / f"{name}.checkpoint")
        return [*paths, "--data", data_root, "--checkpoint-every", "0.2"]

    done = adasde("run", "--spec", json.dumps(spec), *arguments("whole"))
    assert done.returncode == 0, done.stderr
    whole = read_run(tmp_path / "whole.parquet")[0]
    for name, count in (("alone", 1), ("shared", 2)):
        own = {**spec, "processes": 2} if count == 2 else spec
        run = ["-m", "adasde", "run", "--spec", json.dumps(own), *arguments(name)]
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
        rows = read_run(tmp_path / f"{name}.parquet")[0]
        if count == 1:
            assert rows_digest(rows) == rows_digest(whole)
        else:
            assert rows[-1][:4] == whole[-1][:4]
            assert rows[-1][4] == pytest.approx(whole[-1][4], rel=0.01)
