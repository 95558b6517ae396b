"""studies.py, simulate.py, orders.py: from a config's simulations to errors and orders."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from adasde.analysis import statistics, weak_error
from adasde.common import InputError
from adasde.experiments import plan
from adasde.experiments.artifacts import SIMULATED
from adasde.experiments.simulations import PROBLEMS, run_simulation
from adasde.experiments.specs import Simulation, spec_of
from adasde.sde.oracles import Linear
from conftest import changed


def ours(value):
    return {"value": value, "source": "ours"}


WEAK = {
    "study": "weak-order",
    "oracles": ["quadratic"],
    "optimizers": {
        "sgd": {"sigma0": ours(1.0)},
        "rmsprop": {"sigma0": ours(1.0), "eps0": ours(0.1), "c2": ours(2.0)},
        "adam": {"sigma0": ours(1.0), "eps0": ours(0.1), "c1": ours(1.0), "c2": ours(2.0)},
    },
    "theta": ours(1.0),
    "start": ours(0.25),
    "horizon": ours(1.25),
    "step": ours(1 / 256),
    "time_steps": ours([1 / 32, 1 / 16, 1 / 8]),
    "paths": ours(1024),
    "batches": ours(6),
}
DATA = {
    "oracles": ["softmax"],
    "optimizers": {"rmsprop": {"lr": ours(0.05), "beta": ours(0.9), "eps": ours(1e-3)}},
    "batch_size": ours(8),
    "examples": ours(100),
    "scale": ours(0.1),
    "evaluate": ours([2, 4]),
    "paths": ours(6),
    "batches": ours(3),
}
CONVERGENCE = DATA | {
    "study": "convergence",
    "start": ours(2),
    "ell": ours([1, 2]),
    "parts": ours([2, 4]),
    "sde_paths": ours(4),
}
BREAKDOWN = DATA | {"study": "breakdown", "oracles": ["linear", "softmax"], "kappas": ours([1, 2])}


@pytest.fixture
def planned(config):
    def make(**simulations):
        config["simulations"], config["figures"] = copy.deepcopy(simulations), []
        return {run: spec for run, spec in plan.plan(config).runs.items() if isinstance(spec, Simulation)}

    return make


def table(specs, root=None):
    """The table of simulations of several specs."""
    parts = []
    for spec in specs:
        rows, _ = run_simulation(spec, root)
        what = {"simulation": spec.simulation, "study": spec.study, "oracle": spec.oracle}
        parts.append(pd.DataFrame(rows, columns=SIMULATED).assign(**what, optimizer=spec.optimizer.name))
    return pd.concat(parts, ignore_index=True)


def test_a_simulation_is_one_run_per_oracle_and_optimizer(planned):
    runs = planned(weak=WEAK, breakdown=BREAKDOWN)
    assert list(runs) == [
        "weak.quadratic.sgd", "weak.quadratic.rmsprop", "weak.quadratic.adam",
        "breakdown.linear.rmsprop", "breakdown.softmax.rmsprop",
    ]  # fmt: skip
    assert runs["weak.quadratic.sgd"].document["constants"] == {"sigma0": 1.0}
    for spec in runs.values():
        assert spec_of(json.loads(spec.canonical)) == spec


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_the_sde_is_a_weak_approximation_of_order_one(planned, name):
    """The slope's interval excludes the orders 1/2 and 3/2; the coupling makes so few paths enough."""
    run = f"weak.quadratic.{name}"
    errors = weak_error.weak_order(table([planned(weak=WEAK)[run]]), run, "paper")
    assert errors.levels.tolist() == [1 / 32, 1 / 16, 1 / 8]
    slope, drawn = errors.slope()
    low, high = statistics.interval(drawn)
    assert 0.75 < low <= slope <= high < 1.25
    assert (errors.monte_carlo_error < errors.error / 3).all()


