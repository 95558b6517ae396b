"""What `MicroBatchNoise` measures and what it costs, on the small CNN and on GPT-2: part of `make bench`.

bias   at fixed weights, mean over rounds of its estimate less that of `gradient_noise.measure` on the whole training
       set, +- standard error: noise tr Sigma and |g|^2 in % of theirs, and the predicted speed at kappa 4, 16 and 64
cost   share of a training step's CPU time that it adds, at its default interval and when it measures every step

With --quick it takes a minute instead of ten.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from adasde.experiments.artifacts import device_name
from adasde.scaling import gradient_noise
from adasde.scaling.micro_batches import MicroBatchNoise
from adasde.training.loop import keep_memory
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import load_workload

ROOT = Path(__file__).parents[1]
KAPPAS = (4, 16, 64)
MICRO_BATCHES = 4
# Workload: micro-batch size, learning rate, betas, and steps before the weights are fixed.
CASES = {
    "fashion-cnn": (8, 7e-4, (0.99, 0.999), 1000),
    "wiki-gpt2": (2, 1e-3, (0.98, 0.99), 1000),
}


class Loop:
    """The usual loop of gradient accumulation."""

    def __init__(self, workload, size, lr, betas, seed=0):
        torch.manual_seed(seed)
        self.workload, self.size, self.model = workload, size, workload.model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr, betas, fused=True)
        self.noise = None

    def run(self, steps):
        """Take so many steps on fresh examples."""
        for _ in range(steps):
            for _ in range(MICRO_BATCHES):
                batch = self.workload.gather(torch.randint(self.workload.size, (self.size,)))
                (self.workload.loss(self.model, *batch) / MICRO_BATCHES).backward()
                if self.noise is not None:
                    self.noise.accumulate()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def measure(self, every):
        """Measure from now on."""
        self.noise = MicroBatchNoise(self.optimizer, self.size, every)
        return self.noise


def bias(name, workload, steps, rounds):
    """Print the bias at fixed weights; each round averages over so many steps."""
    size, lr, betas, before = CASES[name]
    loop = Loop(workload, size, lr, betas)
    loop.run(before)
    loop.optimizer.param_groups[0]["lr"] = 0.0  # the weights stay
    shuffled = torch.randperm(workload.size, generator=torch.Generator().manual_seed(1))
    chunks = (workload.gather(part) for part in shuffled.split(50))
    _, truth = gradient_noise.measure(loop.model, workload.loss, chunks)
    sigma, batch_size = (size * MICRO_BATCHES) ** -0.5, size * MICRO_BATCHES
    wanted = truth.speeds(KAPPAS, sigma, 1e-8)
    squared = truth.norm**2  # of the whole training set, so without error
    print(f"{name}: batch {batch_size}, signal over noise {squared * batch_size / truth.trace:.3f}, {rounds} rounds")
    found = {"tr Sigma, %": [], "|g|^2, %": [], **{f"speed at {kappa:g}": [] for kappa in KAPPAS}}
    for _ in range(rounds):
        noise = loop.measure(every=1)
        loop.run(steps)
        noise.remove()
        loop.noise = None
        variances, squares = (sum(gradient_noise.sums(part)) for part in noise.per_weight())
        found["tr Sigma, %"].append(100 * (variances / truth.trace - 1))
        found["|g|^2, %"].append(100 * (squares / squared - 1))
        for kappa, speed in noise.speeds(KAPPAS).items():
            found[f"speed at {kappa:g}"].append(speed - wanted[kappa])
    for quantity, errors in found.items():
        error = statistics.stdev(errors) / rounds**0.5
        true = f" (true {wanted[float(quantity.split()[-1])]:.3f})" if quantity.startswith("speed") else ""
        print(f"  {quantity:14}{statistics.fmean(errors):+9.3f} +- {error:.3f}{true}", flush=True)


def cost(name, workload, rounds):
    """Print the cost as a share of a step, from rounds in which the contestants take turns, in either order."""
    size, lr, betas, _ = CASES[name]
    loops = {every: Loop(workload, size, lr, betas) for every in (None, 16, 1)}
    for every, loop in loops.items():
        if every is not None:
            loop.measure(every)
        loop.run(20)
    seconds = {every: [] for every in loops}
    for number in range(rounds):
        for every, loop in list(loops.items())[:: 1 if number % 2 else -1]:
            begin = time.process_time()
            loop.run(160)  # a row of the history falls into each
            seconds[every].append(time.process_time() - begin)
    for every in (16, 1):
        ratios = sorted(with_it / bare - 1 for with_it, bare in zip(seconds[every], seconds[None], strict=True))
        low, middle, high = (100 * ratios[round(place * (rounds - 1))] for place in (0.25, 0.5, 0.75))
        print(f"  cost, every {every:2}: {middle:+5.1f} % of a step (quartiles {low:+.1f} to {high:+.1f})", flush=True)


def main():
    """Print both for both workloads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT / "results/data")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"\n{device_name()}, one thread; {MICRO_BATCHES} micro-batches per step")
    for name, data in zip(CASES, ("fashion-mnist", "wiki-mini"), strict=True):
        prepare(data, options.data)
        workload = load_workload(name, options.data)
        bias(name, workload, *((100, 4) if options.quick else (1000, 12)))
        cost(name, workload, 4 if options.quick else 16)


if __name__ == "__main__":
    main()
