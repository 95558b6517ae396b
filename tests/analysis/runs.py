"""Run files of experiments whose answer is known."""

import math

import numpy as np

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import evaluate_claims
from conftest import changed, save_run

METRICS = {
    "train_loss": 0.3,
    "test_loss": 0.4,
    "test_accuracy": 0.88,
    "squared_norm": 200.0,
    "gradient_norm": 0.5,
}
NOISE = {"noise_trace": 100.0, "squared_gradient": 0.2, **{f"speed_k{k}": 0.9 for k in (2, 4, 16, 64)}}
FAITHFUL = {("sqrt", 1): 0.0, ("sqrt", 2): 0.0, ("sqrt", 4): 0.0, ("linear", 4): 0.3, ("none", 4): -0.001}
WITH_SVAG = {**FAITHFUL, ("svag", 2): 0.0, ("svag", 4): 0.2}
OPTIONS = [{}, {"seeds": 1}, {"diverged": [("sqrt", 1, 0), ("sqrt-no-eps", 4, 1)]}]  # of a scale with an ablation


def write_runs(folder, spec, effects, seeds=3, noise=0.01, diverged=(), metrics=METRICS, device="x", stream=0):
    """Write run files of one experiment and return their paths.

    Each metric is its constant, times 1 + effect of (rule, level), plus noise from the random stream of that number.
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
                    value = constant * (1 + effect + noise * random.normal())
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


def language_runs(folder, spec, experiment, effects):
    """Write run files of an experiment on a language model, and return their table."""
    own = changed(spec, task="wiki-gpt2", experiment=experiment)
    metrics = {"train_loss": 6.0, "log_perplexity": 6.0, "squared_norm": 700.0}
    return collected(write_runs(folder, own, effects, metrics=metrics))


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
            yield name, step, float(time), f"speed_k{k}", speed
