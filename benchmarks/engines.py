"""What torch.compile changes on a CPU, in speed and in rounding: last part of `make bench`.

step     a compiled training step / an eager one, interleaved, in seconds of the core
compile  seconds of a core, with the compiler's, until a run's first compiled step, from an empty cache of code
others   the largest relative difference of each metric over 200 steps of two runs that differ in their engine only

`--out FILE` writes the table as CSV; that of this repository is docs/engines.csv.
"""

import argparse
import math
import os
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

from adasde.experiments.artifacts import device_name
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import keep_memory, train
from adasde.training.run import Run
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import load_workload
from training import ROOT, changed, mini, ratio

STEPS, EVERY = 200, 20
ROUNDS = 9
ROUND = 1.0  # seconds that each contestant takes in a round, about
CASES = (("fashion-cnn", 32), ("fashion-resnet", 32), ("wiki-gpt2", 8), ("wiki-roberta", 8))
HELD_OUT = {"log_perplexity": "held-out loss", "test_loss": "held-out loss"}  # by what it is in each workload


def speed(spec, workload):
    """Seconds of the first compiled step, and the ratio of compiled steps to eager ones."""
    runs = {engine: Run(changed(spec, spec.batch_size, engine=engine), workload) for engine in ("eager", "compile")}
    first = core_seconds(lambda: runs["compile"].advance(1))
    runs["eager"].advance(1)
    steps = math.ceil(ROUND / max(core_seconds(lambda run=run: run.advance(20)) / 20 for run in runs.values()))
    rounds = [
        {engine: core_seconds(lambda run=run: run.advance(steps)) for engine, run in runs.items()}
        for _ in range(ROUNDS)
    ]
    return first, ratio(rounds, "compile", "eager")


def core_seconds(function):
    """Seconds of a core, which other processes do not lengthen as they do those of the clock."""

    def taken():
        times = os.times()  # of the compiler's processes only to 10 ms
        return time.process_time() + times.children_user + times.children_system

    begun = taken()
    function()
    return taken() - begun


def differences(spec, workload):
    """The largest relative difference of every metric."""
    samples = STEPS * spec.batch_size
    length = {"samples": samples, "evaluate": [*range(EVERY * spec.batch_size, samples + 1, EVERY * spec.batch_size)]}
    tables = []
    for engine in ("eager", "compile"):
        rows, _ = train(changed(spec, spec.batch_size, **length, engine=engine), workload)
        tables.append(pd.Series({(HELD_OUT.get(metric, metric), step): value for _, step, _, metric, value in rows}))
    eager, compiled = tables
    return ((compiled - eager).abs() / eager.abs()).groupby(level=0).max().to_dict()


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path)
    options.add_argument("--data", type=Path, default=ROOT / "results/data")
    options = options.parse_args()
    keep_memory()
    warnings.simplefilter("ignore", ScalingWarning)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for data in ("fashion-mnist", "wiki-mini"):
        prepare(data, options.data)
    print(f"\n{device_name()}, torch {torch.__version__}, one thread; medians of {ROUNDS} interleaved rounds")
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name, size in CASES:
            spec, workload = changed(mini(name), size), load_workload(name, options.data)
            first, found = speed(spec, workload)
            rows.append({"workload": name, "batch": size, "step": found, "compile": f"{first:.0f} s"})
            rows[-1] |= {metric: f"{value:.0e}" for metric, value in sorted(differences(spec, workload).items())}
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).fillna("")
    print(table.to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