def test_all_variants_of_rmsprop_share_the_limit(planned):
    weak = WEAK | {"oracles": ["linear"], "variants": ["paper", "torch", "authors"]}
    weak["optimizers"] = {"rmsprop": WEAK["optimizers"]["rmsprop"]}
    weak["time_steps"] = ours([1 / 64, 1 / 32, 1 / 8])
    simulations = table(planned(weak=weak).values())
    for variant in weak["variants"]:
        errors = weak_error.weak_order(simulations, "weak.linear.rmsprop", variant)
        assert (np.diff(errors.error) > 0).all(), variant
        assert errors.error[0] < errors.error[-1] / 4, variant


def test_hyperparameters_have_the_constants(planned):
    for spec in planned(weak=WEAK).values():
        constants, h = spec.sde_constants, spec.hyperparameters(1 / 64)
        found = h.sde_constants(1.0 / (1 / 64) ** 0.5)
        assert h.time_step == pytest.approx(1 / 64)
        for name in ("sigma0", "eps0", "c1", "c2"):
            assert getattr(found, name) == (getattr(constants, name) and pytest.approx(getattr(constants, name)))


def test_convergence_on_real_data(planned, data_root):
    spec = planned(sde=CONVERGENCE)["sde.softmax.rmsprop"]
    rows, facts = run_simulation(spec, data_root)
    frame = pd.DataFrame(rows, columns=SIMULATED)
    assert frame.groupby(["process", "level"]).ngroups == 4
    assert sorted(frame["time"].unique()) == pytest.approx([0.005, 0.01, 0.015])
    starts = frame[(frame["time"] == frame["time"].min()) & (frame["metric"] == "loss")]
    assert np.ptp(starts["value"]) < 1e-5  # all processes start at one point
    errors = weak_error.convergence(table([spec], data_root), spec.run)
    assert errors.levels.tolist() == [1, 2]
    assert errors.gaps.shape == (3, 2, 6)  # batches, ells, three test functions at two times after the start
    assert facts["peak_bytes"] > 0


def test_integrations_share_their_paths_and_are_extrapolated(planned, data_root):
    """An error of order 1 in the step is gone; the coupling leaves a fraction of the noise of independent paths."""
    spec = planned(sde=CONVERGENCE | {"parts": ours([8, 16])})["sde.softmax.rmsprop"]
    simulations = table([spec], data_root)
    integrations = weak_error.convergence(simulations, spec.run, "sde")
    assert integrations.levels.tolist() == [8, 16]
    assert np.allclose(integrations.gaps[:, 0], 2 * integrations.gaps[:, 1], rtol=1e-6)
    apart = (2 / (spec.sde_paths * spec.batches)) ** 0.5  # noise of the difference of independent paths
    assert integrations.monte_carlo_error[1] < apart / 2
    single = simulations[(simulations["process"] != "sde") | (simulations["level"] == 16)]
    assert weak_error.convergence(single, spec.run, "sde").error.tolist() == [0.0]


def test_breakdown_predicts_the_linear_problem_in_closed_form(planned):
    spec = planned(breakdown=BREAKDOWN)["breakdown.linear.rmsprop"]
    rows, _ = run_simulation(spec)
    speeds = {row[6] for row in rows if row[5] == "speed_k2"}
    g2, noise = torch.tensor([1.0, 0.3]) ** 2, 1 / 8
    share = g2 / (g2 + noise).sqrt()
    expected = (share * ((g2 + noise) / (2 * g2 + noise)).sqrt()).sum() / share.sum()
    assert list(speeds) == pytest.approx([expected.item()] * len(speeds), rel=1e-5)


def test_an_interrupted_simulation_goes_on_with_the_next_batch(planned, tmp_path):
    spec = planned(weak=WEAK | {"paths": ours(16)})["weak.quadratic.adam"]
    whole, _ = run_simulation(spec)

    class Interrupted(Exception):
        pass

    def stop(batch, batches):
        if batch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_simulation(spec, checkpoint=tmp_path / "c", report=stop)
    calls = []
    resumed, _ = run_simulation(spec, checkpoint=tmp_path / "c", report=lambda batch, batches: calls.append(batch))
    assert calls == [3, 4, 5, 6]
    assert resumed == whole
    with pytest.raises(InputError, match="checkpoint of another spec"):
        run_simulation(changed(spec, batches=7), checkpoint=tmp_path / "c")
    (tmp_path / "d").write_text("{")
    with pytest.raises(InputError, match="holds something else"):
        run_simulation(spec, checkpoint=tmp_path / "d")


