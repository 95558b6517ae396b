"""ImageNet's workload on small archives of exactly the official form."""

import hashlib
import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.datasets.folder import pil_loader

from adasde.common import InputError, Stopped
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.training.loop import train
from adasde.workloads.data.registry import load_arrays, prepare
from adasde.workloads.imagenet import Crops, ImageNetWorkload
from adasde.workloads.registry import load_workload, workload_named
from conftest import changed
from workloads.archives import LEAVES, TEST, TRAIN

DRAWS = [
    (torch.tensor([3, 27, 0, 3, 14]), torch.tensor([7, 2**62, -5, 8, 0])),
    (torch.tensor([9, 9]), torch.tensor([1, 1])),
    (torch.arange(28), torch.arange(100, 128)),
]


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 3))


@pytest.fixture
def folder(mini, tmp_path):
    """The data set, prepared from a folder."""
    mini.lay_out(tmp_path / "laid out/imagenet/sources")
    return prepare("imagenet", tmp_path / "laid out")


def task_in(folder, workers=0, build=tiny, resolution=32):
    return ImageNetWorkload(
        load_arrays("imagenet", folder.parent), folder, build, workers=workers, resolution=resolution
    )


def equal(found, wanted):
    pairs = zip(found, wanted, strict=True)
    return all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


def test_batches_depend_on_the_draws_alone(folder, packed_folder, monkeypatch):
    monkeypatch.setattr("adasde.workloads.imagenet.PIECE", 3)
    task, before = task_in(folder), torch.get_rng_state()
    wanted = [task.gather(*draw) for draw in DRAWS]
    for workers in (0, 1, 2):
        assert equal(task_in(folder, workers).stream(DRAWS), wanted), workers
    assert equal(task_in(packed_folder, 2).stream(iter(DRAWS)), wanted)
    parts = [(indices[i : i + 2], numbers[i : i + 2]) for indices, numbers in DRAWS for i in range(0, len(indices), 2)]
    joined = zip(*task.stream(parts), strict=True)
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(joined, zip(*wanted, strict=True), strict=True))
    assert torch.equal(torch.get_rng_state(), before)  # the model's noise is not touched
    assert wanted[0][0].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(wanted[0][0][0], wanted[0][0][3])  # one image, two numbers
    assert torch.equal(*wanted[1][0])


def test_seeds_come_from_the_generator_that_is_given(folder):
    task = task_in(folder)
    (first,), (second,) = (task.randomness(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(set(first.tolist())) == 5
    torch.manual_seed(0)
    given = task.gather(DRAWS[0][0], *task.randomness(5))
    torch.manual_seed(0)
    assert equal([task.gather(DRAWS[0][0])], [given])


def test_images_are_those_of_the_usual_transforms(folder):
    task = task_in(folder)
    normal = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    training = transforms.Compose([transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), *normal])
    testing = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32), *normal])
    indices, numbers = DRAWS[2]
    images, labels = task.gather(indices, numbers)
    for index, number, image, label in zip(indices, numbers, images, labels, strict=True):
        path = task.train.images.where(int(index))
        torch.manual_seed(int(number))
        assert torch.allclose(image, training(pil_loader(path)), atol=1e-5)
        assert sorted(LEAVES.values())[label] == Path(path).parent.name
    ((images, labels),) = task.test
    for number, image in enumerate(images):
        assert torch.allclose(image, testing(pil_loader(task.tested.images.where(number))), atol=1e-5)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_workers_decode_ahead_with_one_thread_each_and_end_with_the_iterator(folder, monkeypatch):
    read = []

    def threads(self, pairs):
        return torch.full((len(pairs), 3, 1, 1), torch.get_num_threads(), dtype=torch.uint8)

    def endless():
        for draw in itertools.cycle(DRAWS):
            read.append(draw)
            yield draw

    monkeypatch.setattr(Crops, "__getitem__", threads)
    torch.set_num_threads(2)
    task = task_in(folder, 2)
    stream = task.stream(endless())
    (images, _), *_ = (next(stream) for _ in DRAWS)  # some of each worker
    torch.set_num_threads(1)
    assert torch.allclose(images, task._normalised(torch.ones(5, 3, 1, 1)))
    assert len(multiprocessing.active_children()) == 2
    assert len(read) >= 8  # four pieces for each of two workers
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)  # as Slurm does to all of a job, of which one process has to save the run
    assert all(torch.equal(next(stream)[1], task.train.images.labels[DRAWS[n % 3][0]]) for n in range(30))
    stream.close()
    assert not multiprocessing.active_children()
    assert len(list(task.stream(DRAWS))) == 3
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_that_says_where_it_is(workers, folder, root_damaged):
    path = folder / "sources/val/n02119789/ILSVRC2012_val_00000002.JPEG"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"^{path}: not an image, or a damaged one \(image file is truncated.*\)$"):
        list(task_in(folder, workers).test)
    with pytest.raises(InputError) as caught:
        list(task_in(root_damaged, workers).stream(DRAWS))
    assert str(caught.value) == (
        f"train/n01440764/n01440764_105.JPEG (image 0 of {root_damaged}/train-jpegs.npy): not an image, or a damaged "
        "one (no known format)"
    )
    assert not multiprocessing.active_children()


