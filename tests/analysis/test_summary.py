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
    assert theorems.startswith("**Theorems, simulated.** 2 of 2 claims are reproduced, 0 not reproduced")
    assert "says that it holds (1 cell, kappa 4).** 4 of 4 claims are reproduced" in inside
    assert "Largest gaps: train loss 0.01" in inside
    assert "beyond that (1 cell, kappa 16).** 0 of 4 claims are reproduced, 4 not reproduced" in beyond
    assert "test accuracy 12 points" in beyond
    assert "hold for every test function up to kappa 4 in 1, and first shown to fail at kappa 16 in 1." in beyond
    assert "right within a factor of 2 in 1 of 1 experiment, and whether the rule holds in 2 of 2 decided" in beyond
    assert "up to ell 2.** 3 of 3 claims are reproduced" in ell
    assert "Of 2 runs of another rule at a kappa, 1 leaves the baseline by more than the tolerance" in rivals
    assert "Largest gap in tolerances: linear 0.0" in rivals
    write_claims(found, tmp_path / "claims.csv")
    assert five_lines(read_claims(tmp_path / "claims.csv")) == [theorems, inside, beyond, ell, rivals]


def test_divergence_and_missing_parts_are_said():
    lines = five_lines(evaluate_claims(table(EFFECTS, diverged=[("sqrt", 16, 0), ("none", 4, 1)])))
    assert lines[0] == "**Theorems, simulated.** Nothing was tried."
    assert "with no forecast.** 4 of 8 claims" in lines[1]
    assert "Runs diverged in 4 claims." in lines[1]
    assert lines[2].startswith("**The square-root rule beyond that.** Nothing was tried.")
    assert "none diverges." in lines[4]
