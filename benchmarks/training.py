"""Speed as ratios within one process, interleaved so that a drifting machine cancels: `make bench`.

step   our training step / a bare forward-backward-step of the same model on one fixed batch
usual  torchvision's usual loop (data set, transforms, DataLoader, default Adam) / ours
run    a whole run of the mini scale with its evaluations / (its steps x the bare step)
svag   a step of SVAG / two steps of a plain run on minibatches of the same size
VGG-16 a step of the paper's network, its images mirrored and cropped / a bare step on a fixed batch
loader torchvision's ImageNet loader / ours, in one worker process each
noise  share of a whole run that its evaluations spend on the gradient's noise, beyond the loss and the gradient
"""

import io
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from adasde.experiments.artifacts import device_name
from adasde.experiments.documents import read
from adasde.experiments.plan import plan
from adasde.experiments.specs import spec_of
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import keep_memory, train
from adasde.training.run import CHUNK, Run
from adasde.workloads import imagenet
from adasde.workloads.data.registry import load_arrays, prepare
from adasde.workloads.metrics import loss_and_gradient
from adasde.workloads.registry import load_workload

ROOT = Path(__file__).parents[1]
ROUNDS = 15
CHUNK_ALONE = 250  # images per gradient where its noise is not asked for
SAMPLES = 8 * CHUNK  # per round and contestant


class Images(Dataset):
    """Fashion-MNIST as torchvision serves it: one PIL image at a time through a transform."""

    def __init__(self, tensors):
        self.images, self.labels = tensors["train-images"][:, 0], tensors["train-labels"].long()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def changed(spec, batch_size=None, **changes):
    """Return the spec with other values; another batch size comes with a length that it divides."""
    if batch_size is not None:
        samples = (1 << 14) * batch_size
        changes = {"batch_size": batch_size, "samples": samples, "evaluate": [samples], **changes}
    return spec_of({**spec.document, **changes})


def bare(spec, workload):
    """Return a function of one step on a fixed batch, with the run's own model, memory format and optimizer."""
    run = Run(spec, workload)
    batch = workload.gather(*run.sampler.draw(spec.batch_size))

    def step():
        run.optimizer.zero_grad()
        workload.loss(run.model, *batch).backward()
        run.optimizer.step()

    return step


