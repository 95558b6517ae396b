"""How fast one GPU trains the paper's workloads by each engine, on synthetic data of the real shapes: `make bench-gpu`.

rate      examples per second of our steps, or tokens; ImageNet's include the decoding, which is measured alone as well
step      eager: our step / a bare forward-backward-step of the same model, precision and passes on one fixed batch
start     seconds until a run's sixth step: torch chooses algorithms, compiles or captures
peak      share of the data sheet's FLOP/s, by the FLOPs that cost.py counts
memory    the most that torch held in a step, and what cost.py expects
precision with --trajectories: an epoch of VGG-16 on framed Fashion-MNIST in float32, tf32 and bf16, from the same
          draws, and in tf32 by each engine

No case begins after LIMIT seconds, so that all takes less than five minutes; those left out are named.
`--out FOLDER` keeps the tables; `make bench-gpu` keeps them in results/gpu-steps. `adasde throughput FOLDER/steps.csv
--out src/adasde/experiments/throughput.csv` has `adasde plan` tell costs from them. What one H100 gave before there
were engines is in results/reference/gpu.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models

from adasde.common import text_table
from adasde.experiments import cost
from adasde.experiments.artifacts import provenance
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.scaling.documents import read_document
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import prepare_torch, train
from adasde.training.run import CHUNK, Run
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import counted, load_workload, workload_named
from training import ROOT, changed, photographs

ROUNDS = 3
SECONDS = 0.6  # of a round of one contestant
LIMIT = 240  # seconds after which no case begins: compiling RoBERTa may take the last minute
CASES = (
    # run of paper.yaml, precision, batch size, micro-batch, engines
    ("resnet56-adam.sqrt.k1.s0", "tf32", 128, None, "eager graph"),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 128, None, "eager graph"),
    ("gpt2-adam.sqrt.k1.s0", "bf16", 64, 32, "eager compile"),
    ("roberta-adam.sqrt.k1.s0", "bf16", 64, 32, "eager compile"),
    ("imagenet-adam.sqrt.k1.s0", "bf16", 256, 256, "eager"),
    ("vit-adamw.sqrt.k1.s0", "bf16", 256, 256, "eager"),
    ("resnet56-adam.sqrt.k1.s0", "float32", 256, None, "eager graph"),
    ("svag-resnet56-adam.svag.l2.s0", "float32", 256, None, "eager graph"),
    ("vgg16-adam.sqrt.k1.s0", "float32", 256, None, "eager graph"),
    ("svag-vgg16-adam.svag.l2.s0", "float32", 256, None, "eager graph"),
    ("resnet50-adam.sqrt.k1.s0", "float32", 64, None, "eager"),
    ("finetune-mnli.k1.s0", "bf16", 16, None, "eager"),
    ("resnet56-adam.sqrt.k1.s0", "tf32", 2048, None, "eager graph"),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 256, None, "eager graph"),
    ("vgg16-adam.sqrt.k1.s0", "tf32", 2048, None, "eager graph"),
    ("vgg16-adam.sqrt.k1.s0", "bf16", 256, None, "eager"),
    ("resnet56-adam.sqrt.k1.s0", "bf16", 256, None, "eager"),
    ("resnet50-adam.sqrt.k1.s0", "float32", 256, None, "eager"),
    ("resnet50-adam.sqrt.k1.s0", "tf32", 256, None, "eager"),
    ("resnet50-adam.sqrt.k1.s0", "bf16", 256, None, "eager"),
    ("imagenet-adam.sqrt.k1.s0", "float32", 256, 256, "eager"),
)
# What an H100 should reach, in images or tokens per second: 3 and 1.5 times, and twice, what eager gave there.
GOALS = {
    ("cifar10-resnet56", "tf32", 128, "graph"): 3 * 5380,
    ("cifar10-vgg16", "tf32", 128, "graph"): 1.5 * 20_190,
    ("wikitext103-gpt2", "bf16", 64, "compile"): 300_000,
    ("wikibooks-roberta", "bf16", 64, "compile"): 120_000,
}


def images():
    """Random images of CIFAR-10's form."""
    sizes = {"train": 20_000, "test": 1_000}
    tensors = {f"{k}-images": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8) for k, n in sizes.items()}
    return tensors | {f"{k}-labels": torch.randint(0, 10, (n,), dtype=torch.uint8) for k, n in sizes.items()}


