"""Tables that several tests of the analysis read."""

import numpy as np
import pytest

from analysis.runs import SPEEDS, collected, lagging_rows, write_runs
from conftest import changed, save_run


@pytest.fixture
def trajectories(tmp_path, spec):
    """Make the table of an experiment from effects and the options of write_runs."""
    return lambda effects, **options: collected(write_runs(tmp_path, spec, effects, **options))


@pytest.fixture
def tuned(tmp_path, spec):
    """The table of two fine-tunings of each of two models per kappa, and of two runs from new weights."""
    paths, shared = [], {"workload": "wiki-articles", "experiment": "tuned"}
    for kappa in (1, 4):
        for seed in range(4):
            parent = {"run": f"p.k{kappa}.s{seed // 2}", "spec_hash": "0" * 64}
            own = {"run": f"tuned.k{kappa}.s{seed}", "kappa": kappa, "rule": "finetune", "seed": seed, "parent": parent}
            paths.append(tmp_path / f"{own['run']}.parquet")
            values = [(step, 0.1 * seed + 0.01 * step) for step in (0, 10, 20)]
            rows = [(own["run"], step, step * 1e-3, "test_accuracy", value) for step, value in values]
            save_run(paths[-1], rows, changed(spec, **shared, **own), seconds=1.0)
    for seed in range(2):
        own = {"run": f"tuned.scratch.s{seed}", "rule": "scratch", "seed": seed}
        paths.append(tmp_path / f"scratch{seed}.parquet")
        rows = [(own["run"], step, step * 1e-3, "test_accuracy", 0.02 * seed) for step in (0, 10, 20)]
        save_run(paths[-1], rows, changed(spec, **shared, **own), seconds=1.0)
    return collected(paths)


@pytest.fixture
def lagging(tmp_path, spec):
    """Make the table of an experiment ``fashion-cnn-adam`` whose larger batches lag, by default as predicted."""

    def make(true=SPEEDS, kappas=(1, 2, 4, 16), seeds=3, noise=1e-3):
        random, paths = np.random.default_rng(0), []
        for kappa in kappas:
            for seed in range(seeds):
                name = f"a.sqrt.k{kappa}.s{seed}"
                own = {"run": name, "kappa": kappa, "batch_size": 32 * kappa, "seed": seed}
                own |= {"samples": 2 * 6144, "evaluate": [2 * 6144]}
                paths.append(tmp_path / f"{name}.parquet")
                save_run(paths[-1], list(lagging_rows(name, kappa, random, true, noise)), changed(spec, **own))
        return collected(paths)

    return make
