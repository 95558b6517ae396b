"""claims/forecasts.py: the forecast held against verdicts that are known."""

import numpy as np
import pandas as pd
import pytest

from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.forecasts import cell_verdicts, reach
from adasde.analysis.forecast import Forecast
from adasde.common import InputError
from analysis.runs import CURVES, PARTS, table

HOLDS, FAILS = 0.1, 4.0
LEVELS = (4, 16, 64)


def forecast_to(kappa, experiment="a", kind="scratch"):
    """A forecast in which the lag is 10% at ``kappa`` and linear in its logarithm."""
    speeds = {k: np.full(9, 1 - 0.1 * np.log2(k) / np.log2(kappa)) for k in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)}
    time = 2.0 * PARTS
    speeds = {k: np.maximum(v, 0.01) for k, v in speeds.items()}
    return Forecast(experiment, kind, 8, time, speeds, speeds, time, CURVES)


def runs(*effects, **options):
    levels = {("sqrt", level): effect for level, effect in zip(LEVELS, effects, strict=True)}
    return table({("sqrt", 1): 0.0, **levels}, **options)


def judged(trajectories, **forecasts):
    claims = evaluate_claims(trajectories, forecasts=forecasts)
    return claims.set_index("id")


@pytest.mark.parametrize(
    ("kappa", "wanted"),
    [(8.0, "reproduced"), (4.0, "reproduced"), (32.0, "reproduced"), (1.9, "not reproduced"), (40.0, "not reproduced")],
)
def test_the_end_of_the_rule_is_forecast_within_a_factor_of_two_or_not(kappa, wanted):
    """It holds at 4 and fails at 16: anything from 2 to 32 is right within a factor of 2."""
    found = judged(runs(HOLDS, FAILS, FAILS), a=forecast_to(kappa)).loc["forecast.a"]
    assert found["verdict"] == wanted
    assert f"forecast {kappa:.3g}, found from 4 to 16" in found["note"]
    assert found["level"] == pytest.approx(kappa)


def test_cells_that_are_undecided_leave_the_end_open():
    options = {"seeds": 2, "noise": 0.3}
    trajectories = runs(HOLDS, 1.0, FAILS, **options)
    verdicts = cell_verdicts(evaluate_claims(trajectories)).set_index("level")["verdict"]
    assert verdicts[16] == "undecided"
    close, far = (judged(trajectories, a=forecast_to(kappa)).loc["forecast.a"] for kappa in (8.0, 200.0))
    assert close["low"] <= close["high"]
    assert far["verdict"] == "not reproduced"


def test_where_nothing_fails_the_end_is_beyond_and_where_nothing_holds_before():
    cells = pd.DataFrame({"level": [4.0, 16.0], "verdict": ["reproduced", "reproduced"]})
    assert reach(cells) == (16.0, np.inf)
    assert reach(cells.assign(verdict="not reproduced")) == (1.0, 4.0)
    assert reach(cells.assign(verdict="undecided")) == (1.0, np.inf)
    assert reach(cells.assign(verdict=["not reproduced", "reproduced"])) == (1.0, 4.0)


def test_all_cells_are_counted():
    a, b = runs(HOLDS, FAILS, FAILS), runs(HOLDS, HOLDS, FAILS, experiment="b", kind="branch")
    found = judged(pd.concat([a, b]), a=forecast_to(8.0), b=forecast_to(8.0, "b", "branch"))
    cells = found.loc["forecast.cells"]
    assert (cells["value"], cells["n"]) == (5 / 6, 6)
    assert cells["low"] < 5 / 6 < cells["high"]
    assert cells["verdict"] == "undecided"  # 5 of 6 coins do fall alike
    assert cells["note"].startswith("5 of 6 agree, 0 undecided; one end of the rule for all experiments")
    assert "chosen afterwards, would be right in 5" in cells["note"]
    assert cells["note"].endswith("wrong: b k16 (breaks, found reproduced)")
    rule = found[found["claim"] == "rule"]
    assert rule.groupby("level")["forecast"].unique().map(list).to_dict() == {
        4: ["holds"],
        16: ["breaks"],
        64: ["breaks"],
    }


def test_without_forecasts_there_is_no_word_of_them():
    found = judged(runs(HOLDS, FAILS, FAILS))
    assert set(found["forecast"]) == {""}
    assert "forecast" not in set(found["claim"])


def test_a_kappa_that_was_not_forecast_is_refused():
    with pytest.raises(InputError, match="a: no forecast for kappa = 512"):
        judged(table({("sqrt", 1): 0.0, ("sqrt", 512): 0.0}), a=forecast_to(8.0))
