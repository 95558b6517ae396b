"""comparison.py: one's own tables against reference ones, where it is known how they differ."""

import numpy as np
import pandas as pd
import pytest

from adasde import cli
from adasde.analysis import comparison, tables
from adasde.analysis.claims import evaluation
from adasde.common import InputError
from analysis.runs import FAITHFUL, write_runs

RUNS = 3 * len(FAITHFUL)


@pytest.fixture
def place(tmp_path, spec):
    """Write the tables of runs into a folder of that name, which is returned."""

    def write(name, effects=FAITHFUL, **options):
        runs = tmp_path / f"{name}-runs"
        runs.mkdir()
        tables.write(tmp_path / name, *tables.collect(write_runs(runs, spec, effects, **options)))
        return tmp_path / name

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    return write


def only(found):
    (row,) = found.experiments.itertuples()
    return row


def test_equal_tables_are_identical(place, capsys):
    here, there = place("here"), place("there")
    row = only(comparison.compare(here, there))
    assert (row.runs, row.identical, row.typical, row.largest) == (RUNS, RUNS, 0.0, 0.0)
    assert cli.main(["compare", str(here), "--reference", str(there)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "scale here against the reference of there: 0 of 15 shared runs have another spec"
    assert out.splitlines()[-1] == "10 of 10 claims have the same verdict, 0 the opposite one"


def test_runs_of_another_spec_are_counted_and_named(place, capsys):
    here, there = place("here"), place("there")
    runs = pd.read_csv(here / "runs.csv")
    other = runs.index[runs["kappa"] == 4]
    runs.loc[other, "lr"] *= 2
    runs.loc[other[0], "samples"] += 1
    extra = runs.iloc[:2].assign(run=["more.s0", "more.s1"])
    pd.concat([runs, extra]).to_csv(here / "runs.csv", index=False)
    found = comparison.compare(here, there)
    assert (found.runs["differs"] != "").sum() == len(other) == 9
    text = comparison.summary(found).splitlines()[0]
    named = ", ".join(runs.loc[other, "run"].iloc[:5])
    assert text == (
        "scale here against the reference of there: 9 of 15 shared runs have another spec (lr, samples): "
        f"{named}, ...; 2 runs are here only"
    )


def test_forecasts_beside_the_tables_are_part_of_the_claims(place, monkeypatch):
    here, there = place("here"), place("there")
    asked = []
    monkeypatch.setattr(evaluation, "read_forecasts", lambda folder: asked.append(folder) or {})
    comparison.compare(here, there)
    assert asked == [here, there]


def test_an_independent_repeat_is_about_one_standard_error_away(place):
    """The mean square of 200 differences, of which 25 are independent over levels and metrics, is near 1."""
    found = comparison.compare(place("here", stream=1, device="y"), place("there", seeds=5))
    row = only(found)
    assert (row.runs, row.identical) == (RUNS, 0)
    assert 0.7 < row.typical < 1.4
    assert not found.strayed
    assert not found.contradicted
    facts = {fact: pair for fact, *pair in found.facts.itertuples(index=False)}
    assert facts["device"] == ["x", "y"]
    assert facts["torch"] == ["unknown", "unknown"]


def test_what_differs_by_more_than_noise_is_named(place, capsys):
    here = place("here", {**FAITHFUL, ("sqrt", 4): 0.5}, noise=1e-3)
    there = place("there", noise=1e-3, seeds=10)
    found = comparison.compare(here, there)
    assert found.strayed == ["fashion-cnn-adam"]
    assert "rule.fashion-cnn-adam.k4.train_loss" in found.contradicted
    assert cli.main(["compare", str(here), "--reference", str(there)]) == 1
    out = capsys.readouterr().out
    assert "more than noise apart: fashion-cnn-adam" in out
    changed = found.verdicts.set_index("id").loc["rule.fashion-cnn-adam.k4.train_loss"]
    assert (changed["reference"], changed["here"]) == ("reproduced", "not reproduced")
    assert changed["difference"] > 3


def test_one_other_value_makes_a_run_another(place):
    here, there = place("here"), place("there")
    trajectories, simulations = (tables.read(here, name) for name in ("trajectories", "simulations"))
    trajectories.loc[7, "value"] += 1e-12
    tables.write(here, trajectories, simulations, pd.read_csv(here / "runs.csv"))
    assert only(comparison.compare(here, there)).identical == RUNS - 1
    tables.write(here, trajectories.iloc[:-1], simulations, pd.read_csv(here / "runs.csv"))
    assert only(comparison.compare(here, there)).identical == RUNS - 2


def test_claims_that_only_one_side_makes_are_absent_on_the_other(place):
    here = place("here", {key: effect for key, effect in FAITHFUL.items() if key[0] == "sqrt"})
    found = comparison.compare(here, place("there")).verdicts.set_index("id")
    assert found.loc["rival.fashion-cnn-adam.linear.k4", "here"] == "absent"
    assert np.isnan(found.loc["rival.fashion-cnn-adam.linear.k4", "difference"])


def test_figures_are_compared_and_plotted(place, tmp_path, capsys):
    here, there = place("here"), place("there", seeds=5)
    figures = comparison.compare(here, there).figures.set_index("figure")
    assert figures.loc["scaling-fashion-cnn-adam", "claims"] == 8
    assert figures.loc["rules", "claims"] == 2
    assert (figures["same"] <= figures["claims"]).all()
    out = tmp_path / "plotted"
    cli.main(["compare", str(here), "--reference", str(there), "--figures", str(out)])
    assert {path.name for path in out.iterdir()} == {"scaling-fashion-cnn-adam.png", "rules.png"}
    text = capsys.readouterr().out
    assert "same verdict" in text
    assert str(out / "rules.png") in text


def test_mistakes_are_one_line(place, tmp_path, spec):
    here = place("here")
    with pytest.raises(InputError, match="reference = .*nowhere: no such folder; name it by --reference"):
        comparison.compare(here, tmp_path / "nowhere")
    trajectories = tables.read(here)
    trajectories["experiment"] = "other"
    other = tmp_path / "there"
    tables.write(other, trajectories, tables.NO_SIMULATIONS, pd.read_csv(here / "runs.csv"))
    with pytest.raises(InputError, match="shares no experiment with"):
        comparison.compare(here, other)
    (here / "runs.csv").unlink()
    with pytest.raises(InputError, match=r"runs.csv: no such file"):
        comparison.compare(here, here)
