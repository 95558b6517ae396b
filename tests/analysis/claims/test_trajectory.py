"""claims/trajectory.py: SVAG against the plain run, and trajectories from where noise dominates."""

import numpy as np

from adasde.analysis.claims.evaluation import evaluate_claims
from analysis.runs import FAITHFUL, METRICS, WITH_SVAG, collected, judged
from conftest import changed, save_run

LANGUAGE = {"train_loss": 5.5, "log_perplexity": 5.5, "squared_norm": 900.0, "noise_trace": 100.0}


def test_svag_is_judged_against_the_plain_run_and_changes_no_other_claim(trajectories):
    options = {"seeds": 10, "noise": 1e-3}
    found, table = judged(trajectories(WITH_SVAG, **options))
    own = {k: v for k, v in found.items() if k.startswith("svag.")}
    assert own == {f"svag.fashion-cnn-adam.{metric}": "not reproduced" for metric in METRICS}
    row = table[table["id"] == "svag.fashion-cnn-adam.test_loss"].iloc[0]
    assert row["place"] == "SVAG"
    assert row["note"].startswith("l2 ")
    assert ", l4 " in row["note"]
    rest = evaluate_claims(trajectories(FAITHFUL, **options))
    assert set(found) - set(own) == set(rest["id"])
    found, _ = judged(trajectories({**WITH_SVAG, ("svag", 4): 0.0}, **options))
    assert {v for k, v in found.items() if k.startswith("svag.")} == {"reproduced"}
    found, _ = judged(trajectories(WITH_SVAG, **options, diverged=[("svag", 4, 1)]))
    assert {v for k, v in found.items() if k.startswith("svag.")} == {"not reproduced"}
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"


def test_an_experiment_of_svag_alone_makes_no_other_claim(trajectories):
    found, _ = judged(trajectories({("sqrt", 1): 0.0, ("svag", 2): 0.0}))
    assert set(found) == {f"svag.fashion-cnn-adam.{metric}" for metric in METRICS}


def test_the_trajectory_counts_from_where_noise_dominates(tmp_path, spec):
    """kappa 4 starts far off while its signal is above its noise, kappa 16 never gets below it."""
    random = np.random.default_rng(0)
    paths = []
    for kappa in (1, 4, 16):
        for seed in range(6):
            run = f"lm.sqrt.k{kappa}.s{seed}"
            rows = []
            for point in range(1, 9):
                step, time = 64 * point // kappa, 1e-6 * point
                for metric, constant in LANGUAGE.items():
                    off = 0.5 if metric == "log_perplexity" and kappa > 1 and point < 4 else 0.0
                    rows.append((run, step, time, metric, constant + off + 0.01 * random.normal()))
                # Signal over noise is kappa B |grad f|^2 / tr Sigma = 8 kappa square / 100.
                square = {1: 0.1, 4: 10.0 if point < 4 else 1.0, 16: 10.0}[kappa]
                rows.append((run, step, time, "squared_gradient", square))
            own = {"run": run, "kappa": kappa, "rule": "sqrt", "batch_size": 8 * kappa, "seed": seed}
            paths.append(tmp_path / f"{run}.parquet")
            save_run(paths[-1], rows, changed(spec, task="wiki-gpt2", experiment="lm", **own), seconds=1.0)
    table = collected(paths)
    found, judgements = judged(table)
    assert found["trajectory.lm.log_perplexity"] == "not reproduced"
    assert found["trajectory-settled.lm.log_perplexity"] == "reproduced"
    assert found["final-perplexity.lm"] == "reproduced"
    note = judgements.set_index("id").loc["trajectory-settled.lm.log_perplexity", "note"]
    assert "k4 from epoch" in note
    assert "k16 never" in note
    never = table.assign(value=table["value"].where(table["metric"] != "squared_gradient", 99.0))
    assert judged(never)[0]["trajectory-settled.lm.log_perplexity"] == "inconclusive"
