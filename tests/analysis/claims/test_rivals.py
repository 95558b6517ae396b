"""claims/rivals.py: rules that leave the baseline, and one that does not."""

import numpy as np
import pytest

from analysis.runs import judged, table

EFFECTS = {("sqrt", 1): 0, ("sqrt", 4): 0, ("none", 4): 4.0, ("lr-only", 4): 0.0, ("linear", 4): 1.0}


def rows_of(*arguments, **options):
    claims = judged(table(*arguments, **options))[1].set_index("id")
    return claims[claims["claim"] == "rival"]


def test_a_rival_is_told_by_its_largest_gap_in_tolerances():
    rows = rows_of(EFFECTS)
    assert rows["verdict"].to_dict() == {
        "rival.a.none.k4": "reproduced", "rival.a.linear.k4": "undecided", "rival.a.lr-only.k4": "not reproduced",
    }  # fmt: skip
    none = rows.loc["rival.a.none.k4"]
    assert abs(none["value"] - 4) < 0.3
    assert none["note"].startswith("train loss 0.4")
    assert none["note"].endswith("test accuracy 12 points, lag 40%; told from the baseline: yes; from sqrt: yes")
    assert rows.loc["rival.a.lr-only.k4", "note"].endswith("told from the baseline: no; from sqrt: no")
    assert set(rows["figure"]) == {"rules"}
    assert rows.loc["rival.a.linear.k4", "seeds_needed"] > 8


def test_a_second_moment_that_is_not_carried_over_is_a_rival():
    effects = {("sqrt", 1): 0, ("sqrt", 4): 0, ("sqrt", 4, "keep"): 4.0, ("sqrt", 4, "fresh"): 0.2}
    rows = rows_of(effects, "branch")
    assert rows["verdict"].to_dict() == {"rival.a.keep.k4": "reproduced", "rival.a.fresh.k4": "not reproduced"}
    assert rows["rule"].tolist() == ["keep", "fresh"]
    assert set(rows["figure"]) == {"rescale"}


def test_a_rival_that_diverges_leaves_the_baseline():
    rows = rows_of(EFFECTS, diverged=[("none", 4, 0)])
    none = rows.loc["rival.a.none.k4"]
    assert (none["verdict"], none["value"], none["note"]) == ("reproduced", np.inf, "a.none.4.s0 diverged")
    lost = rows_of(EFFECTS, diverged=[("sqrt", 4, 0)])
    assert lost.loc["rival.a.none.k4", "note"].endswith("from sqrt: it diverged")
    assert rows_of({("sqrt", 1): 0, ("none", 4): 4.0})["note"].str.endswith("from sqrt: not run").all()


@pytest.mark.slow
def test_equal_runs_are_seldom_told_apart():
    """All points of all test functions count at once: of equal runs, 2.5% are told from the baseline."""
    trials = 60
    told = [
        "baseline: yes" in rows_of({("sqrt", 1): 0, ("none", 4): 0}, seeds=3, stream=stream)["note"].iloc[0]
        for stream in range(trials)
    ]
    assert np.mean(told) <= 0.025 + 3 * (0.025 * 0.975 / trials) ** 0.5
