"""Speed as ratios within one process, interleaved so that a drifting machine cancels: `make bench`.

step   our training step / a bare forward-backward-step of the same model on one fixed batch
usual  torchvision's usual loop (data set, transforms, DataLoader, default Adam) / ours
onednn a bare step with oneDNN / without it, as a pass of so few images goes
run    a whole run of the mini scale with its evaluations / (its steps x the bare step)
share  of a whole run that its evaluations take
svag   a step of SVAG / two steps of a plain run on minibatches of the same size
VGG-16 a step of the paper's network, its images mirrored and cropped / a bare step on a fixed batch
loader torchvision's ImageNet loader / ours, in one worker process each
"""

import io
import statistics
import sys
import time
import warnings
from copy import copy
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from adasde.experiments.artifacts import device_name
from adasde.experiments.plan import plan
from adasde.experiments.specs import Training, spec_of
from adasde.scaling.documents import read_document
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import keep_memory, train
from adasde.training.run import CHUNK, Run
from adasde.workloads import imagenet
from adasde.workloads.data.registry import load_arrays, prepare
from adasde.workloads.registry import load_workload

ROOT = Path(__file__).parents[1]
ROUNDS = 15
SIZES = (2, 8, 32, 128)  # of batches
SAMPLES = 8 * CHUNK  # per round and contestant, at batches that are not small


class Images(Dataset):
    """Fashion-MNIST as torchvision serves it: one PIL image at a time through a transform."""

    def __init__(self, tensors):
        self.images, self.labels = tensors["train-images"][:, 0], tensors["train-labels"].long()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def mini(workload, **wanted):
    """The spec of the mini scale's first run from scratch of ``workload`` with Adam and these values."""
    runs = plan(read_document(ROOT / "workflow/config/mini.yaml")).runs.values()
    wanted = {"workload": workload, "rule": "sqrt", "kappa": 1, **wanted}
    return next(
        spec
        for spec in runs
        if isinstance(spec, Training)
        and spec.origin == "scratch"
        and spec.optimizer.name == "adam"
        and all(getattr(spec, name) == value for name, value in wanted.items())
    )


def changed(spec, batch_size, **changes):
    """Return the spec at another batch size, with a length that it divides and no evaluation in between, eager."""
    samples = (1 << 14) * batch_size
    length = {"batch_size": batch_size, "samples": samples, "evaluate": [samples], "noise": []}
    return spec_of({**spec.document, **length, "micro_batch": None, "engine": "eager", **changes})


def bare(spec, workload):
    """Return a function of some steps on a fixed batch, with the run's own model, memory format and optimizer."""
    run = Run(spec, workload)
    batch = workload.gather(*run.sampler.draw(spec.batch_size))

    def steps(count):
        with workload.kernels(spec.batch_size):
            for _ in range(count):
                run.optimizer.zero_grad()
                workload.loss(run.model, *batch).backward()
                run.optimizer.step()

    return steps


def usual(spec, workload, tensors):
    """Return a function of some steps of the usual loop."""
    model = workload.build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.optimizer.lr)

    def endless():
        while True:
            yield from DataLoader(Images(tensors), batch_size=spec.batch_size, shuffle=True, drop_last=True)

    batches = endless()

    def steps(count):
        for _, (images, labels) in zip(range(count), batches, strict=False):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    return steps


