"""On a GPU: the runs of a CPU up to rounding, stopped and resumed, in other precisions, in too little memory."""

import dataclasses
import math
import os
import warnings
from pathlib import Path

import pytest
import torch

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.rescale import rescale
from adasde.training.loop import prepare_torch, train
from adasde.training.run import Run
from adasde.workloads import language, vision
from adasde.workloads.data.registry import prepare
from conftest import changed, load_run

DEVICE = torch.device("cuda", 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]


def on(device, tensors):
    return vision.ImageWorkload(tensors, vision.BUILDERS["cnn"], 0.5, 0.3, device=device)


def values(rows):
    """Values by step and metric."""
    return {(row[1], row[3]): row[4] for row in rows}


def trained(spec, task, **options):
    prepare_torch(task.device, spec.precision)
    return values(train(spec, task, **options)[0])


def close(found, wanted, **tolerance):
    """The same test functions of the same weights; predictions from the noise, which divide by small numbers, apart."""
    assert found.keys() == wanted.keys()
    for place, value in wanted.items():
        if not place[1].startswith("speed"):
            assert found[place] == pytest.approx(value, **tolerance), place


@pytest.fixture
def few(small_spec):
    """A few steps: rounding is amplified by every one."""
    return changed(small_spec, samples=256, evaluate=[128, 256])


@pytest.mark.parametrize("ell", [1, 2])
def test_a_gpu_follows_a_cpu(few, tensors, ell):
    spec = few if ell == 1 else changed(few, ell=ell, rule="svag")
    close(trained(spec, on(DEVICE, tensors)), trained(spec, on("cpu", tensors)), rel=2e-2, abs=2e-3)


def test_it_does_learn(small_spec, tensors):
    rows = trained(small_spec, on(DEVICE, tensors))
    assert rows[40, "train_loss"] < 0.8 * rows[0, "train_loss"]


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_stop_and_resume(few, tensors, tmp_path, micro_batch):
    spec = changed(few, micro_batch=micro_batch)
    path, seen = tmp_path / "checkpoint", []
    with pytest.raises(InterruptedError):
        trained(spec, on(DEVICE, tensors), checkpoint=path, every=0, report=lambda step, _: _interrupt(step, seen))
    assert path.exists()
    close(trained(spec, on(DEVICE, tensors), checkpoint=path), trained(spec, on(DEVICE, tensors)), rel=1e-3, abs=1e-4)


def _interrupt(step, seen):
    seen.append(step)
    raise InterruptedError


def texts():
    """A small GPT-2 with dropout on random tokens."""
    size = dataclasses.replace(language.SIZES["gpt2-mini"], dropout=0.3, vocabulary=64)
    known = {"<|endoftext|>": 0} | {f"t{n}": n for n in range(1, 64)}
    generator = torch.Generator().manual_seed(0)
    tokens = {
        f"{split}-tokens": torch.randint(1, 64, (64 * 200,), generator=generator) for split in ("train", "validation")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language.text, "vocabulary", lambda _: known)
        return language.CausalLanguageWorkload(tokens, size, "GPT-2", DEVICE)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_dropout_goes_on_where_it_was(spec, tmp_path, engine):
    task = texts()
    spec = changed(spec, samples=256, evaluate=[128, 256], batch_size=16, device="cuda", engine=engine)
    path = tmp_path / "checkpoint"
    with pytest.raises(InterruptedError):
        trained(spec, task, checkpoint=path, every=0, report=lambda step, _: _interrupt(step, []))
    found = trained(spec, task, checkpoint=path)
    close(found, trained(spec, task), rel=1e-3, abs=1e-4)
    close(found, trained(changed(spec, engine="eager"), task), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 8, "clip": 0.1}, {"ell": 2, "rule": "svag"}], ids=str)