def texts(name):
    """Random tokens, and a tokenizer of as many as the real one."""
    gpt = name == "wikitext103-gpt2"
    count = 50_257 if gpt else 50_265
    places = {50_256: "<|endoftext|>"} if gpt else {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 50_264: "<mask>"}
    known = Tokenizer(models.BPE({places.get(n, f"token {n}"): n for n in range(count)}, [])).to_str()
    tensors = {"tokenizer": torch.frombuffer(bytearray(known.encode()), dtype=torch.uint8)}
    if not name.startswith("glue"):
        return tensors | {
            f"{split}-tokens": torch.randint(4, 50_000, (2_000_000,)) for split in ("train", "validation")
        }
    for split in ("train", "test"):
        index = torch.arange(0, 129 * 513, 129)  # texts as long as the network takes, each with its end
        tensors |= {f"glue-{split}": torch.randint(4, 50_000, (int(index[-1]),)), f"glue-{split}-index": index}
        tensors[f"glue-{split}-labels"] = torch.arange(512) % 3
    return tensors


def workload_of(name, device):
    """Return the workload called ``name`` on synthetic data."""
    entry, options = workload_named(name), {}
    if entry.data == "imagenet":
        tensors, _ = photographs(512)
        options = {"folder": Path(), "workers": entry.workers - 1}
    else:
        tensors = images() if entry.kind == "vision" else texts(name)
    return import_module(entry.module).load(name, tensors, device=device, **options)


