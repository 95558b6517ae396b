"""Run files of experiments whose answer is known."""

import math

import numpy as np
import pandas as pd

from adasde.analysis import tables
from adasde.analysis.claims.base import LOSSES
from adasde.analysis.claims.evaluation import evaluate_claims
from conftest import changed, save_run

METRICS = {
    "train_loss": 0.3,
    "test_loss": 0.4,
    "test_accuracy": 0.88,
    "squared_norm": 200.0,
    "gradient_norm": 0.5,
}
NOISE = {
    "noise_trace": 100.0,
    "squared_gradient": 0.2,
    **{f"{name}_k{k}": 0.9 for name in ("speed", "persistent_speed") for k in (2, 4, 16, 64)},
}
FAITHFUL = {("sqrt", 1): 0.0, ("sqrt", 2): 0.0, ("sqrt", 4): 0.0, ("linear", 4): 0.3, ("none", 4): -0.001}
WITH_SVAG = {**FAITHFUL, ("svag", 2): 0.0, ("svag", 4): 0.2}


def write_runs(folder, spec, effects, seeds=3, noise=0.01, diverged=(), metrics=METRICS, device="x", stream=0):
    """Write run files of one experiment and return their paths.

    Each metric is its constant, times 1 + effect of (rule, level), plus noise from the random stream of that number;
    losses fall to it from three times as much.
    """
    random = np.random.default_rng(stream)
    samples = [384 * k for k in range(1, 9)]
    paths = []
    for (rule, level), effect in effects.items():
        kappa, ell = (1, level) if rule == "svag" else (level, 1)
        for seed in range(seeds):
            name = f"{spec.experiment}.{rule}.{'l' if rule == 'svag' else 'k'}{level:g}.s{seed}"
            own = {"run": name, "rule": rule, "kappa": kappa, "ell": ell, "batch_size": int(32 * kappa), "seed": seed}
            rows = []
            for n in samples:
                step, time = int(n * ell**2 / (32 * kappa)), n * 1e-8
                if (rule, level, seed) in diverged and n > samples[3]:
                    rows.append((name, step, time, "diverged", 1.0))
                    break
                for metric, constant in metrics.items():
                    fall = 2 * (1 - n / samples[-1]) if metric in LOSSES else 0.0
                    value = constant * (1 + fall + effect + noise * random.normal())
                    rows.append((name, step, time, metric, value))
            paths.append(folder / f"{name}.parquet")
            own |= {"samples": samples[-1], "evaluate": samples[-1:]}
            save_run(paths[-1], rows, changed(spec, **own), seconds=1.0, device=device)
    return paths


def judged(trajectories):
    """The verdicts by id, and the table of claims."""
    table = evaluate_claims(trajectories)
    return dict(zip(table["id"], table["verdict"], strict=True)), table


def collected(paths):
    """The table of trajectories of run files."""
    return tables.collect(paths)[0]


PARTS = np.linspace(0.0, 1.0, 9)  # of a run, at which `table` has points
CURVES = {
    "train_loss": 0.3 + 2.0 * (1 - PARTS),
    "test_loss": 0.5 + 1.6 * (1 - PARTS),
    "test_accuracy": 0.9 - 0.6 * (1 - PARTS),
    "squared_norm": 100.0 + 50.0 * PARTS,
}
LANGUAGE = {"train_loss": 4.0 + 4.0 * (1 - PARTS), "log_perplexity": 4.1 + 4.0 * (1 - PARTS)}


def unit(metric, kind, curve):
    """What a claim tolerates, if no rival is near."""
    change = abs(curve[-1] - curve[0])
    share = {"scratch": 0.05, "branch": 0.1}[kind] * change
    return {"test_accuracy": 0.03, "log_perplexity": min(0.13, share if kind == "branch" else 0.13)}.get(metric, share)


def table(
    effects, kind="scratch", seeds=8, noise=0.05, common=0.0, experiment="a", diverged=(), curves=CURVES, stream=0
):
    """A table of trajectories, in which each (rule, level) or (rule, level, second moment) has a gap in tolerances.

    The gap grows over the first quarter of the run. ``noise`` is that of a run's whole trajectory and of its points,
    in tolerances, beside what all runs of a seed have in ``common``.
    """
    random, rows = np.random.default_rng(stream), []
    shared = common * random.normal(size=(seeds, len(curves), len(PARTS)))
    for (rule, level, *moment), effect in effects.items():
        for seed in range(seeds):
            own = {"rule": rule, "kappa": 1.0, "ell": 1.0, "seed": seed, "second_moment": (moment or ["transport"])[0]}
            own["ell" if rule == "svag" else "kappa"] = float(level)
            own |= {"run": f"{experiment}.{rule}.{level:g}.s{seed}", "batch_size": int(8 * own["kappa"])}
            spread = noise * (random.normal(size=(len(curves), 1)) + random.normal(size=(len(curves), len(PARTS))))
            last = 4 if (rule, level, seed) in diverged else len(PARTS)
            for place, part in enumerate(PARTS[:last]):
                where = own | {"step": place * 10, "time": 2.0 * part, "samples": place * 80, "epoch": 4.0 * part}
                for number, (metric, curve) in enumerate(curves.items()):
                    gap = effect * min(1.0, 4 * part) + (part > 0) * (spread + shared[seed])[number, place]
                    rows.append(where | {"metric": metric, "value": curve[place] + gap * unit(metric, kind, curve)})
            if last < len(PARTS):
                where |= {"step": last * 10, "time": 2.0 * PARTS[last], "samples": last * 80}
                rows.append(where | {"metric": "diverged", "value": 1.0})
    fixed = {"experiment": experiment, "kind": kind, "parent": "", "optimizer": "adam", "workload": "fashion-cnn"}
    return pd.DataFrame(rows).assign(**fixed)


TIME = np.linspace(0.0, 2.0, 9)
SPEEDS = {2: 0.9, 4: 0.7, 8: 0.55, 16: 0.4}  # predicted by the baseline, constant in time


def lagging_rows(name, kappa, random, true, noise):
    """Rows of a run whose loss falls at the speed ``true`` of its kappa."""
    size = int(32 * kappa)
    for time in TIME:
        step = round(time * 6144 / size)
        loss = 2.0 * math.exp(-true.get(kappa, 1.0) * time + (noise * random.normal() if time else 0.0))
        yield name, step, float(time), "train_loss", loss
        for k, speed in SPEEDS.items():
            yield name, step, float(time), f"speed_k{k}", speed / 2
            if time:
                yield name, step, float(time), f"persistent_speed_k{k}", speed