@pytest.fixture
def root_damaged(packed_folder):
    """A packed data set whose first file is none."""
    path, manifest = packed_folder / "train-jpegs.npy", packed_folder / "manifest.json"
    content, before = path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(content[:128] + b"x" + content[129:])
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(before, after))
    return packed_folder


def test_a_folder_that_went_away_is_said_before_any_image_is_read(folder):
    (folder / "sources/val").rename(folder / "val")
    with pytest.raises(InputError, match=f"imagenet: {folder}/sources: holds no folder val; it must hold"):
        task_in(folder)
    (folder / "val").rename(folder / "sources/val")
    task = task_in(folder)
    (folder / "sources/train/n01440764/n01440764_105.JPEG").unlink()
    with pytest.raises(InputError, match=r"n01440764_105.JPEG: not an image, or a damaged one \(.* No such file"):
        task.gather(torch.tensor([0]), torch.tensor([0]))


def test_the_metrics_are_those_of_all_images(folder, monkeypatch):
    monkeypatch.setattr("adasde.workloads.imagenet.CHUNK", 3)
    monkeypatch.setattr("adasde.workloads.imagenet.NOISE_CHUNK", 5)
    task = task_in(folder, 1)
    torch.manual_seed(0)
    model = task.model()
    (images, labels) = (torch.cat(tensors) for tensors in zip(*task.test, strict=True))
    found = task.measure(model, SpeedMeter(0.1, 1e-8))
    assert model.training
    model.eval()
    logits = model(images)
    assert len(labels) == TEST
    assert found["test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert found["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    (images, labels) = (torch.cat(tensors) for tensors in zip(*task.subset, strict=True))
    assert sorted(labels.tolist()) == task.train.images.labels.tolist()  # all of them, as there are so few
    assert labels.tolist() != sorted(labels.tolist())
    assert found["train_loss"] == pytest.approx(nn.functional.cross_entropy(model(images), labels).item())
    assert sorted(torch.cat([labels for _, labels in task.graded]).tolist()) == sorted(labels.tolist())
    assert {"gradient_norm", "noise_trace", "squared_norm", "speed_k2"} <= found.keys()
    assert task.measure(model, SpeedMeter(0.1, 1e-8)) == found


def test_a_weighted_loss_is_what_svag_needs(folder):
    task = task_in(folder)
    images, labels = task.gather(*DRAWS[0])
    model = task.model()
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    assert task.loss(model, images, labels).item() == pytest.approx(task.loss(model, images, labels, weights).item())


def test_the_registered_task_is_torchvisions_resnet50(folder):
    task = load_workload("imagenet-resnet50", folder.parent)
    assert task.size == TRAIN
    assert task.workers == min(len(os.sched_getaffinity(0)) - 1, 16)
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.gather(*DRAWS[1])[0].shape == (2, 3, 224, 224)
    entry = workload_named("imagenet-resnet50")
    assert (entry.kind, entry.train_size) == ("vision", TRAIN)


def test_a_run_that_is_stopped_leaves_no_process_behind(folder, spec, monkeypatch):
    """Workers leave SIGTERM to the run, so whoever waits for them at the end of the process would wait for ever."""
    monkeypatch.setattr("adasde.workloads.imagenet.NOISE_CHUNK", 14)
    monkeypatch.setattr("adasde.training.loop.CHUNK", 1)
    task = task_in(folder, workers=1)
    spec = changed(spec, batch_size=4, samples=16, evaluate=[16], workload="imagenet-resnet50")
    with pytest.raises(Stopped) as stopped:
        train(spec, task, folder / "checkpoint", stopping=lambda: True)
    assert "asked to stop at step" in str(stopped.value)  # and its traceback holds the run
    assert not multiprocessing.active_children()
