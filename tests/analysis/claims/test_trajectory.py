"""claims/trajectory.py: the rule, its relatives and SVAG on runs whose gaps are known."""

import numpy as np
import pytest

from analysis.runs import CURVES, LANGUAGE, judged, table

SCRATCH = [metric for metric in CURVES if metric != "squared_norm"]


def verdicts(found, start):
    return {name.removeprefix(start): verdict for name, verdict in found.items() if name.startswith(start)}


def test_one_claim_per_level_and_test_function():
    found, claims = judged(table({("sqrt", 1): 0, ("sqrt", 4): 0.2, ("sqrt", 16): 2.0}))
    assert verdicts(found, "rule.a.k4.") == dict.fromkeys([*SCRATCH, "lag"], "reproduced")
    assert verdicts(found, "rule.a.k16.") == dict.fromkeys([*SCRATCH, "lag"], "not reproduced")
    rows = claims.set_index("id")
    row = rows.loc["rule.a.k16.train_loss"]
    assert row["value"] == pytest.approx(0.2, abs=0.01)  # 2 tolerances of 5% of a decrease of 2 nats
    assert row["low"] < row["value"] < row["high"]
    assert (row["n"], row["figure"], row["kind"], row["level"]) == (8, "scaling-a", "scratch", 16)
    assert rows["power"].min() > 0.9
    assert rows["seeds_needed"].isna().all()
    # The loss falls by 2 nats over the run, from a later start of 8 points, so 0.2 nats are a tenth of the run behind.
    assert rows.loc["rule.a.k16.lag", "value"] > 0.1


def test_a_branch_counts_from_its_start_with_the_norm_and_without_the_lag():
    found, claims = judged(table({("sqrt", 1): 0, ("sqrt", 4): 0.2, ("sqrt", 16): -2.0}, "branch"))
    assert verdicts(found, "rule.a.k4.") == dict.fromkeys(CURVES, "reproduced")
    assert verdicts(found, "rule.a.k16.") == dict.fromkeys(CURVES, "not reproduced")
    assert set(claims["figure"]) == {"branch-a"}
    assert claims["from_tenth"].isna().all()
    norm = claims.set_index("id").loc["rule.a.k16.squared_norm"]
    assert norm["value"] == pytest.approx(10, abs=0.6)  # 2 times 10% of a growth of 50


def test_the_best_rival_of_a_branch_widens_the_tolerance_of_losses():
    effects = {("sqrt", 1): 0, ("sqrt", 4): 2.0, ("none", 4): 6.0, ("linear", 4): 9.0, ("half-life", 4): 1.0}
    found, claims = judged(table(effects, "branch", noise=0.01))
    assert verdicts(found, "rule.a.k4.") == {
        "train_loss": "reproduced", "test_loss": "reproduced",  # below half of 6
        "test_accuracy": "not reproduced", "squared_norm": "not reproduced",
    }  # fmt: skip
    row = claims.set_index("id").loc["rule.a.k4.train_loss"]
    assert row["tolerance"] == pytest.approx(0.6, rel=0.05)
    assert row["reason"].startswith("half the gap of the best rival, none")


def test_a_rival_that_did_not_run_counts_by_the_largest_kappa_below():
    """Rivals leave the baseline further at larger kappa: one that ran at more of them must not loosen a tolerance."""
    levels = {("sqrt", level): 0.0 for level in (1, 2, 4, 8, 16, 64)} | {("svag", 8): 0.0}
    rivals = {("none", 4): 6.0, ("none", 8): 12.0, ("none", 16): 24.0, ("linear", 4): 4.0, ("linear", 16): 40.0}
    found = judged(table(levels | rivals, "branch", noise=0.01))[1].set_index("id")
    tolerances = [found.loc[f"rule.a.k{level}.train_loss", "tolerance"] for level in (2, 4, 8, 16, 64)]
    assert tolerances == pytest.approx([0.2, 0.4, 0.4, 2.4, 2.4], rel=0.05)
    assert found.loc["svag.a.l8.train_loss", "tolerance"] == pytest.approx(2.4, rel=0.05)


def test_shared_noise_is_paired_away_but_not_for_svag():
    effects = {("sqrt", 1): 0, ("sqrt", 4): 0, ("svag", 2): 0, ("half-life", 4): 0}
    found, claims = judged(table(effects, common=2.0, noise=0.02))
    assert set(verdicts(found, "rule.").values()) == {"reproduced"}
    assert set(verdicts(found, "relative.").values()) == {"reproduced"}
    own = claims[claims["claim"] == "svag"]
    assert set(own["verdict"]) == {"undecided"}
    assert own["metric"].tolist() == SCRATCH
    assert (own["seeds_needed"] > 8).all()
    assert own["power"].max() < 0.1
    assert judged(table(effects, noise=0.05))[0]["svag.a.l2.train_loss"] == "reproduced"


def test_single_seeds_decide_nothing():
    found, claims = judged(table({("sqrt", 1): 0, ("sqrt", 4): 5.0, ("svag", 2): 0, ("none", 4): 9.0}, seeds=1))
    assert set(found.values()) == {"undecided"}
    assert np.isfinite(claims["value"]).all()
    assert claims[["power", "seeds_needed"]].isna().all().all()


def test_a_diverged_run_fails_its_level_and_a_diverged_baseline_decides_nothing():
    effects = {("sqrt", 1): 0, ("sqrt", 4): 0, ("sqrt", 16): 0}
    found, claims = judged(table(effects, diverged=[("sqrt", 16, 1)]))
    assert set(verdicts(found, "rule.a.k4.").values()) == {"reproduced"}
    assert set(verdicts(found, "rule.a.k16.").values()) == {"not reproduced"}
    assert claims.set_index("id").loc["rule.a.k16.train_loss", "note"] == "a.sqrt.16.s1 diverged"
    found, claims = judged(table(effects, diverged=[("sqrt", 1, 1)]))
    assert set(found.values()) == {"undecided"}
    assert claims["note"].unique().tolist() == ["the baseline diverged: a.sqrt.1.s1"]


def test_language_models_are_judged_by_their_perplexity():
    found, claims = judged(table({("sqrt", 1): 0, ("sqrt", 4): 0.5}, curves=LANGUAGE))
    assert found == dict.fromkeys(
        [f"rule.a.k4.{metric}" for metric in ("train_loss", "log_perplexity", "lag")], "reproduced"
    )
    assert claims.set_index("id").loc["rule.a.k4.log_perplexity", "tolerance"] == 0.13


def test_no_lag_where_the_learning_rate_changes():
    runs = table({("sqrt", 1): 0, ("sqrt", 4): 0})
    assert "rule.a.k4.lag" in judged(runs)[0]
    assert "rule.a.k4.lag" not in judged(runs.assign(time=runs["time"] ** 2))[0]


def test_the_value_from_a_tenth_of_the_run_is_beside_it():
    """The gap is large at an eighth of the run, which the window leaves out."""
    runs = table({("sqrt", 1): 0, ("sqrt", 4): 0}, noise=0.01)
    early = (runs["kappa"] == 4) & (runs["time"] == 0.25) & (runs["metric"] == "train_loss")
    row = judged(runs.assign(value=runs["value"] + 0.5 * early))[1].set_index("id").loc["rule.a.k4.train_loss"]
    assert row["verdict"] == "reproduced"
    assert row["from_tenth"] == pytest.approx(0.5, abs=0.01)
    assert row["value"] < 0.01
