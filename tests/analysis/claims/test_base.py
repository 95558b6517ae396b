"""claims/base.py: what follows from an interval and a threshold."""

import numpy as np
import pytest

from adasde.analysis.claims.base import COLUMNS, row, verdict


@pytest.mark.parametrize(
    ("low", "high", "below", "wanted"),
    [
        (1, 2, True, "reproduced"),
        (4, 5, True, "not reproduced"),
        (1, 5, True, "inconclusive"),
        (4, 5, False, "reproduced"),
        (1, 2, False, "not reproduced"),
        (1, 5, False, "inconclusive"),
        (np.nan, np.nan, True, "inconclusive"),
        (np.inf, np.inf, False, "reproduced"),
    ],
)
def test_verdicts(low, high, below, wanted):
    assert verdict(low, high, 3, below) == wanted


@pytest.mark.parametrize(("below", "wanted"), [(True, (np.inf, "not reproduced")), (False, (1.0, "inconclusive"))])
def test_a_diverged_run_fails_a_claim_about_smallness(below, wanted):
    words = {name: name for name in ("id", "place", "statement", "statistic", "reason")}
    found = row(**words, value=1.0, bounds=(0.0, 2.0), n=3, threshold=1.0, below=below, diverged=["a.s0", "a.s1"])
    assert (found["value"], found["verdict"]) == wanted
    assert found["note"] == "a.s0, a.s1 diverged"
    assert set(found) == set(COLUMNS)
