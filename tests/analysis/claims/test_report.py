"""claims/report.py: the table of claims for people."""

import os
import re

import numpy as np
import pandas as pd
import pytest

from adasde.analysis.claims.evaluation import evaluate_claims, evaluate_scale
from adasde.analysis.claims.report import claims_summary, read_claims, renew_claims, write_claims
from adasde.common import InputError
from analysis.runs import table
from conftest import ROOT

REFERENCE = ROOT / "results/reference"
SCALES = ("mini", "models", "overnight")
EFFECTS = {("sqrt", 1): 0.0, ("sqrt", 4): 0.0, ("sqrt", 16): 1.0}


def test_the_text_ends_with_the_count_and_five_lines():
    text = claims_summary(evaluate_claims(table(EFFECTS))).splitlines()
    assert text[0].split() == [
        "claim", "value", "interval", "n", "tolerance", "power", "seeds", "needed", "forecast", "verdict",
    ]  # fmt: skip
    assert text[-7].startswith("8 claims: 4 reproduced, ")
    assert [line.partition(":")[0] for line in text[-2:]] == ["SVAG, which approaches the SDE", "Other rules"]
    single = claims_summary(evaluate_claims(table(EFFECTS, seeds=1)))
    assert "\n8 claims: 8 undecided\n" in single


def test_undecided_rows_name_the_seeds_that_they_need():
    claims = evaluate_claims(table(EFFECTS, seeds=3, noise=0.5)).set_index("id")
    text = claims_summary(claims.reset_index())
    needed = claims["seeds_needed"].dropna()
    assert len(needed)
    for name, seeds in needed.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert f" {seeds:.0f} " in line
    # A gap of just the tolerance is decided by no number of seeds.
    exact = claims.reset_index().iloc[:1].assign(verdict="undecided", seeds_needed=np.nan, power=0.1)
    assert " >1000 " in claims_summary(exact)


def test_the_csv_keeps_every_digit_and_empty_words(tmp_path):
    claims = evaluate_claims(table({**EFFECTS, ("none", 4): 2.0}))
    write_claims(claims, tmp_path / "claims.csv")
    pd.testing.assert_frame_equal(read_claims(tmp_path / "claims.csv"), claims, check_exact=True)
    with pytest.raises(InputError, match="no such file"):
        read_claims(tmp_path / "other.csv")


def test_the_readme_holds_the_claims_of_the_reference_tables(tmp_path):
    readme, copy = ROOT / "README.md", tmp_path / "README.md"
    copy.write_text(readme.read_text())
    (scale,) = re.findall(r"figures/reference/(\w+)/map.png", readme.read_text())
    claims = read_claims(REFERENCE / scale / "claims.csv")
    renew_claims(claims, copy)
    assert copy.read_text() == readme.read_text(), "stale: run make reference"
    (tmp_path / "other.md").write_text("nothing here")
    with pytest.raises(InputError, match="other.md: no place for the claims"):
        renew_claims(claims, tmp_path / "other.md")


@pytest.mark.parametrize("scale", SCALES)
def test_the_claims_of_the_reference_follow_from_its_tables(scale):
    table, committed = evaluate_scale(REFERENCE / scale), read_claims(REFERENCE / scale / "claims.csv")
    assert committed["id"].tolist() == table["id"].tolist()
    assert committed["verdict"].tolist() == table["verdict"].tolist()
    assert np.allclose(committed[["value", "low", "high"]], table[["value", "low", "high"]], equal_nan=True)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("value", "x", "value = 'x': must be a number"),
        ("verdict", "maybe", "not a table of claims"),
        ("n", None, "not a table of claims"),
    ],
)
def test_a_table_of_claims_that_holds_something_else_is_one_line(column, value, words, tmp_path):
    claims = evaluate_claims(table({("sqrt", 1): 0.0, ("sqrt", 4): 0.0})).astype({column: object})
    claims.loc[0, column] = value
    write_claims(claims, tmp_path / "claims.csv")
    with pytest.raises(InputError, match=f"claims.csv: {words}"):
        read_claims(tmp_path / "claims.csv")


def test_a_readme_that_cannot_be_read_is_one_line(tmp_path):
    claims, path = evaluate_claims(table({("sqrt", 1): 0.0})), tmp_path / "README.md"
    path.write_bytes("<!-- claims -->\n<!-- end of claims -->".encode("utf-16"))
    with pytest.raises(InputError, match="README.md: not text in UTF-8"):
        renew_claims(claims, path)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="README.md: .* bytes; such a file has at most"):
        renew_claims(claims, path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="README.md: is a pipe"):
        renew_claims(claims, path)
