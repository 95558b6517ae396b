"""claims/tolerances.py: tolerances and windows by hand."""

import numpy as np
import pytest

from adasde.analysis.claims.tolerances import tolerance, window

FALLING = np.array([3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("metric", "kind", "rival", "wanted", "reason"),
    [
        ("test_accuracy", "scratch", None, 0.03, "figure 18"),
        ("test_accuracy", "branch", None, 0.03, "figure 18"),
        ("lag", "scratch", None, 0.1, "tenth of the time"),
        ("train_loss", "scratch", None, 0.05 * 2, "5% of the baseline's decrease of 2 nats"),
        ("train_loss", "scratch", ("none", 9.0), 0.05 * 2, "5% of the baseline's decrease of 2 nats"),
        ("test_loss", "branch", None, 0.1 * 2, "10% of the baseline's change of 2 nats"),
        ("test_loss", "branch", ("none", 0.3), 0.1 * 2, "10% of the baseline's change"),
        ("test_loss", "branch", ("none", 0.6), 0.3, "half the gap of the best rival, none (0.6 nats"),
        ("log_perplexity", "scratch", None, 0.13, "GPT-2"),
        ("log_perplexity", "branch", ("linear", 0.6), 0.13, "GPT-2"),
        ("squared_norm", "branch", ("linear", 0.6), 0.2, "10% of the baseline's change of -2"),
    ],
)
def test_what_is_tolerated_and_why(metric, kind, rival, wanted, reason):
    found = tolerance(metric, kind, FALLING, rival)
    assert found.value == pytest.approx(wanted)
    assert reason in found.reason


def test_a_small_change_in_a_branch_binds_the_perplexity_too():
    assert tolerance("log_perplexity", "branch", 0.1 * FALLING).value == pytest.approx(0.02)
    assert tolerance("train_loss", "branch", -FALLING).value == pytest.approx(0.2)  # noise may make it rise
    assert tolerance("train_loss", "scratch", -FALLING).value == 0.0


def test_a_run_from_scratch_counts_from_a_quarter_and_a_branch_at_once():
    time = np.linspace(0.0, 1.0, 9)
    assert window(time, "scratch").tolist() == [False] * 2 + [True] * 7
    assert window(time, "scratch", 0.1).tolist() == [False] + [True] * 8
    assert window(time, "branch").tolist() == [False] + [True] * 8
