"""One simulation: from a spec to its rows, batch by batch of paths, so that it can be interrupted between batches."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from adasde.common import MALFORMED, peak_memory
from adasde.experiments.specs import Breakdown, Convergence, OnSamples, Simulation, WeakOrder
from adasde.scaling.clock import steps_until
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.sde.finite_sums import FiniteSum, HiddenLayer, Minibatch, SoftmaxRegression, pooled
from adasde.sde.integrators import Algorithm, BrownianIncrements, EulerMaruyama, State, initial_state
from adasde.sde.oracles import DoubleWell, Linear, NoisyGradientOracle, Quadratic, SVAGOracle
from adasde.sde.simulate import simulate_algorithm, simulate_sde
from adasde.training.checkpoint import UnusableCheckpoint, read_own_checkpoint, write_checkpoint
from adasde.training.seeding import derive_seed
from adasde.workloads.data.registry import load_arrays

log = logging.getLogger(__name__)

# The closed-form problems of the weak-order study, two coordinates each.
PROBLEMS = {
    "linear": lambda: Linear([1.0, 0.3]),
    "quadratic": lambda: Quadratic([1.0, 0.25], state=0.3),
    "double-well": lambda: DoubleWell(2),
}


Rows = Iterator[tuple[str, float, float, dict[str, float]]]  # (process, level, time, values) of a batch of paths


def run_simulation(
    spec: Simulation,
    root: Path | None = None,
    checkpoint: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple], dict[str, Any]]:
    """Simulate ``spec``; return its rows, as artifacts.SIMULATED says, and facts: seconds and peak memory.

    ``root`` is the folder of prepared data. With a ``checkpoint`` path, finished batches are kept there.
    ``report(batches, all)`` is called after each batch.

    ``level`` is what a process varies: the time step eta^2 (weak-order), ell or the number of SDE steps per step of
    the algorithm (convergence), kappa (breakdown).
    """
    study = {WeakOrder: weak_order, Convergence: convergence, Breakdown: breakdown}[type(spec)]
    oracle = build(spec, root)
    begun = time.monotonic()
    rows, done, before = _restore(checkpoint, spec)
    for batch in range(done, spec.batches):
        for process, level, reached, values in study(spec, oracle, batch):
            for metric, value in values.items():
                rows.append(_row(spec.run, process, level, batch, reached, metric, value))
        if checkpoint is not None:
            write_checkpoint(checkpoint, spec.canonical, {"rows": rows, "seconds": before + time.monotonic() - begun})
        if report is not None:
            report(batch + 1, spec.batches)
    return rows, {"seconds": before + time.monotonic() - begun, "peak_bytes": peak_memory()}


def build(spec: Simulation, root: Path | None = None) -> NoisyGradientOracle:
    """Return the oracle of ``spec``, over its data where it has any."""
    if spec.data is None:
        return PROBLEMS[spec.oracle]()
    tensors = load_arrays(spec.data, root)
    inputs, labels = pooled(tensors["train-images"], tensors["train-labels"], spec.examples)
    return {"softmax": SoftmaxRegression, "hidden-layer": HiddenLayer}[spec.oracle](inputs, labels)


def weak_order(spec: WeakOrder, oracle: NoisyGradientOracle, batch: int) -> Rows:
    """Yield the test functions of the algorithm at every time step, and of the SDE with the same noise.

    The SDE takes steps of spec.step. The normals of one step of the algorithm are the normalised sum of the SDE's,
    so the difference of the two has a far smaller variance than either.
    """
    normals = BrownianIncrements(torch.Generator().manual_seed(derive_seed("simulation", spec.run, batch)))
    constants = spec.sde_constants
    equation = EulerMaruyama(oracle, constants, spec.step)
    theta = torch.full((spec.paths, oracle.dim), spec.theta, dtype=torch.float64)
    start, noise = spec.start, (spec.paths, oracle.noise_dim)

    def state(process):
        return State(start, theta.clone(), *initial_state(process, theta, start))

    followed = []
    for variant in spec.variants:
        for eta2 in spec.time_steps:
            h = spec.hyperparameters(eta2)
            process = Algorithm(oracle, h, constants.sigma0 / eta2**0.5, variant=variant)
            every = steps_until("time_steps", eta2, spec.step)
            followed.append((variant, eta2, process, every, state(process), theta.new_zeros(noise)))
    exact = state(equation)
    first = steps_until("start", start, spec.step)
    last = first + steps_until("horizon", spec.horizon, spec.step, start)
    xi = theta.new_empty(noise)
    for count in range(first, last):
        normals.fill(xi)
        equation.advance(exact, count, xi)
        for _, _, process, every, path, total in followed:
            total.add_(xi)
            if (count + 1) % every == 0:
                process.advance(path, (count + 1) // every - 1, total.div_(every**0.5))
                total.zero_()
    yield "sde", spec.step, spec.horizon, _summary(_problem(oracle, exact))
    for variant, eta2, process, _, path, _ in followed:
        if process.corrected and path.m is None:  # RMSprop's SDE has u of the value that the step divides by
            path.u.div_(1.0 - process.beta2 ** steps_until("horizon", spec.horizon, eta2))
        yield variant, eta2, spec.horizon, _summary(_problem(oracle, path))


def convergence(spec: Convergence, oracle: FiniteSum, batch: int) -> Rows:
    """Yield test functions of SVAG, with real minibatches, at every ell, and of the SDE at several steps per step.

    All integrations of a batch follow the same Brownian paths, so that they can be extrapolated: see orders.py.
    """
    h, sigma = spec.hyperparameters, spec.batch_size**-0.5
    constants, eta2 = h.sde_constants(sigma), h.time_step
    start = eta2 * spec.start
    record = [start + eta2 * steps for steps in (0, *spec.evaluate)]
    theta = initial_theta(oracle, spec)

    def starting(paths):
        return {"theta": theta.expand(paths, -1).contiguous(), "start": start, "horizon": record[-1], "record": record}

    for ell in spec.ell:
        noisy = Minibatch(oracle, spec.batch_size)
        if ell != 1:
            noisy = SVAGOracle(noisy, ell)
        generator = torch.Generator().manual_seed(derive_seed("simulation", spec.run, "svag", ell, batch))
        state = simulate_algorithm(noisy, h.svag(ell), sigma, generator=generator, **starting(spec.paths))
        for kept in state.records:
            yield "svag", ell, kept.time, _summary(_classifier(oracle, kept))
    for parts in spec.parts:
        generator = torch.Generator().manual_seed(derive_seed("simulation", spec.run, "sde", batch))
        follow = {"generator": generator, "draws": max(spec.parts) // parts, **starting(spec.sde_paths)}
        state = simulate_sde(oracle, constants, step=eta2 / parts, **follow)
        for kept in state.records:
            yield "sde", parts, kept.time, _summary(_classifier(oracle, kept))


def breakdown(spec: Breakdown, oracle: NoisyGradientOracle, batch: int) -> Rows:
    """Yield the loss of the algorithm scaled to every kappa by the square-root rule, and at kappa = 1 the speeds.

    RMSprop is the authors' variant: like Adam's, its second moment starts from nothing and contains the mean gradient.
    """
    h, size = spec.hyperparameters, spec.batch_size
    theta = initial_theta(oracle, spec).expand(spec.paths, -1).contiguous()
    record = [h.time_step * steps for steps in (0, *spec.evaluate)]
    for kappa in spec.kappas:
        sigma = (kappa * size) ** -0.5
        noisy = oracle
        if isinstance(oracle, FiniteSum):
            noisy = Minibatch(oracle, round(kappa * size))
        generator = torch.Generator().manual_seed(derive_seed("simulation", spec.run, kappa, batch))
        state = simulate_algorithm(
            noisy, h.scaled(kappa), sigma, theta=theta, horizon=record[-1], record=record, generator=generator,
            variant="paper" if isinstance(h, AdamHyperparameters) else "authors",
        )  # fmt: skip
        for kept in state.records:
            values = {"loss": oracle.loss(kept.theta).mean().item()}
            if kappa == 1:
                values |= {f"speed_k{k:g}": _speed(oracle, kept.theta, sigma, k) for k in spec.kappas if k != 1}
            yield "algorithm", kappa, kept.time, values


def _speed(oracle, theta, sigma, kappa):
    """Speed at which a run scaled by kappa is predicted to descend, over the baseline's: see lag.py."""
    g2, noise = oracle.gradient(theta) ** 2, sigma**2 * oracle.noise_variance(theta)
    share = g2 / (g2 + noise).sqrt()
    slowed = share * ((g2 + noise) / (kappa * g2 + noise)).sqrt()
    return (slowed.nansum() / share.nansum()).item()


