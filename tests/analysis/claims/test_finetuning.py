"""claims/finetuning.py: fine-tunings of several models, whose means are known."""

import pytest

from analysis.runs import judged


def test_fine_tunings_are_judged_by_their_models(tuned):
    found, table = judged(tuned)
    rows = table.set_index("id")
    kept = rows.loc["finetuning.tuned.k4"]
    assert (kept["n"], kept["verdict"]) == (2, "reproduced")  # pairs of models that are equal
    assert kept["value"] == pytest.approx(0.0)
    worth = rows.loc["pretraining.tuned"]
    assert worth["value"] == pytest.approx(0.35 - 0.01)  # (0.25 + 0.45) / 2 less the scratch runs'
    assert worth["verdict"] == "undecided"  # two models apart by 0.2
    better = tuned.assign(value=tuned["value"] + 4.0 * (tuned["rule"] == "finetune"))
    assert judged(better)[0]["pretraining.tuned"] == "reproduced"
    worse = tuned.assign(value=tuned["value"] - 0.1 * ((tuned["rule"] == "finetune") & (tuned["kappa"] == 4)))
    assert judged(worse)[0]["finetuning.tuned.k4"] == "not reproduced"
    lost = tuned.drop_duplicates("run").assign(metric="diverged", value=1.0)
    assert judged(lost)[0]["finetuning.tuned.k4"] == "not reproduced"
    assert set(table["kind"]) == {"finetune"}


def test_models_that_are_not_the_same_are_not_compared(tuned):
    lost = tuned[~((tuned["kappa"] == 4) == tuned["parent"].str.endswith("s0"))]
    _, claims = judged(lost)
    claims = claims.set_index("id")
    assert claims.loc["finetuning.tuned.k4", ["verdict", "note", "n"]].tolist() == [
        "undecided",
        "no model in common",
        0,
    ]
