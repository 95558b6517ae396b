"""cells.py: claims cell by cell, the words on where a rule ends, and the map as a table."""

import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.cells import (
    MOST_ROWS,
    OUTSIDE,
    UNDECIDED,
    WITHIN,
    cells_of,
    forecast_limit,
    judged,
    limit,
    map_rows,
    map_table,
)  # fmt: skip
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.forecast import forecast_from, make_forecast
from analysis.runs import CURVES, PARTS, SPEEDS, table
from conftest import changed, save_run

EFFECTS = {
    ("sqrt", 1): 0.0,
    ("sqrt", 4): 0.1,
    ("sqrt", 16): 1.0,
    ("sqrt", 64): 3.0,
    ("none", 16): 5.0,
    ("svag", 2): 0.2,
}


def forecast_to(kappa, experiment="a"):
    """A forecast in which the lag is 10% at ``kappa`` and linear in its logarithm."""
    time, curves = 2.0 * PARTS, {name: np.array([2.0 * PARTS, curve]) for name, curve in CURVES.items()}
    for k in (2, 4, 8, 16, 32, 64, 256):
        speed = np.full(len(time), max(0.01, 1 - 0.1 * np.log2(k) / np.log2(kappa)))
        curves[f"speed_k{k}"] = np.array([time, speed])
        curves[f"persistent_speed_k{k}"] = np.array([time[1:], speed[1:]])
    return forecast_from(experiment, "scratch", 8, curves)


def claims(effects=EFFECTS, **options):
    return evaluate_claims(table(effects, **options), forecasts={"a": forecast_to(8.0)} if not options else None)


def test_a_cell_is_its_largest_gap_in_tolerances_and_all_verdicts_together():
    found = cells_of(claims()).set_index(["rule", "level"])
    assert found.loc[("sqrt", 4), "verdict"] == WITHIN
    assert found.loc[("sqrt", 16), "verdict"] == UNDECIDED
    assert found.loc[("sqrt", 64), "verdict"] == OUTSIDE
    assert found.loc[("sqrt", 64), "gap"] == pytest.approx(3.0, abs=0.5)
    assert (found["low"] <= found["gap"]).all()
    assert (found["gap"] <= found["high"]).all()
    assert found["forecast"].to_dict() == {
        ("sqrt", 4): "holds", ("sqrt", 16): "breaks", ("sqrt", 64): "breaks", ("svag", 2): "", ("none", 16): "",
    }  # fmt: skip


def test_a_rival_is_outside_where_its_claim_to_leave_is_reproduced():
    made = claims()
    assert made.loc[made["rule"] == "none", "verdict"].tolist() == [WITHIN]
    assert cells_of(made).set_index("rule").loc["none", "verdict"] == OUTSIDE


def test_runs_that_diverge_are_infinitely_far_and_a_lost_baseline_leaves_nothing_known():
    found = cells_of(claims(diverged=[("sqrt", 4, 0), ("none", 16, 1)])).set_index(["rule", "level"])
    for cell in (("sqrt", 4), ("none", 16)):
        assert (found.loc[cell, "gap"], found.loc[cell, "verdict"]) == (np.inf, OUTSIDE)
    lost = cells_of(claims(diverged=[("sqrt", 1, 0)]))
    assert lost["gap"].isna().all()
    assert set(lost["verdict"]) == {UNDECIDED}


def test_words_on_where_a_rule_ends():
    made = claims()
    assert (
        limit(made, "rule", 8) == "within the tolerance up to batch 32, undecided at 128, outside the tolerance at 512"
    )
    assert limit(made, "svag", name="ell") == "within the tolerance up to ell 2"
    late = made[(made["level"] != 64) | (made["metric"] == "lag")]
    assert limit(late, "rule", 8).endswith("outside the tolerance at 512 (by its lag)")
    one = made[(made["level"] != 64) | (made["metric"] == "lag")].assign(verdict="undecided")
    assert limit(one, "rule", 8) == "undecided at batch 32, 128, and at 512 (by its lag)"
    all_out = claims({("sqrt", 1): 0.0, ("sqrt", 4): 5.0})
    assert limit(all_out, "rule", 8) == "outside the tolerance at batch 32"
    assert forecast_limit(made, 8) == "noise forecasts its end at batch 64"
    assert forecast_limit(all_out[all_out["claim"] == "rule"], 8) == ""


