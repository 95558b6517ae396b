"""claims/evaluation.py: the table of all claims of a scale."""

import pandas as pd
import pytest

from adasde.analysis.claims.base import COLUMNS
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.report import claims_summary
from analysis.runs import CURVES, FAITHFUL, METRICS, NOISE, judged, table

EFFECTS = {("sqrt", 1): 0.0, ("sqrt", 4): 0.0, ("none", 4): 4.0, ("half-life", 4): 0.0, ("svag", 2): 0.0}


def test_every_claim_has_a_reason_a_figure_and_its_place_in_the_map():
    claims = evaluate_claims(pd.concat([table(EFFECTS), table(EFFECTS, "branch", experiment="b")]))
    assert tuple(claims) == COLUMNS
    assert claims["id"].is_unique
    assert claims["reason"].str.len().min() > 5
    assert claims.groupby(["claim", "kind"], sort=False)["figure"].unique().map(list).to_dict() == {
        ("rule", "scratch"): ["scaling-a"], ("relative", "scratch"): ["rules"], ("svag", "scratch"): ["svag-a"],
        ("rival", "scratch"): ["rules"], ("rule", "branch"): ["branch-b"], ("relative", "branch"): ["rules"],
        ("svag", "branch"): ["svag-b"], ("rival", "branch"): ["rules"],
    }  # fmt: skip
    assert claims["level"].notna().all()
    assert (claims["low"] <= claims["high"]).all()
    assert (claims["metric"] == "").equals(claims["claim"] == "rival")


def test_run_files_become_claims_and_what_only_the_baseline_measured_is_none(trajectories):
    """Gradient noise is not a test function, even where it was measured at every level."""
    found, claims = judged(trajectories(FAITHFUL, metrics=METRICS | NOISE, seeds=10, noise=1e-3))
    judged_metrics = ["train_loss", "test_loss", "test_accuracy", "lag"]
    assert [name for name in found if name.startswith("rule.")] == [
        f"rule.fashion-cnn-adam.k{level}.{metric}" for level in (2, 4) for metric in judged_metrics
    ]
    assert found["rule.fashion-cnn-adam.k4.test_accuracy"] == "reproduced"
    assert found["rival.fashion-cnn-adam.linear.k4"] == "reproduced"
    assert found["rival.fashion-cnn-adam.none.k4"] == "not reproduced"


def test_an_experiment_of_svag_makes_no_claim_of_the_rule():
    found, _ = judged(table({("sqrt", 1): 0.0, ("svag", 2): 0.0}, experiment="svag-x"))
    assert list(found) == [f"svag.x.l2.{metric}" for metric in CURVES if metric != "squared_norm"]


def test_where_everything_diverges_nothing_is_decided():
    lost = table(EFFECTS).drop_duplicates("run").assign(metric="diverged", value=1.0)
    found, _ = judged(lost)
    assert set(found.values()) == {"undecided"}
    assert {name.partition(".")[0] for name in found} == {"rule", "relative", "svag", "rival"}


@pytest.mark.parametrize(
    ("kept", "note"),
    [
        (lambda runs: (runs["kappa"] > 1) | (runs["rule"] == "svag"), "the baseline is missing"),
        (lambda runs: (runs["kappa"] > 1) == (runs["seed"] > 3), "no seed in common with the baseline"),
    ],
)
@pytest.mark.parametrize("kind", ["scratch", "branch"])
def test_what_cannot_be_compared_is_undecided_and_says_why(kept, note, kind):
    """SVAG is not paired, so it needs no seed in common."""
    runs = table(EFFECTS, kind)
    claims = evaluate_claims(runs[kept(runs)])
    whole = evaluate_claims(runs)
    assert claims["id"].tolist() == whole["id"].tolist()
    lost = claims[(claims["claim"] != "svag") | ("missing" in note)]
    assert set(lost["verdict"]) == {"undecided"}
    assert set(lost["note"]) == {note}
    if "missing" not in note:
        assert claims.loc[claims["claim"] == "svag", "value"].notna().all()
    assert claims_summary(claims)


def test_a_rival_may_share_no_seed_with_the_rule():
    runs = table(EFFECTS)
    runs = runs[~((runs["rule"] == "sqrt") & (runs["kappa"] == 4) & (runs["seed"] > 3))]
    runs = runs[~((runs["rule"] == "none") & (runs["seed"] <= 3))]
    rival = evaluate_claims(runs).set_index("id").loc["rival.a.none.k4"]
    assert rival["verdict"] == "reproduced"
    assert rival["note"].endswith("from sqrt: no seed in common")


def test_without_runs_there_are_no_claims():
    claims = evaluate_claims(table({("sqrt", 1): 0.0}))
    assert (len(claims), claims["value"].dtype) == (0, float)
    assert "0 claims" in claims_summary(claims)
