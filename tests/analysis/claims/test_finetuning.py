"""claims/finetuning.py: fine-tunings of several models, whose means are known."""

import pytest

from adasde.analysis.claims.evaluation import evaluate_claims


def test_fine_tunings_are_judged_by_their_models(tuned):
    row = evaluate_claims(tuned).iloc[0]
    assert (row["id"], row["n"]) == ("finetuning.tuned", 2)
    assert row["value"] == pytest.approx(0.0)
    worth = evaluate_claims(tuned).set_index("id").loc["pretraining.tuned"]
    assert worth["value"] == pytest.approx(0.35 - 0.01)  # (0.25 + 0.45) / 2 less the scratch runs'
    assert worth["verdict"] == "inconclusive"  # two models apart by 0.2
    better = tuned.assign(value=tuned["value"] + 2.0 * (tuned["rule"] == "finetune"))
    assert evaluate_claims(better).set_index("id").loc["pretraining.tuned", "verdict"] == "reproduced"
    lost = tuned.drop_duplicates("run").assign(metric="diverged", value=1.0)
    assert evaluate_claims(lost).set_index("id").loc["finetuning.tuned", "verdict"] == "not reproduced"
