"""claims/weak_error.py and its figures, on tables of simulations whose errors are known."""

import re

import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.weak_error import approach, order
from adasde.analysis.figures.registry import plot_figure
from adasde.experiments.artifacts import SIMULATED

LEVELS = (1 / 64, 1 / 32, 1 / 16)
NOTHING = pd.DataFrame({name: [] for name in tables.COLUMNS["trajectories"]})


def simulated(run, study, oracle, optimizer, process, errors, start=0.0, noise=1e-3, batches=8):
    """Rows of one process and of the SDE whose mean they miss by ``errors`` (level -> error of every function)."""
    random = np.random.default_rng(0)
    rows = []
    for batch in range(batches):
        shared = {name: random.normal() for name in ("loss", "theta")}
        levels = {("sde", 16.0 if study == "convergence" else 1e-3): 0.0}
        levels |= {(process, level): error for level, error in errors.items()}
        for (name, level), error in levels.items():
            for time in (start, 1.0):
                for metric, common in shared.items():
                    value = 1.0 + 0.01 * common + (error + noise * random.normal() if time else 0.0)
                    rows += [(run, name, level, batch, time, metric, value)]
                    rows += [(run, name, level, batch, time, f"{metric}_deviation", 1.0)]
    frame = pd.DataFrame(rows, columns=SIMULATED)
    frame = frame[frame["time"] > 0] if study == "weak-order" else frame
    return frame.assign(simulation="x", study=study, oracle=oracle, optimizer=optimizer)


def weak(power, process="paper", optimizer="adam", **options):
    errors = {level: level**power for level in LEVELS}
    return simulated(f"x.linear.{optimizer}", "weak-order", "linear", optimizer, process, errors, **options)


def svag(power, **options):
    errors = {ell: ell**-power for ell in (1.0, 2.0, 4.0)}
    return simulated("x.softmax.adam", "convergence", "softmax", "adam", "svag", errors, **options)


def only(rows):
    (row,) = rows
    return row


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "reproduced"), (0.5, "not reproduced"), (1.5, "not reproduced")])
def test_order_one_is_told_from_its_neighbours(power, verdict):
    row = only(order(weak(power)))
    assert (row.id, row.verdict, row.n) == ("order.adam", verdict, 8)
    assert f"slope {power:.1f}" in row.note


def test_an_order_drowned_in_noise_is_undecided():
    assert only(order(weak(1.0, noise=0.05))).verdict == "undecided"


def test_variants_are_claims_of_their_own():
    rows = order(pd.concat([weak(1.0, "torch", "rmsprop")]))
    assert [row.id for row in rows] == ["order.rmsprop-torch"]


@pytest.mark.parametrize(("power", "verdict"), [(2.0, "reproduced"), (0.0, "not reproduced"), (0.5, "undecided")])
def test_svag_comes_closer_or_does_not(power, verdict):
    row = only(approach(svag(power, noise=0.02)))
    assert (row.id, row.verdict) == ("svag-to-sde.x.softmax.adam", verdict)
    if power:
        assert float(re.search(r"order ([\d.]+)", row.note)[1]) == pytest.approx(power, abs=0.1)


def test_all_claims_of_a_scale_are_one_table():
    table = evaluate_claims(NOTHING, pd.concat([weak(1.0), svag(2.0)]))
    assert table["id"].tolist() == ["order.adam", "svag-to-sde.x.softmax.adam"]


@pytest.mark.parametrize("batches", [8, 2, 1])
def test_figures_are_plotted_from_few_batches_too(batches):
    for name, simulations in (
        ("weak-order", weak(1.0, batches=batches)),
        ("sde-real-data", svag(2.0, batches=batches)),
    ):
        figure = plot_figure(name, NOTHING, simulations)
        assert figure.get_axes()
        figure.canvas.draw()
