"""claims/lag.py: runs that lag as predicted, or not."""

from adasde.analysis.claims.evaluation import evaluate_claims


def verdicts(table):
    found = evaluate_claims(table)
    return {row.id.partition(".")[0]: row for row in found.itertuples() if row.id.startswith("prediction")}


def test_runs_that_slow_down_as_predicted_reproduce_the_claims(lagging):
    found = verdicts(lagging(kappas=(1, 2, 4, 8, 16)))
    assert {row.verdict for row in found.values()} == {"reproduced"}
    # Predictions that are equal at all times share ranks, which bounds the correlation by sqrt(1 - 1 / 4^2).
    assert 0.94 < found["prediction-rank"].value < 0.97
    assert found["prediction-error"].value < 0.01
    assert "k16 0.60 0.6" in found["prediction-error"].note


def test_runs_that_do_not_slow_down_refute_them(lagging):
    found = verdicts(lagging(true={2: 0.75, 4: 0.98, 16: 0.999}))
    assert {row.verdict for row in found.values()} == {"not reproduced"}


def test_one_seed_and_few_batch_sizes(lagging):
    assert {row.verdict for row in verdicts(lagging(seeds=1)).values()} == {"inconclusive"}
    assert verdicts(lagging(kappas=(1, 4))) == {}
