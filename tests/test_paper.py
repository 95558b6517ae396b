"""The paper's own tasks on small files of exactly the real forms: two steps, a checkpoint, the rest, evaluations."""

import hashlib
from dataclasses import replace

import pytest

from adasde import data, plan, schema, store
from adasde.data import sources
from adasde.tasks import vision
from adasde.train import train
from conftest import ROOT
from test_data import cifar_archive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def specs():
    return plan.plan(schema.read(ROOT / "workflow/config/paper.yaml")).runs


def steps(spec, size, count, **changes):
    """The spec cut to ``count`` steps of ``size`` examples on a CPU, evaluated in the middle and at the end."""
    spec = {key: value for key, value in spec.items() if key not in ("device", "processes", "precision")}
    half, whole = size * (count // 2), size * count
    return {**spec, "batch_size": size, "samples": whole, "evaluate": [half, whole], **changes}


def interrupted(spec, task, path):
    """Rows of a run that stops in the middle and goes on from its checkpoint."""

    def stop(now, total):
        if now == total // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(spec, task, path, every=0, report=stop)
    return train(spec, task, path, every=0)[0]


@pytest.mark.parametrize("name", ["vgg16-rmsprop", "resnet56-adam", "resnet50-adam", "svag-vgg16-adam"])
def test_cifar_10(name, specs, tmp_path, monkeypatch):
    content, _ = cifar_archive()
    file = sources.File("cifar-10-python.tar.gz", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(data.DATASETS, "cifar-10", replace(data.DATASETS["cifar-10"], files=(file,), sources=()))
    (tmp_path / "cifar-10/sources").mkdir(parents=True)
    (tmp_path / "cifar-10/sources" / file.name).write_bytes(content)
    data.prepare("cifar-10", tmp_path)
    monkeypatch.setattr(vision, "NOISE_CHUNK", 10)
    spec = specs[f"{name}.svag.l2.s0" if name.startswith("svag") else f"{name}.sqrt.k1.s0"]
    assert ("frozen" in spec) == ("vgg16" in name)
    spec = steps(spec, 4, 2)
    task = vision.load(spec["task"], data.load("cifar-10", tmp_path))
    assert task.size == 20
    whole, _ = train(spec, task)
    assert store.digest(interrupted(spec, task, tmp_path / "checkpoint")) == store.digest(whole)
    last = {row[3]: (row[1], row[4]) for row in whole}
    assert last["test_loss"][0] == 2 * spec["ell"] ** 2
    assert {"train_loss", "test_accuracy", "noise_trace", "squared_norm", "speed_k16"} <= last.keys()
    assert "diverged" not in last