def seconds(function, steps, device):
    """Seconds of ``steps`` calls, the device's work included."""
    begun = time.perf_counter()
    for _ in range(steps):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measured(spec, workload, device):
    """Return the table's row for ``spec``; if its engine is eager, our steps and bare ones are interleaved."""
    begun = time.perf_counter()
    ours = Run(spec, workload)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds(lambda: ours.advance(1), 5, device)
    start = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    took = seconds(lambda: ours.advance(1), 4, device) / 4
    chunk = min(max(1, round(SECONDS / took)), max(1, CHUNK // ours.drawn))  # no more than a run draws at once
    repeats = max(1, round(SECONDS / took / chunk))
    contestants = {"ours": (lambda: ours.advance(chunk), repeats)}
    if spec.engine == "eager":
        contestants["bare"] = (bare(spec, workload), repeats * chunk)
    for function, _ in contestants.values():
        seconds(function, 2, device)
    rounds = [
        {name: seconds(function, steps, device) for name, (function, steps) in contestants.items()}
        for _ in range(ROUNDS)
    ]
    drawn = repeats * chunk * ours.drawn
    rate, bare_rate = (
        drawn / statistics.median(r[name] for r in rounds) if name in contestants else math.nan
        for name in ("ours", "bare")
    )
    decoding = math.nan
    if workload.streamed:
        steps = 16  # more than are decoded ahead
        decoding = steps * ours.drawn / seconds(lambda: [list(step) for step in ours._prefetched(steps)], 1, device)
    ours.close()
    known = next((d for d in cost.DEVICES.values() if d.model in provenance(device)["device"]), None)
    share = cost.BACKWARD * counted(spec.workload).profile.flops / known.peak[spec.precision] if known else math.nan
    return {
        "device": provenance(device)["device"],
        "torch": torch.__version__,
        "workload": spec.workload,
        "precision": spec.precision,
        "engine": spec.engine,
        "batch_size": spec.batch_size,
        "micro_batch": spec.micro_batch,
        "ell": spec.ell,
        "examples_per_second": rate,
        "decoded_per_second": decoding,
        "start_seconds": start,
        "step_over_bare": bare_rate / rate,
        "share_of_peak": rate * share,
        "bare_share_of_peak": bare_rate * share,
        "peak_gigabytes": peak / 1e9,
        "expected_gigabytes": cost.cost_of(spec, "h100").memory / 1e9,
    }


def bare(spec, workload):
    """Return a function that takes a step on a fixed batch."""
    run = Run(spec, workload)
    batch = workload.gather(*run.sampler.draw(run.drawn))
    passes = list(zip(*(part.split(run.examples) for part in batch), strict=True))
    return lambda: run._take(passes)


def told(rows, lengths):
    """The rows as text: examples or tokens per second, beside eager's and the goals."""
    eager = {(r["workload"], r["precision"], r["batch_size"], r["ell"]): r["examples_per_second"]
             for r in rows if r["engine"] == "eager"}  # fmt: skip
    lines = [("workload", "precision", "batch", "ell", "engine", "per second", "unit", "of eager", "goal on an H100")]
    for r in rows:
        key = r["workload"], r["precision"], r["batch_size"]
        unit, length = ("tokens", lengths[key[0]]) if key[0] in lengths else ("examples", 1)
        goal = GOALS.get((*key, r["engine"]))
        rate, ratio = r["examples_per_second"], r["examples_per_second"] / eager.get((*key, r["ell"]), math.nan)
        lines.append((
            key[0], key[1], str(key[2]), f"{r['ell']:g}", r["engine"], f"{length * rate:,.0f}", unit, f"{ratio:.2f}",
            f"{goal:,.0f}" if goal else "",
        ))  # fmt: skip
    return text_table(lines)


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
    """Yield rows of runs that differ in nothing but their precision or engine, three seeds each."""
    configs = [ROOT / f"workflow/config/{name}.yaml" for name in ("gpu", "fashion")]
    epoch = 480 * 128
    spec = plan(merged(configs)).runs["vgg16-adam.sqrt.k1.s0"]
    spec = changed(spec, spec.batch_size, samples=epoch, evaluate=[epoch // 16, epoch // 4, epoch], schedule={})
    prepare("fashion-mnist", root)
    workload = load_workload(spec.workload, root, device=device)
    ways = [("float32", "eager"), ("tf32", "eager"), ("tf32", "graph"), ("tf32", "compile"), ("bf16", "eager")]
    for seed in range(3):
        for precision, engine in ways:
            own = {"samples": epoch, "evaluate": list(spec.evaluate), "seed": seed, "precision": precision}
            spec = changed(spec, spec.batch_size, **own, engine=engine, device=device.type)
            prepare_torch(device, spec.precision)
            rows, facts = train(spec, workload)
            for _, step, _, metric, value in [*rows, (None, rows[-1][1], None, "seconds", facts["seconds"])]:
                if not metric.startswith("speed"):
                    yield {"way": f"{precision} {engine}", "seed": seed, "step": step, "metric": metric, "value": value}


def main():
    begun = time.monotonic()
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path)
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the script out")
    options.add_argument("--only", default="", help="part of a run's name, precision and engine")
    options.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no case begins")
    options.add_argument("--trajectories", action="store_true", help="also whole epochs, in two minutes more")
    options.add_argument("--data", type=Path, default=ROOT / "results/data")
    options = options.parse_args()
    warnings.simplefilter("ignore", ScalingWarning)
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --device cpu tries the script out")
    facts = {**provenance(device), "products": products(device)}
    print(json.dumps(facts), flush=True)
    paper = plan(read_document(ROOT / "workflow/config/paper.yaml")).runs
    rows, lengths, name, workload = [], {}, None, None
    for run, precision, size, micro, engine in ((*case[:4], engine) for case in CASES for engine in case[4].split()):
        title = f"{run} {precision} {engine}"
        if options.only not in title or (device.type == "cpu" and (precision == "tf32" or engine == "graph")):
            continue
        if time.monotonic() - begun > options.limit:
            print(f"left out after {options.limit:g} s: {title} at batch size {size}")
            continue
        own = {"processes": 1, "micro_batch": micro, "precision": precision, "engine": engine, "device": device.type}
        spec = changed(paper[run], size, **own)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if spec.workload != name:
            name, workload = spec.workload, None
            workload = workload_of(name, device)
            lengths |= {name: workload.length} if hasattr(workload, "length") else {}
        prepare_torch(device, spec.precision)
        rows.append(measured(spec, workload, device))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.out / "steps.csv", index=False, float_format="%.4g")
            (options.out / "device.json").write_text(json.dumps(facts, indent=2) + "\n")
    if not rows:
        sys.exit(f"--only {options.only!r} --limit {options.limit:g}: leaves no case out of {len(CASES)}")
    print(told(rows, lengths))
    if not options.trajectories:
        return
    rows = pd.DataFrame(trajectories(options.data, device))
    ends = rows[rows["step"] == rows["step"].max()]
    print(ends.pivot_table(index=["metric", "seed"], columns="way", values="value").to_string())
    if options.out:
        rows.to_csv(options.out / "precision.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
