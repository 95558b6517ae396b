"""What `rescale` makes of a change of batch in mid-training, `BatchRamp` of a schedule, `InvariantAdam` of a batch.

Four minutes on one core.

cnn     the small CNN after 30,000 examples: length of the first step after the change / lr, with the second moment
        carried over and with it kept; right is sqrt(kappa) times the length before
frozen  gradients of a fixed mean with normal noise, which hardly move the weights: length of the first step after the
        change / its right length, by optimizer, kappa, and signal over noise of the smaller batch
ramp    the CNN trained on 60,000 examples from batch 32, learning rate halved three times, or the batch doubled instead
invariant  the CNN from scratch, base batch 32, two learning rates, three seeds: train loss less that of the base batch,
        by the square root and by invariant Adam, with its standard error

`--out FOLDER` keeps the tables. Those of our machine are in results/reference/rescale.
"""

import argparse
import copy
from pathlib import Path

import pandas as pd
import torch
from torch.optim import Adam, AdamW, NAdam, RMSprop

from adasde.experiments.plan import plan
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.scaling.ramp import BatchRamp
from adasde.scaling.rescale import rescale
from adasde.training.loop import keep_memory, train
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import load_workload

ROOT = Path(__file__).parents[1]
MODES = ("transport", "keep")
CHANGES = ((8, 128, 0.9975), (128, 8, 0.96), (8, 32, 0.9975))  # batch size, the next one, both betas
OPTIMIZERS = {
    "Adam": lambda weights, beta: Adam(weights, 1e-9, (beta, beta), 1e-12),
    "AdamW": lambda weights, beta: AdamW(weights, 1e-9, (beta, beta), 1e-12, weight_decay=0.0),
    "NAdam": lambda weights, beta: NAdam(weights, 1e-9, (beta, beta), 1e-12),
    "RMSprop": lambda weights, beta: RMSprop(weights, 1e-9, beta, 1e-12),
}
MILESTONES = (20_000, 35_000, 50_000)


def moved(weights, step):
    """Return the length of a step."""
    before = [weight.detach().clone() for weight in weights]
    step()
    return (
        sum((weight.detach() - old).square().sum() for weight, old in zip(weights, before, strict=True)).sqrt().item()
    )


class Training:
    """The CNN, its optimizer, and its examples, which are drawn anew."""

    def __init__(self, workload, lr, betas, seed):
        torch.manual_seed(0)
        self.workload, self.model = workload, workload.model().train()
        self.optimizer = Adam(self.model.parameters(), lr, betas)
        self.stream = torch.Generator().manual_seed(seed)

    def step(self, batch_size):
        places = torch.randint(self.workload.size, (batch_size,), generator=self.stream)
        self.optimizer.zero_grad()
        self.workload.loss(self.model, *self.workload.gather(places)).backward()
        self.optimizer.step()

    def length(self, batch_size, seed, steps):
        """Return the mean length of the next steps over the learning rate."""
        self.stream.manual_seed(seed)
        weights = list(self.model.parameters())
        lengths = [moved(weights, lambda: self.step(batch_size)) for _ in range(steps)]
        return sum(lengths) / steps / self.optimizer.param_groups[0]["lr"]


