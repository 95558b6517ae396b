"""Where the rule keeps the loss and not the norm: in which weights the norm grows, and how a larger batch slows that.

A minute on one core, after a graph has made the states of overnight. The gradient g and its variance over minibatches
are measured at the branch point of each experiment, on minibatches of the branch's baseline. Per unit of time a weight
drifts by g / sqrt(kappa g^2 + variance), times a constant (the paper's warm-up problem, section 4.1). So the drift of
the squared norm at kappa, relative to that at 1, follows from the baseline alone. The norm also grows by the weights'
random motion, which the rule keeps, and which is left out.

drift    that ratio by experiment and kappa, for the norm, and for the loss
tensors  by experiment and tensor: its share of the norm's drift, and its mean signal over noise

`--out FOLDER` keeps the tables. Those of our machine are in results/reference/norm-drift.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch

from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.scaling.rules import ScalingWarning
from adasde.training.branching import branch_off, read_state
from adasde.training.run import Run
from adasde.workloads.registry import load_workload

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("branch-gpt2-adam", "branch-gpt2-adam-decayed", "branch-roberta-adam", "branch-roberta-adam-decayed")
KAPPAS = (4, 8, 16, 32, 64)
MOST = 5  # tensors of an experiment


def at_the_branch_point(planned, experiment, data, results):
    """Return a run of the experiment's baseline as it begins."""
    spec = planned.runs[f"{experiment}.sqrt.k1.s0"]
    run = Run(spec, load_workload(spec.workload, data))
    state = read_state(results / planned.scale / f"states/{spec.parent.state}.state")
    branch_off(run, planned.runs[spec.parent.run], state)
    return run


def gradients(run, minibatches):
    """Return each tensor's mean gradient, an unbiased estimate of its square, and its variance over minibatches."""
    sums = [[torch.zeros_like(weight, dtype=torch.float64) for weight in run.trained] for _ in range(3)]
    with run.workload.kernels(run.examples):
        for number, batches in enumerate(run._gathered(minibatches)):
            run.model.zero_grad()
            run._backward(batches)
            for weight, total, squares, every_other in zip(run.trained, *sums, strict=True):
                total += weight.grad
                squares += weight.grad.double() ** 2
                every_other += weight.grad * (number % 2)
    half = minibatches // 2
    for total, squares, every_other in zip(*sums, strict=True):
        mean = total / minibatches
        variance = (squares / minibatches - mean**2) * minibatches / (minibatches - 1)
        yield mean, (every_other * (total - every_other) / half**2).clamp(min=0), variance.clamp(min=1e-300)


def drifts(weight, mean, square, variance, kappa):
    """Return how fast the squared norm grows and the loss falls in a tensor at kappa, both in the same unit of time."""
    length = (kappa * square + variance).sqrt()
    return float((-2 * weight.double() * mean / length).sum()), float((square / length).sum())


def main():
    """Measure every experiment, and print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minibatches", type=int, default=2000, help="at every branch point (default %(default)s)")
    parser.add_argument("--data", type=Path, default=ROOT / "results/data")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, help="folder of the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ScalingWarning)  # kappa 64 is there to show where the rule breaks
    planned, drift, tensors = plan(merged([ROOT / "workflow/config/overnight.yaml"])), [], []
    for experiment in EXPERIMENTS:
        run = at_the_branch_point(planned, experiment, options.data, options.results)
        names = [name for name, weight in run.model.named_parameters() if weight.requires_grad]
        parts = []
        for name, weight, found in zip(names, run.trained, gradients(run, options.minibatches), strict=True):
            both = {kappa: drifts(weight.detach(), *found, kappa) for kappa in (1, *KAPPAS)}
            parts.append((name, both, float((found[1] / found[2]).mean())))
        norm, loss = ({k: sum(both[k][which] for _, both, _ in parts) for k in (1, *KAPPAS)} for which in (0, 1))
        drift += [(experiment, k, norm[k] / norm[1], loss[k] / loss[1]) for k in KAPPAS]
        shares = [(experiment, name, both[1][0] / norm[1], signal) for name, both, signal in parts]
        tensors += sorted(shares, key=lambda row: -abs(row[2]))[:MOST]
    found = {
        "drift": pd.DataFrame(drift, columns=["experiment", "kappa", "norm", "loss"]),
        "tensors": pd.DataFrame(tensors, columns=["experiment", "tensor", "share", "signal_over_noise"]),
    }
    for name, table in found.items():
        print(f"{name}\n{table.to_string(index=False, float_format='{:.3g}'.format)}\n")
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()
