"""claims/report.py: the table of claims for people."""

import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.report import claims_summary, renew_claims
from adasde.common import InputError
from analysis.runs import FAITHFUL
from conftest import ROOT

REFERENCE = ROOT / "results/reference/mini"


def test_the_text_ends_with_the_count(trajectories):
    lines = claims_summary(evaluate_claims(trajectories(FAITHFUL))).splitlines()
    assert lines[0].split() == ["claim", "value", "95%", "interval", "n", "threshold", "verdict"]
    assert lines[-1].startswith("8 claims: ")


def test_the_readme_holds_the_claims_of_the_reference_tables(tmp_path):
    readme, copy = ROOT / "README.md", tmp_path / "README.md"
    copy.write_text(readme.read_text())
    table = evaluate_claims(*tables.both(REFERENCE))
    renew_claims(table, copy)
    assert copy.read_text() == readme.read_text(), "stale: run make reference"
    committed = pd.read_csv(REFERENCE / "claims.csv")
    assert committed["verdict"].tolist() == table["verdict"].tolist()
    assert np.allclose(committed[["value", "low", "high"]], table[["value", "low", "high"]])
    (tmp_path / "other.md").write_text("nothing here")
    with pytest.raises(InputError, match="other.md: no place for the claims"):
        renew_claims(table, tmp_path / "other.md")
