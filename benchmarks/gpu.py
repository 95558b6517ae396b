"""How fast one GPU trains the paper's workloads, on synthetic data of the real shapes: `make bench-gpu`.

rate      examples per second of our steps, and of the decoding that feeds them (ImageNet)
step      our step / a bare forward-backward-step of the same model, precision and passes on one fixed batch
peak      share of the data sheet's FLOP/s, by the FLOPs that cost.py counts
memory    the most that torch held in a step, and what cost.py expects
precision an epoch of VGG-16 on framed Fashion-MNIST in float32, tf32 and bf16, from the same draws

`--out FOLDER` keeps the tables; `adasde throughput FOLDER/steps.csv --out src/adasde/throughput.csv` has `adasde plan`
tell costs from them. What one H100 gave is in results/reference/gpu.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models
from torchvision.models import resnet50

from adasde.experiments import cost
from adasde.experiments.artifacts import provenance
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.scaling.documents import read_document
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import prepare_torch, train
from adasde.training.run import CHUNK, Run
from adasde.workloads import imagenet, language, vision
from adasde.workloads.data.registry import prepare
from adasde.workloads.glue import load
from adasde.workloads.registry import load_workload, workload_named
from training import ROOT, changed, photographs

ROUNDS = 3
SECONDS = 0.6  # of a round of one contestant
BATCHES = (
    # run of paper.yaml, precision, batch size, micro-batch
    ("vgg16-adam.sqrt.k1.s0", "float32", 256, None),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 128, None),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 256, None),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 2048, None),
    ("vgg16-adam.sqrt.k1.s0", "bf16", 256, None),
    ("svag-vgg16-adam.svag.l2.s0", "float32", 256, None),
    ("resnet56-adam.sqrt.k1.s0", "float32", 256, None),
    ("resnet56-adam.sqrt.k1.s0", "tf32", 128, None),
    ("resnet56-adam.sqrt.k1.s0", "tf32", 2048, None),
    ("resnet56-adam.sqrt.k1.s0", "bf16", 256, None),
    ("resnet50-adam.sqrt.k1.s0", "float32", 64, None),
    ("resnet50-adam.sqrt.k1.s0", "float32", 256, None),
    ("resnet50-adam.sqrt.k1.s0", "tf32", 256, None),
    ("resnet50-adam.sqrt.k1.s0", "bf16", 256, None),
    ("imagenet-adam.sqrt.k1.s0", "float32", 256, 256),
    ("imagenet-adam.sqrt.k1.s0", "bf16", 256, 256),
    ("gpt2-adam.sqrt.k1.s0", "float32", 32, 16),
    ("gpt2-adam.sqrt.k1.s0", "bf16", 64, 32),
    ("roberta-adam.sqrt.k1.s0", "float32", 32, 32),
    ("roberta-adam.sqrt.k1.s0", "bf16", 64, 32),
    ("finetune-mnli.k1.s0", "bf16", 16, None),
)


def images(name, device):
    """A workload of random images of CIFAR-10's form."""
    sizes = {"train": 20_000, "test": 1_000}
    tensors = {f"{k}-images": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8) for k, n in sizes.items()}
    tensors |= {f"{k}-labels": torch.randint(0, 10, (n,), dtype=torch.uint8) for k, n in sizes.items()}
    return vision.load(name, tensors, device=device)


def texts(name, device):
    """A language workload of random tokens, from a tokenizer of as many as the real one."""
    gpt = name == "wikitext103-gpt2"
    count = 50_257 if gpt else 50_265
    places = {50_256: "<|endoftext|>"} if gpt else {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 50_264: "<mask>"}
    known = Tokenizer(models.BPE({places.get(n, f"token {n}"): n for n in range(count)}, [])).to_str()
    tensors = {"tokenizer": torch.frombuffer(bytearray(known.encode()), dtype=torch.uint8)}
    if name.startswith("glue"):
        for split in ("train", "test"):
            index = torch.arange(0, 129 * 513, 129)  # texts as long as the network takes, each with its end
            tensors |= {f"glue-{split}": torch.randint(4, 50_000, (int(index[-1]),)), f"glue-{split}-index": index}
            tensors[f"glue-{split}-labels"] = torch.arange(512) % 3
        return load(name, tensors, device=device)
    tensors |= {f"{split}-tokens": torch.randint(4, 50_000, (2_000_000,)) for split in ("train", "validation")}
    return language.load(name, tensors, device=device)


def workload_of(name, device):
    """Return the workload called ``name`` on synthetic data."""
    if name == "imagenet-resnet50":
        tensors, _ = photographs(512)
        return imagenet.ImageNetWorkload(tensors, Path(), resnet50, device, workers=workload_named(name).workers - 1)
    return images(name, device) if workload_named(name).kind == "vision" else texts(name, device)


