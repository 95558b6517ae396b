"""claims/base.py: what follows from an interval and a tolerance, and gaps in words."""

import numpy as np
import pytest

from adasde.analysis.claims.base import natural, row, verdict


@pytest.mark.parametrize(
    ("low", "high", "below", "wanted"),
    [
        (1, 2, True, "reproduced"),
        (4, 5, True, "not reproduced"),
        (1, 5, True, "undecided"),
        (4, 5, False, "reproduced"),
        (1, 2, False, "not reproduced"),
        (1, 5, False, "undecided"),
        (np.nan, np.nan, True, "undecided"),
        (np.inf, np.inf, False, "reproduced"),
    ],
)
def test_verdicts(low, high, below, wanted):
    assert verdict(low, high, 3, below) == wanted


WORDS = {name: name for name in ("claim", "about", "place", "statement", "statistic", "reason")}


@pytest.mark.parametrize(("below", "wanted"), [(True, (np.inf, "not reproduced")), (False, (1.0, "undecided"))])
def test_a_diverged_run_fails_a_claim_about_smallness(below, wanted):
    found = row(**WORDS, value=1.0, bounds=(0.0, 2.0), n=3, tolerance=1.0, below=below, diverged=["a.s0", "a.s1"])
    assert (found.value, found.verdict) == wanted
    assert found.note == "a.s0, a.s1 diverged"


def test_only_undecided_rows_need_seeds():
    shared = {**WORDS, "value": 1.0, "n": 3, "tolerance": 1.5, "seeds_needed": 9.0}
    assert row(**shared, bounds=(0.0, 2.0)).seeds_needed == 9.0
    assert np.isnan(row(**shared, bounds=(0.0, 1.2)).seeds_needed)
    assert row(**shared, bounds=(0.0, 1.2)).id == "claim.about"


def test_gaps_are_said_in_their_own_unit():
    shown = {"test_accuracy": "1.2 points", "train_loss": "0.012 nats", "squared_norm": "0.012", "lag": "1.2%"}
    assert {metric: natural(metric, 0.0123) for metric in shown} == shown