def test_forecasts_are_made_anew_from_the_baseline(tmp_path, spec):
    """The same as those of the files of the runs, to the last bit of a mean."""
    random, paths = np.random.default_rng(0), []
    for seed in range(3):
        own = {"run": f"a.sqrt.k1.s{seed}", "kappa": 1, "seed": seed, "experiment": "a", "batch_size": 32}
        own |= {"samples": 2 * 6144, "evaluate": [6144, 2 * 6144]}
        rows = []
        for step in (0, 192, 384):
            speeds = {f"speed_k{k}": speed + 0.01 * random.normal() for k, speed in SPEEDS.items()}
            speeds |= {f"persistent_{name}": value for name, value in speeds.items() if step}
            values = {"train_loss": 2.0 - step / 384, "test_accuracy": 0.5, "squared_norm": 9.0} | speeds
            rows += [(own["run"], step, step / 192, metric, value) for metric, value in values.items()]
        paths.append(tmp_path / f"{seed}.parquet")
        save_run(paths[-1], rows, changed(spec, **own))
    larger = {"run": "a.sqrt.k4.s0", "kappa": 4, "seed": 0, "experiment": "a", "batch_size": 128}
    larger |= {"samples": 2 * 6144, "evaluate": [6144, 2 * 6144], "noise": []}
    rows = [(larger["run"], 48 * n, n / 2, "train_loss", 2.0 - n / 4) for n in (0, 2, 4)]
    path = tmp_path / "larger.parquet"
    save_run(
        path, [(*row[:3], metric, value) for row in rows for metric, value in _all(row[4])], changed(spec, **larger)
    )
    made = judged(tables.collect([*paths, path])[0])
    told = make_forecast(paths)
    row = made[(made["claim"] == "forecast") & (made["experiment"] == "a")].iloc[0]
    assert row["level"] == pytest.approx(told.safe_kappa, rel=1e-12)
    assert set(made.loc[made["claim"] == "rule", "forecast"]) == {"holds" if told.holds(4) else "breaks"}


def _all(loss):
    return {"train_loss": loss, "test_accuracy": 0.5, "squared_norm": 9.0}.items()


def scale():
    """Claims on an experiment from scratch, its branches and SVAG's, and a second one."""
    parts = [
        table(EFFECTS, experiment="cnn"),
        table({("sqrt", 1): 0.0, ("sqrt", 4): 0.1, ("none", 16): 0.0}, "branch", experiment="branch-cnn"),
        table({("sqrt", 1): 0.0, ("svag", 4): 0.1}, "branch", experiment="svag-branch-cnn"),
    ]
    return evaluate_claims(pd.concat(parts), forecasts={"cnn": forecast_to(8.0, "cnn")})


def test_svag_stands_beside_the_rule_and_other_rules_below():
    rows = map_rows(scale())
    assert [(row.group.split(":")[0], row.name) for row in rows] == [
        ("from scratch", "cnn"), ("branches", "cnn"), ("other rules", "none"),
    ]  # fmt: skip
    assert set(rows[0].fields) == {("kappa", 4), ("kappa", 16), ("kappa", 64), ("ell", 2)}
    assert set(rows[1].fields) == {("kappa", 4), ("ell", 4)}
    none = rows[2].fields["kappa", 16]
    assert (none.outside, none.cells, none.verdict) == (1, 2, UNDECIDED)
    assert none.text.endswith("(1/2 ✗)")


def test_the_map_as_a_table():
    lines = map_table(scale()).splitlines()
    assert lines[0] == "|  | kappa 4 | kappa 16 | kappa 64 | ell 2 | ell 4 |"
    assert lines[2].startswith("| from scratch: cnn | 0.")
    assert " ✓ | *" in lines[2]  # kappa 16 is forecast to break
    assert lines[3].startswith("| branch: cnn | ")
    assert lines[4].startswith("| other rule: none |  | ")
    assert lines[5] == ""
    assert lines[6].startswith("A number is the largest gap")


def test_the_table_ends_at_thirty_rows_and_says_so():
    made = scale()
    many = pd.concat([made.assign(experiment=made["experiment"] + str(number)) for number in range(20)])
    text = map_table(many)
    assert text.count("\n| ") - 1 == MOST_ROWS
    assert "The figure has 11 more rows." in text