def seconds(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def interleaved(contestants, rounds=ROUNDS):
    """Seconds of every contestant per round, interleaved."""
    for function in contestants.values():
        function()  # warm
    return [{name: seconds(function) for name, function in contestants.items()} for _ in range(rounds)]


def steps_of(spec, workload, tensors):
    """Seconds per round of the bare step, of ours, of the usual loop, and of the bare step on oneDNN if that is off."""
    size = spec.batch_size
    chunks = 8 if size >= 32 else 1
    steps, few = chunks * CHUNK // size, 16  # the usual loop is slow
    ours, fixed, loop = Run(spec, workload), bare(spec, workload), usual(spec, workload, tensors)

    def advance():
        for _ in range(chunks):
            ours.advance(CHUNK // size)

    contestants = {"bare": lambda: fixed(steps), "ours": advance, "usual": lambda: loop(steps // few)}
    if size <= workload.small:
        default = copy(workload)
        default.small = 0
        with_onednn = bare(spec, default)
        contestants["onednn"] = lambda: with_onednn(steps)
    rounds = interleaved(contestants)
    return [{**r, "usual": few * r["usual"]} for r in rounds]


def whole_run(spec, workload):
    """Ratio of a whole run to its steps, each bare, timed before and after, and the share of its evaluations.

    Each is a median of three.
    """
    steps = spec.samples // spec.batch_size
    fixed, found = bare(spec, workload), []
    model = workload.model().train()

    def evaluation(noise):
        return seconds(lambda: workload.measure(model, SpeedMeter(0.1, 1e-8) if noise else None, spec.tested))

    for _ in range(3):
        before = seconds(lambda: fixed(steps // 4))
        whole = seconds(lambda: train(spec, workload))
        after = seconds(lambda: fixed(steps // 4))
        noisy = len(spec.noise)
        evaluating = noisy * evaluation(True) + (1 + len(spec.evaluate) - noisy) * evaluation(False)
        found.append((whole / (2 * (before + after)), evaluating / whole))
    return [statistics.median(column) for column in zip(*found, strict=True)]


def svag_of(spec, plain, workload):
    """Seconds per round of SVAG and of a plain run that draws as many samples, in twice as many steps."""
    runs = {"svag": Run(spec, workload), "plain": Run(plain, workload)}

    def advance(run):
        for _ in range(SAMPLES // CHUNK):
            run.advance(CHUNK // run.drawn)

    return interleaved({name: lambda run=run: advance(run) for name, run in runs.items()})


def paper_step(spec, workload):
    """Seconds per round of a step of a network of the paper, its images mirrored and cropped, and of a bare step."""
    ours, fixed = Run(spec, workload), bare(spec, workload)
    return interleaved({"ours": lambda: ours.advance(1), "bare": lambda: fixed(1)}, rounds=7)


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
        "ours": lambda: take(ours.stream((part, *ours.randomness(64)) for part in torch.arange(256).split(64))),
        "torchvision": lambda: take(DataLoader(Files(), 64, shuffle=True, num_workers=1)),
    }
    return interleaved(contestants, rounds=7)


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
    print(f"{device_name()}, torch {torch.__version__}, one thread; medians of {ROUNDS} interleaved rounds")
    print(f"{'fashion-cnn, adam':22}{'step (<= 1.03)':>22}{'usual (>= 2.6)':>22}{'onednn (>= 1)':>22}")
    for size in SIZES:
        rounds = steps_of(changed(mini("fashion-cnn"), size), workload, tensors)
        cells = [ratio(rounds, "ours", "bare"), ratio(rounds, "usual", "ours")]
        cells += [ratio(rounds, "onednn", "bare")] if "onednn" in rounds[0] else ["-"]
        print(f"{f'B = {size}':22}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    print(f"{'fashion-cnn, adam':22}{'run (<= 1.2)':>22}{'share (<= 20%)':>22}")
    for kappa in (1, 4, 16):
        whole, share = whole_run(mini("fashion-cnn", kappa=kappa), workload)
        print(f"{f'kappa = {kappa}':22}{whole:>22.3f}{100 * share:>21.1f}%", flush=True)
    print(f"{'svag, ell = 2':22}{'step / two plain steps':>24}")
    for name, size, goal in (("fashion-cnn", 32, 0.85), ("fashion-cnn", 128, 0.95), ("fashion-resnet", 32, 1.05)):
        spec, plain = (changed(mini(name), size, **how) for how in ({"rule": "svag", "ell": 2}, {}))
        found = ratio(svag_of(spec, plain, load_workload(name, root)), "svag", "plain")
        print(f"{f'{name}, B = {size}':22}{found:>24} (<= {goal})", flush=True)
    paper = changed(plan(read_document(ROOT / "workflow/config/paper.yaml")).runs["vgg16-adam.sqrt.k1.s0"], 64)
    rounds = paper_step(paper, load_workload("fashion32-vgg16", root))
    print(f"VGG-16, B = {paper.batch_size}, augmented: step / bare {ratio(rounds, 'ours', 'bare')} (<= 1.05)")
    rounds = loader()
    speed = 256 / statistics.median(r["ours"] for r in rounds)
    found = ratio(rounds, "torchvision", "ours")
    print(f"ImageNet's loader: {speed:.0f} images/s of one worker; torchvision's / ours {found}")


if __name__ == "__main__":
    main()