BAD = [
    (WEAK | {"oracles": ["quadric"]}, r"simulations.x: oracle = 'quadric': must be one of linear, .*"),
    (WEAK | {"oracles": ["softmax"]}, "simulations.x: oracle = 'softmax': weak-order can study linear, quadratic, "),
    (WEAK | {"step": ours(0.1)}, "simulations.x: .* must be a whole number of steps of 0.1"),
    (WEAK | {"time_steps": ours([3.0])}, "simulations.x: beta = -5: must be in|simulations.x: .*"),
    (WEAK | {"start": ours(0.0)}, "simulations.x: start = 0: must be > 0"),
    (WEAK | {"horizonn": ours(1.0)}, "simulations.x: unknown key 'horizonn'"),
    (WEAK | {"study": "weak"}, "simulations.x.study: 'weak' is not one of"),
    (CONVERGENCE | {"ell": ours([-1])}, r"simulations.x.ell.value.0: -1 is less than or equal to the minimum of 0"),
    (CONVERGENCE | {"ell": ours([1, 1.3])}, r"simulations.x: evaluate = 2: must be a whole number of steps of 0.59"),
    (CONVERGENCE | {"ell": ours([2, 4])}, r"simulations.x: ell = \[2, 4\]: must contain 1, the algorithm itself"),
    (CONVERGENCE | {"examples": ours(70_000)}, "simulations.x: examples = 70000: larger than the 60,000 training "),
    (CONVERGENCE | {"evaluate": ours([4, 2])}, r"simulations.x: evaluate = \[4, 2\]: must increase"),
    (CONVERGENCE | {"parts": ours([2, 3])}, r"simulations.x: parts = \[2, 3\]: the largest must be a multiple of each"),
    (WEAK | {"batches": ours(1)}, r"simulations.x: batches: 1 is less than the minimum of 2"),
    ({k: v for k, v in BREAKDOWN.items() if k != "examples"}, "simulations.x: examples: missing, and softmax "),
    (BREAKDOWN | {"kappas": ours([2])}, r"simulations.x: kappas = \[2\]: must contain 1"),
    (BREAKDOWN | {"kappas": ours([1, 64])}, r"simulations.x: kappa = 64: too large for beta = 0.9"),
    (BREAKDOWN | {"kappas": ours([1, 4])}, r"simulations.x: evaluate = 2: must be a whole number of steps of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("simulation", "message"), BAD, ids=[message[13:60] for _, message in BAD])
def test_a_bad_simulation_is_one_line_that_names_it(planned, simulation, message):
    with pytest.raises(InputError, match=message) as caught:
        planned(x=simulation)
    assert "\n" not in str(caught.value)


def test_slope_of_a_power_law_and_its_interval():
    levels = np.array([1.0, 2.0, 4.0])
    gaps = np.tile((levels**-2)[None, :, None], (5, 1, 3)) * (1 + 0.01 * np.arange(5) - 0.02)[:, None, None]
    slope, drawn = weak_error.Errors(levels, gaps).slope()
    assert slope == pytest.approx(-2.0)
    assert np.allclose(drawn, -2.0)
    assert np.isnan(weak_error.Errors(levels[:1], gaps[:, :1]).slope()[0])


def test_bootstrap_of_a_mean_covers_as_students_t_does():
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        sample = random.normal(size=(5, 1))
        low, high = statistics.interval(statistics.bootstrap(sample, lambda mean: mean, replicates=400, seed=seed))
        hits += low[0] <= 0.0 <= high[0]
    assert abs(hits / 400 - 0.95) < 3 * (0.95 * 0.05 / 400) ** 0.5


def test_problems_are_of_two_coordinates():
    assert all(make().dim == 2 for make in PROBLEMS.values())
    assert isinstance(PROBLEMS["linear"](), Linear)
