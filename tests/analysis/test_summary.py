"""summary.py: five lines whose numbers are known."""

import pandas as pd

from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.report import read_claims, write_claims
from adasde.analysis.summary import five_lines
from analysis.claims.test_forecasts import FAILS, HOLDS, forecast_to
from analysis.claims.test_weak_error import svag, weak
from analysis.runs import table

EFFECTS = {
    ("sqrt", 1): 0.0, ("sqrt", 4): HOLDS, ("sqrt", 16): FAILS,
    ("svag", 2): HOLDS, ("none", 4): FAILS, ("linear", 4): 0.0,
}  # fmt: skip


def claims(**options):
    simulations = pd.concat([weak(1.0), svag(2.0)])
    return evaluate_claims(table(EFFECTS, **options), simulations, {"a": forecast_to(8.0)})


def test_five_lines_answer_whether_the_paper_replicates(tmp_path):
    found = claims()
    theorems, inside, beyond, ell, rivals = five_lines(found)
    assert theorems.startswith("**Theorems, simulated:** 2 of 2 claims reproduced, 0 not, 0 undecided; the order")
    assert "forecasts that it holds** (1 cell, kappa 4): 4 of 4 claims reproduced, 0 not, 0 undecided" in inside
    assert "; gaps up to 0.01" in inside
    assert beyond.startswith("**The rule beyond that** (1 cell, kappa 16): 0 of 4 claims reproduced, 4 not")
    assert "and 12 points." in beyond
    assert "It is shown to fail in 1 of 1 experiment, first at kappa 16 in 1." in beyond
    assert "right in 2 of 2 decided cells. It lies within a factor of 2 of the end of the rule in 1 of 1 ex" in beyond
    late = found[(found["level"] != 16) | (found["metric"] == "lag")]
    assert "first at kappa 16 in 1, there by the lag only in 1." in five_lines(late)[2]
    endless = five_lines(found[found["level"] != 16])[2]
    assert "It is shown to fail in none of 1 experiment." in endless
    assert "of how far the rule is shown to hold in 1 of 1 experiments in which none was." in endless
    assert "(ell 2 to 2): 3 of 3 claims reproduced" in ell
    assert "of 2 cells, 1 leaves the baseline by more than the tolerance and 1 differs from it" in rivals
    assert "median gap in tolerances: linear 0.0" in rivals
    write_claims(found, tmp_path / "claims.csv")
    assert five_lines(read_claims(tmp_path / "claims.csv")) == [theorems, inside, beyond, ell, rivals]


def test_divergence_and_missing_parts_are_said():
    lines = five_lines(evaluate_claims(table(EFFECTS, diverged=[("sqrt", 16, 0), ("none", 4, 1)])))
    assert lines[0] == "**Theorems, simulated:** nothing was tried."
    assert lines[1].startswith("**The square-root rule, without a forecast:** 4 of 8 claims reproduced")
    assert lines[1].endswith("; runs diverged in 4 claims.")
    assert lines[2].startswith("**The rule beyond that**: nothing was tried.")
    assert "none infinite." in lines[4]
