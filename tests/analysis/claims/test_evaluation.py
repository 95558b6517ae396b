"""claims/evaluation.py: all claims of a scale, on runs whose answer is known."""

import matplotlib.pyplot as plt
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.base import COLUMNS
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.figures.registry import plot_figure
from analysis.runs import FAITHFUL, METRICS, WITH_SVAG, judged
from conftest import ROOT

KINDS = {
    "final-accuracy", "final-accuracy-beyond", "final-perplexity", "finetuning", "pretraining", "trajectory",
    "trajectory-settled", "svag", "prediction-rank", "prediction-error", "closeness", "order", "svag-to-sde",
}  # fmt: skip


def test_a_faithful_rule_is_reproduced_and_a_bad_alternative_told_apart(trajectories):
    # Noise far below the tolerance and ten seeds: the intervals are narrow against every threshold.
    found, table = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3))
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"
    assert {v for k, v in found.items() if k.startswith("trajectory.")} == {"reproduced"}
    assert found["closeness.fashion-cnn-adam.linear.k4"] == "reproduced"
    assert len(table) == 1 + len(METRICS) + 2
    assert (table["low"] <= table["high"]).all()
    assert set(table.columns) == set(COLUMNS)
    assert table["reason"].notna().all()
    figures = dict(zip(table["id"], table["figure"], strict=True))
    assert figures["final-accuracy.fashion-cnn-adam"] == "scaling-fashion-cnn-adam"
    assert figures["closeness.fashion-cnn-adam.linear.k4"] == "rules-fashion-cnn"


def test_a_broken_rule_is_not_reproduced(trajectories):
    found, table = judged(trajectories({**FAITHFUL, ("sqrt", 4): 0.2}, noise=1e-3))
    assert found["final-accuracy.fashion-cnn-adam"] == "not reproduced"
    assert {v for k, v in found.items() if k.startswith("trajectory.")} == {"not reproduced"}
    assert found["closeness.fashion-cnn-adam.none.k4"] == "not reproduced"
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert "(outside at the end)" in notes["trajectory.fashion-cnn-adam.test_loss"]


def test_too_much_noise_and_single_seeds_are_inconclusive(trajectories):
    found, _ = judged(trajectories({**FAITHFUL, ("sqrt", 4): 0.02}, noise=0.02))
    assert found["final-accuracy.fashion-cnn-adam"] == "inconclusive"
    single, table = judged(trajectories(FAITHFUL, seeds=1))
    assert set(single.values()) == {"inconclusive"}
    assert set(table["n"]) == {1}


def test_a_diverged_run_fails_its_claims_and_only_those(trajectories):
    found, table = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3, diverged=[("sqrt", 4, 2)]))
    own = {k: v for k, v in found.items() if not k.startswith("closeness.")}
    assert set(own.values()) == {"not reproduced"}
    assert table["note"].str.contains("fashion-cnn-adam.sqrt.k4.s2 diverged").sum() == len(own) + 2
    found, _ = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3, diverged=[("linear", 4, 0)]))
    assert found["closeness.fashion-cnn-adam.linear.k4"] == "reproduced"
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"


def test_kappas_below_one_are_compared_with_the_baseline_too(trajectories):
    effects = {("sqrt", 0.5): 0.1, ("sqrt", 1): 0.0, ("sqrt", 2): 0.0, ("linear", 0.5): 0.3}
    found, table = judged(trajectories(effects, seeds=10, noise=1e-3))
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert notes["trajectory.fashion-cnn-adam.test_loss"].startswith("k0.5 ")
    assert ", k2 " in notes["trajectory.fashion-cnn-adam.test_loss"]
    row = table[table["id"] == "closeness.fashion-cnn-adam.linear.k0.5"].iloc[0]
    assert row["value"] == pytest.approx(3.0, rel=0.1)
    assert row["low"] < row["value"] < row["high"]


def test_where_everything_diverges_every_claim_fails(trajectories):
    table = trajectories(WITH_SVAG)
    lost = table.drop_duplicates("run").assign(metric="diverged", value=1.0)
    found, _ = judged(lost)
    assert len(found) == 1 + 2 * len(METRICS) + 2
    assert set(found.values()) == {"not reproduced"}
    for figure in ("scaling-fashion-cnn-adam", "rules-fashion-cnn", "svag-fashion-cnn-adam"):
        plt.close(plot_figure(figure, lost))


def test_every_claim_names_a_figure_of_the_scale_and_a_reason():
    table = evaluate_claims(*tables.both(ROOT / "results/reference/mini"))
    assert table["reason"].str.len().min() > 5
    drawn = {path.stem for path in (ROOT / "figures/reference/mini").iterdir()}
    assert set(table["figure"]) - {""} <= drawn
    assert {row.id.partition(".")[0] for row in table.itertuples() if not row.figure} == {
        "prediction-rank", "prediction-error",  # of the ablations
    }  # fmt: skip
    assert set(table["id"].str.partition(".")[0]) == KINDS