def seconds(function, steps, device):
    """Seconds of ``steps`` calls, the device's work included."""
    begun = time.perf_counter()
    for _ in range(steps):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measured(spec, workload, device):
    """Return the table's row for ``spec``: our steps and bare ones, interleaved."""
    ours = Run(spec, workload)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds(lambda: ours.advance(1), 2, device)  # warm: algorithms are chosen
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    fixed = Run(spec, workload)
    batch = workload.gather(*fixed.sampler.draw(fixed.drawn))
    passes = list(zip(*(part.split(fixed.examples) for part in batch), strict=True))

    def bare():
        fixed.optimizer.zero_grad()
        fixed._backward(passes)
        fixed.optimizer.step()

    seconds(bare, 2, device)
    took = seconds(bare, 4, device) / 4
    chunk = min(max(1, round(SECONDS / took)), max(1, CHUNK // ours.drawn))  # no more than a run draws at once
    repeats = max(1, round(SECONDS / took / chunk))
    contestants = {"bare": (bare, repeats * chunk), "ours": (lambda: ours.advance(chunk), repeats)}
    rounds = [
        {name: seconds(function, steps, device) for name, (function, steps) in contestants.items()}
        for _ in range(ROUNDS)
    ]
    ours.close(), fixed.close()
    drawn = repeats * chunk * ours.drawn
    rate, bare_rate = (drawn / statistics.median(r[name] for r in rounds) for name in ("ours", "bare"))
    precision, entry = spec.precision, workload_named(spec.workload)
    known = next((d for d in cost.DEVICES.values() if d.model in provenance(device)["device"]), None)
    share = cost.BACKWARD * entry.profile.flops / known.peak[precision] if known else math.nan
    return {
        "device": provenance(device)["device"],
        "torch": torch.__version__,
        "workload": spec.workload,
        "precision": precision,
        "batch_size": spec.batch_size,
        "micro_batch": spec.micro_batch,
        "ell": spec.ell,
        "examples_per_second": rate,
        "step_over_bare": statistics.median(r["ours"] / r["bare"] for r in rounds),
        "share_of_peak": rate * share,
        "bare_share_of_peak": bare_rate * share,
        "peak_gigabytes": peak / 1e9,
        "expected_gigabytes": cost.cost_of(spec, "h100").memory / 1e9,
    }


def products(device):
    """TFLOP/s of large matrix products, by precision: what the device gives at best."""
    found, n = {}, 8192 if device.type == "cuda" else 512
    for name, kind, tf32 in (
        ("float32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, False)
    ):  # fmt: skip
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
        seconds(lambda a=a, b=b: a @ b, 3, device)
        found[name] = 10 * 2 * n**3 / seconds(lambda a=a, b=b: a @ b, 10, device) / 1e12
    return found


def trajectories(root, device):
    """Yield rows of runs that differ in nothing but their precision, three seeds each."""
    configs = [ROOT / f"workflow/config/{name}.yaml" for name in ("gpu", "fashion")]
    epoch = 480 * 128
    spec = plan(merged(configs)).runs["vgg16-adam.sqrt.k1.s0"]
    spec = changed(spec, spec.batch_size, samples=epoch, evaluate=[epoch // 16, epoch // 4, epoch], schedule={})
    prepare("fashion-mnist", root)
    workload = load_workload(spec.workload, root, device=device)
    for seed in range(3):
        for precision in ("float32", "tf32", "bf16"):
            own = {"samples": epoch, "evaluate": list(spec.evaluate), "seed": seed, "precision": precision}
            spec = changed(spec, spec.batch_size, **own, device=device.type)
            prepare_torch(device, spec.precision)
            rows, facts = train(spec, workload)
            for _, step, _, metric, value in rows:
                if not metric.startswith("speed"):
                    yield {"precision": precision, "seed": seed, "step": step, "metric": metric, "value": value}
            yield {"precision": precision, "seed": seed, "step": step, "metric": "seconds", "value": facts["seconds"]}


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path)
    options.add_argument("--device", default="cuda", help="cpu only tries the script out")
    options.add_argument("--only", default="", help="part of a run's name and precision")
    options.add_argument("--data", type=Path, default=ROOT / "results/data")
    options = options.parse_args()
    warnings.simplefilter("ignore", ScalingWarning)
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    facts = {**provenance(device), "products": products(device)}
    print(json.dumps(facts), flush=True)
    paper = plan(read_document(ROOT / "workflow/config/paper.yaml")).runs
    rows, name, workload = [], None, None
    for run, precision, size, micro in BATCHES:
        if options.only not in f"{run} {precision}":
            continue
        spec = changed(paper[run], size, processes=1, micro_batch=micro, precision=precision, device=device.type)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if spec.workload != name:
            name, workload = spec.workload, None
            workload = workload_of(name, device)
        prepare_torch(device, spec.precision)
        rows.append(measured(spec, workload, device))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.out / "steps.csv", index=False, float_format="%.4g")
            (options.out / "device.json").write_text(json.dumps(facts, indent=2) + "\n")
    if device.type != "cuda":
        return
    rows = pd.DataFrame(trajectories(options.data, device))
    ends = rows[rows["step"] == rows["step"].max()]
    print(ends.pivot_table(index=["metric", "seed"], columns="precision", values="value").to_string())
    if options.out:
        rows.to_csv(options.out / "precision.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