def initial_theta(oracle: NoisyGradientOracle, spec: OnSamples) -> torch.Tensor:
    """Return the one point, (1, dim), where all paths start: small normals, float32."""
    generator = torch.Generator().manual_seed(derive_seed("initial weights", spec.init_seed))
    return spec.scale * torch.randn(1, oracle.dim, generator=generator)


def _problem(oracle, state):
    """Test functions of a closed-form problem, means over coordinates: name -> (paths,)."""
    theta = state.theta
    values = {
        "theta": theta.mean(1),
        "cosine": theta.cos().mean(1),
        "squared_norm": theta.square().sum(1),
        "loss": oracle.loss(theta),
    }
    moments = {"u": state.u, "m": state.m}
    return values | {name: moment.mean(1) for name, moment in moments.items() if moment is not None}


def _classifier(oracle, state):
    """Test functions of a finite sum: name -> (paths,)."""
    theta = state.theta
    return {"loss": oracle.loss(theta), "squared_norm": theta.square().sum(1), "accuracy": oracle.accuracy(theta)}


def _summary(values):
    """Means over paths, and beside them the standard deviations of single paths, as name_deviation."""
    means = {name: value.mean().item() for name, value in values.items()}
    return means | {f"{name}_deviation": value.std().item() for name, value in values.items()}


def _restore(checkpoint, spec):
    """Rows, number of finished batches and seconds of a checkpoint; InputError if it is of another spec."""
    if checkpoint is None or not Path(checkpoint).exists():
        return [], 0, 0.0
    try:
        state = read_own_checkpoint(checkpoint, spec.canonical)
        try:
            rows, seconds = [_row(*row) for row in state["rows"]], float(state["seconds"])
            batches = rows[-1][3] + 1
        except MALFORMED as error:
            raise UnusableCheckpoint(f"{checkpoint}: holds other states than this run has") from error
    except UnusableCheckpoint as error:
        log.warning("%s, starting from the beginning", error)
        return [], 0, 0.0
    log.info("%s: resumed after %d batches", spec.run, batches)
    return rows, batches, seconds


def _row(run, process, level, batch, moment, metric, value):
    return str(run), str(process), float(level), int(batch), float(moment), str(metric), float(value)
