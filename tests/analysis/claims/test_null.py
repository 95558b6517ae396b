"""claims/null.py: equal runs in place of two batch sizes."""

import numpy as np

from adasde.analysis.claims.null import null_test, null_verdicts
from analysis.runs import table


def test_equal_runs_are_never_called_different_and_shown_equal_if_the_spread_is_small():
    random, trials = np.random.default_rng(0), 500
    values = 0.4 + random.normal(size=(40, 1)) + 0.3 * random.normal(size=(40, 6))
    small, large = (null_verdicts(scale * values, 1.0, 5, trials) for scale in (0.1, 2.0))
    assert small["reproduced"] == trials
    assert large["reproduced"] < 0.05 * trials
    assert large["not reproduced"] <= (0.025 + 3 * (0.025 * 0.975 / trials) ** 0.5) * trials
    assert sum(large.values()) == trials


def test_every_test_function_of_an_experiment_is_tried():
    found = null_test(table({("sqrt", 1): 0}, seeds=12, noise=0.05), "a", n=5)
    assert found["metric"].tolist() == ["train_loss", "test_loss", "test_accuracy", "lag"]
    assert (found["reproduced"] == 20).all()
    assert (found["not reproduced"] == 0).all()