def cnn(workload):
    rows = []
    for old, new, beta in CHANGES:
        training = Training(workload, 3.5e-4 * (old / 8) ** 0.5, (beta, beta), seed=1)
        for _ in range(30_000 // old):
            training.step(old)
        before = copy.deepcopy(training).length(old, seed=2, steps=max(4, 64 // old))
        row = {"from": old, "to": new, "right": before * (new / old) ** 0.5}
        for mode in MODES:
            changed = copy.deepcopy(training)
            rescale(changed.optimizer, new / old, second_moment=mode)
            row[mode] = changed.length(new, seed=3, steps=1)
        rows.append(row)
    return pd.DataFrame(rows)


def frozen():
    rows = []
    for name, make in OPTIMIZERS.items():
        for kappa in (16.0, 4.0, 1 / 16):
            for signal in (0.01, 1.0):
                found = {mode: ratio(make, kappa, signal, mode) for mode in MODES}
                rows.append({"optimizer": name, "kappa": kappa, "signal_over_noise": signal, **found})
    return pd.DataFrame(rows)


def ratio(make, kappa, signal, mode):
    """Return the length of the first step after the change over that with v at its mean for the new batch."""
    batch = max(1.0, 1 / kappa)  # the smaller of the two is 1
    weight = torch.nn.Parameter(torch.zeros(10_000, dtype=torch.float64))
    optimizer = make([weight], 1 - 0.0025 * batch)

    def step(optimizer, weight, batch):
        weight.grad = signal**0.5 + torch.randn_like(weight) * batch**-0.5
        optimizer.step()

    torch.manual_seed(0)
    for _ in range(round(2000 / batch)):
        step(optimizer, weight, batch)
    rescale(optimizer, kappa, second_moment=mode)
    pairs = [(optimizer, weight), copy.deepcopy((optimizer, weight))]
    (state,) = pairs[1][0].state.values()
    state.get("exp_avg_sq", state.get("square_avg")).fill_(signal + 1 / (batch * kappa))
    lengths = []
    for own, weights in pairs:
        torch.manual_seed(1)
        lengths.append(moved([weights], lambda own=own, weights=weights: step(own, weights, batch * kappa)))
    return lengths[0] / lengths[1]


def ramp(workload):
    rows = []
    for seed in range(3):
        row = {"seed": seed}
        for kind, largest in (("decay", 32), ("ramp", None)):  # a ramp that may not grow lowers the rate
            training = Training(workload, 7e-4, (0.99, 0.995), seed)
            schedule = BatchRamp(training.optimizer, 32, MILESTONES, largest=largest)
            steps = 0
            while schedule.examples < 60_000:
                training.step(schedule.batch_size)
                schedule.step()
                steps += 1
            measured = workload.measure(training.model, SpeedMeter(32**-0.5, 1e-8))
            row |= {f"{kind}_steps": steps} | {f"{kind}_{name}": measured[name] for name in ("train_loss", "test_loss")}
        rows.append(row)
    return pd.DataFrame(rows)


def invariant(workload):
    tables = []
    for lr in (7e-4, 2e-3):
        found = {}
        for spec in plan(config(lr)).runs.values():
            for _, step, _, metric, value in train(spec, workload)[0]:
                if metric == "train_loss":
                    found.setdefault((spec.rule, spec.kappa, step * spec.batch_size), []).append(value)
        losses = pd.DataFrame(found).agg(["mean", "var"]).T.sort_index()
        base = losses.xs(("sqrt", 1))
        for (rule, kappa), part in losses.groupby(level=(0, 1)):
            if kappa > 1:
                part, base_part = part.loc[rule, kappa], base.loc[part.index.get_level_values(2)]
                gap, error = part["mean"] - base_part["mean"], ((part["var"] + base_part["var"]) / 3) ** 0.5
                columns = {"lr": lr, "rule": rule, "kappa": kappa, "gap": gap, "standard_error": error}
                tables.append(pd.DataFrame(columns).rename_axis("examples").reset_index())
    return pd.concat(tables)


def config(lr):
    """Return the config of the runs by both rules; see `adasde.experiments.config`."""

    def ours(value):
        return {"value": value, "source": "ours"}

    optimizer = {"name": "adam", "lr": ours(lr), "beta1": ours(0.98), "beta2": ours(0.999), "eps": ours(1e-8)}
    experiment = {
        "workload": "fashion-cnn", "optimizer": optimizer, "batch_size": ours(32), "epochs": ours(1.0),
        "sampling": ours("replacement"), "rules": {"sqrt": ours([1, 4, 16]), "invariant": ours([4, 16])},
        "seeds": ours(3), "evaluate": {"count": 8, "every": 512},
    }  # fmt: skip
    return {"scale": "show", "figures": [], "experiments": {"invariant": experiment}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT / "results/data", help="where Fashion-MNIST is or will be")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_memory()
    prepare("fashion-mnist", options.data)
    workload = load_workload("fashion-cnn", options.data, device=torch.device("cpu"))
    tables = {"cnn": cnn(workload), "frozen": frozen(), "ramp": ramp(workload), "invariant": invariant(workload)}
    for name, table in tables.items():
        print(f"{name}\n{table.to_string(index=False, float_format='%.4g')}\n", flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