@pytest.mark.parametrize("engine", ["graph", "compile"])
def test_an_engine_follows_eager(few, tensors, engine, changes):
    """With batch norm. Eight steps: three before the capture, and five replays, in which the schedule changes."""
    task = vision.ImageWorkload(tensors, vision.BUILDERS["resnet"], 0.5, 0.3, crop=2, device=DEVICE)
    spec = changed(few, device="cuda", **changes)
    close(trained(changed(spec, engine=engine), task), trained(spec, task), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("engine", ["graph", "compile"])
def test_an_engine_stops_and_resumes(small_spec, tensors, tmp_path, engine):
    spec, task = changed(small_spec, device="cuda", engine=engine), on(DEVICE, tensors)
    path = tmp_path / "checkpoint"
    with pytest.raises(InterruptedError):
        trained(spec, task, checkpoint=path, every=0, report=lambda step, _: _interrupt(step, []))
    close(trained(spec, task, checkpoint=path), trained(spec, task), rel=1e-2, abs=1e-3)


def test_a_graph_diverges_as_eager_does(small_spec, tensors):
    lr = {**small_spec.document["optimizer"], "lr": 1e30}
    spec = changed(small_spec, device="cuda", schedule={}, optimizer=lr)
    rows = [train(changed(spec, engine=engine), on(DEVICE, tensors))[0][-1] for engine in ("eager", "graph")]
    assert rows[0] == rows[1]
    assert rows[0][3] == "diverged"


def test_a_step_that_waits_for_the_gpu_is_refused(few, tensors, monkeypatch):
    task = on(DEVICE, tensors)
    plain = type(task).loss
    monkeypatch.setattr(
        type(task), "loss", lambda *batch, **weights: plain(*batch, **weights) * float(batch[2].sum() > 0)
    )
    with pytest.raises(InputError, match="engine = 'graph': CUDA cannot capture this step .*; take eager"):
        train(changed(few, device="cuda", engine="graph"), task)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_attention_is_flash_attention_in_bf16(engine, spec):
    """Which neither a mask nor the compiler takes away: nothing else is allowed here."""
    task = texts()
    run = Run(changed(spec, batch_size=16, device="cuda", precision="bf16", engine=engine), task)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        run.advance(2)
    assert not run.diverged


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_less_precision_is_near(few, tensors, precision):
    found = trained(changed(few, device="cuda", precision=precision), on(DEVICE, tensors))
    wanted = trained(few, on(DEVICE, tensors))
    for metric in ("train_loss", "test_loss", "squared_norm"):
        assert found[8, metric] == pytest.approx(wanted[8, metric], rel=5e-2)


def test_too_little_memory_is_said_in_one_line(few, tensors):
    frames = {k: v.repeat(1, 3, 2, 2)[..., :32, :32] if k.endswith("images") else v for k, v in tensors.items()}
    task = vision.ImageWorkload(frames, vision.BUILDERS["resnet50"], 0.5, 0.3, device=DEVICE)
    spec = changed(few, batch_size=512, samples=512, evaluate=[512], micro_batch=512)
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(4e9 / total)  # 512 images take about 13 GB
    try:
        with pytest.raises(InputError, match="micro_batch = 512: .* too small for 512 examples at once"):
            trained(spec, task)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_the_command_line(spec, adasde_process, tmp_path):
    root = Path(os.environ.get("ADASDE_DATA", tmp_path))
    prepare("fashion-mnist", root)
    spec = changed(spec, device="cuda", samples=3200, evaluate=[3200], precision="tf32")
    out = tmp_path / "run.parquet"
    done = adasde_process("run", "--spec", spec.canonical, "--data", root, "--out", out)
    assert done.returncode == 0, done.stderr
    result = load_run(out)
    assert result.facts["device"] == torch.cuda.get_device_name(DEVICE)
    assert all(math.isfinite(row[4]) for row in result.rows)


def test_somebodys_own_training():
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 1).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    inputs = torch.randn(1000, 20, device=DEVICE)
    targets = inputs[:, :1] + torch.randn(1000, 1, device=DEVICE)

    def loss(model, x, y):
        return ((model(x) - y) ** 2).mean()

    chunks = list(zip(inputs.split(50), targets.split(50), strict=True))
    monitor = NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    for step in range(1, 41):
        places = torch.randint(1000, (16,), device=DEVICE)
        optimizer.zero_grad()
        loss(model, inputs[places], targets[places]).backward()
        optimizer.step()
        monitor(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert monitor.largest_kappa() >= 1
        rescale(optimizer, kappa=4)
    wanted = AdamHyperparameters(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8).scaled(4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted.lr)
    loss(model, inputs, targets).backward()
    optimizer.step()