def usual(spec, workload, tensors):
    """Return a function of one step of the usual loop."""
    model = workload.build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.optimizer.lr)

    def endless():
        while True:
            yield from DataLoader(Images(tensors), batch_size=spec.batch_size, shuffle=True, drop_last=True)

    batches = endless()

    def step():
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def seconds(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def steps_of(spec, workload, tensors):
    """Seconds per round of the bare step, of ours and of the usual loop, interleaved."""
    size = spec.batch_size
    steps = SAMPLES // size
    ours, fixed, loop = Run(spec, workload), bare(spec, workload), usual(spec, workload, tensors)

    def advance():
        for _ in range(SAMPLES // CHUNK):
            ours.advance(CHUNK // size)

    contestants = {
        "bare": lambda: [fixed() for _ in range(steps)],
        "ours": advance,
        "usual": lambda: [loop() for _ in range(steps)],
    }
    for function in contestants.values():
        function()  # warm
    return [{name: seconds(function) for name, function in contestants.items()} for _ in range(ROUNDS)]


def whole_run(spec, workload):
    """Ratio of a whole run to its steps, each bare, timed before and after; and the run's seconds."""
    steps = spec.samples // spec.batch_size
    fixed = bare(spec, workload)
    part = steps // 4

    def some():
        return seconds(lambda: [fixed() for _ in range(part)]) / part

    some()
    before = some()
    whole = seconds(lambda: train(spec, workload))
    return whole / (steps * (before + some()) / 2), whole


def noise_seconds(spec, workload):
    """Seconds per evaluation of the gradient with its noise and speeds, less those of the gradient alone."""
    model = workload.model().eval()
    joined = [torch.cat(parts) for parts in zip(*workload.subset, strict=True)]
    few = list(zip(*(part.split(CHUNK_ALONE) for part in joined), strict=True))

    def alone():
        weights = list(model.parameters())
        total = [torch.zeros_like(p) for p in weights]
        for chunk in few:
            torch._foreach_add_(total, torch.autograd.grad(workload.loss(model, *chunk), weights))
        return torch.stack(torch._foreach_norm(total)).norm().item()

    def whole():
        loss_and_gradient(model, workload.loss, workload.subset, spec.batch_size**-0.5, spec.optimizer.eps)

    alone(), whole()  # warm
    return statistics.median(-seconds(alone) + seconds(whole) for _ in range(ROUNDS))


def svag_of(spec, plain, workload):
    """Seconds per round of SVAG and of a plain run that draws as many samples, in twice as many steps, interleaved."""
    runs = {"svag": Run(spec, workload), "plain": Run(plain, workload)}

    def advance(run):
        for _ in range(SAMPLES // CHUNK):
            run.advance(CHUNK // run.drawn)

    for run in runs.values():
        advance(run)  # warm
    return [{name: seconds(lambda run=run: advance(run)) for name, run in runs.items()} for _ in range(ROUNDS)]


def paper_step(spec, workload):
    """Seconds per round of a step of a network of the paper, its images mirrored and cropped, and of a bare step."""
    ours, fixed = Run(spec, workload), bare(spec, workload)
    ours.advance(1), fixed()  # warm
    return [{"ours": seconds(lambda: ours.advance(1)), "bare": seconds(fixed)} for _ in range(7)]


def photographs(count):
    """Arrays of ``count`` synthetic photographs of ImageNet's usual size, packed: 500 x 375, about 110 kB each."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), 3)
        noise = random.normal(0, 12, (375, 500, 3))
        buffer = io.BytesIO()
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=93)
        files.append(buffer.getvalue())
    index = torch.tensor(np.cumsum([0, *map(len, files)]))
    jpegs = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
    arrays = {"labels": torch.zeros(count, dtype=torch.int64), "names": jpegs[:0], "names-index": index * 0}
    arrays |= {"jpegs": jpegs, "jpegs-index": index}
    return {f"{split}-{name}": array for split in ("train", "test") for name, array in arrays.items()}, files


def loader():
    """Seconds per round of our ImageNet loader in one worker process, and of torchvision's way in as many."""
    tensors, files = photographs(256)
    ours = imagenet.ImageNetWorkload(tensors, Path(), torchvision.models.resnet50, workers=1)
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
         transforms.Normalize(imagenet.MEAN, imagenet.STD)]
    )  # fmt: skip

    class Files(Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return transform(Image.open(io.BytesIO(files[index])).convert("RGB")), 0

    def take(batches):
        for _ in batches:
            pass

    contestants = {
        "ours": lambda: take(ours.stream((part, *ours.noise(64)) for part in torch.arange(256).split(64))),
        "torchvision": lambda: take(DataLoader(Files(), 64, shuffle=True, num_workers=1)),
    }
    for function in contestants.values():
        function()  # warm
    return [{name: seconds(function) for name, function in contestants.items()} for _ in range(7)]


def ratio(rounds, above, below):
    """Median of the rounds' ratios, and their quartiles, as text."""
    ratios = [r[above] / r[below] for r in rounds]
    low, high = np.quantile(ratios, (0.25, 0.75))
    return f"{statistics.median(ratios):.3f} ({low:.2f}-{high:.2f})"


def main():
    keep_memory()
    warnings.simplefilter("ignore", ScalingWarning)  # mini goes where the rule breaks
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results/data"
    prepare("fashion-mnist", root)
    tensors = load_arrays("fashion-mnist", root)
    workload = load_workload("fashion-cnn", root)
    runs = plan(read(ROOT / "workflow/config/mini.yaml")).runs
    print(f"{device_name()}, torch {torch.__version__}, one thread; medians of {ROUNDS} interleaved rounds")
    names = f"{'step (<= 1.05)':>22}{'usual (>= 2.6)':>22}{'run (<= 1.25)':>16}{'noise (<= 5%)':>16}"
    print(f"{'fashion-cnn, adam':22}{names}")
    for kappa in (1, 4, 16):
        spec = runs[f"fashion-cnn-adam.sqrt.k{kappa}.s0"]
        rounds = steps_of(spec, workload, tensors)
        cells = [ratio(rounds, "ours", "bare"), ratio(rounds, "usual", "ours")]
        ratios, times = zip(*(whole_run(spec, workload) for _ in range(3)), strict=True)
        share = noise_seconds(spec, workload) * (1 + len(spec.evaluate)) / statistics.median(times)
        whole = f"{statistics.median(ratios):>16.3f}{100 * share:>15.1f}%"
        print(f"B = {spec.batch_size:<18}{cells[0]:>22}{cells[1]:>22}{whole}", flush=True)
    print(f"{'svag, ell = 2':22}{'step / two plain steps':>24}")
    for name, size, goal in (("fashion-cnn", 32, 0.85), ("fashion-cnn", 128, 0.95), ("fashion-resnet", 32, 1.05)):
        spec, plain = (changed(runs[f"svag-{name}-adam.{level}.s0"], size) for level in ("svag.l2", "sqrt.k1"))
        found = ratio(svag_of(spec, plain, load_workload(name, root)), "svag", "plain")
        print(f"{f'{name}, B = {size}':22}{found:>24} (<= {goal})", flush=True)
    paper = changed(plan(read(ROOT / "workflow/config/paper.yaml")).runs["vgg16-adam.sqrt.k1.s0"], 64)
    rounds = paper_step(paper, load_workload("fashion32-vgg16", root))
    print(f"VGG-16, B = {paper.batch_size}, augmented: step / bare {ratio(rounds, 'ours', 'bare')} (<= 1.05)")
    rounds = loader()
    speed = 256 / statistics.median(r["ours"] for r in rounds)
    found = ratio(rounds, "torchvision", "ours")
    print(f"ImageNet's loader: {speed:.0f} images/s of one worker; torchvision's / ours {found}")


if __name__ == "__main__":
    main()
