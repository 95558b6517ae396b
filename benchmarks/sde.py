"""Speed of the SDE simulation as ratios within one process, interleaved: second part of `make bench`.

torchsde  path-steps per second of simulate_sde / torchsde's Euler on the same problem, given only the noise it needs,
          in its fastest set-up (a BrownianInterval with dt)
diffrax   likewise, compiled, where it is installed
normals   seconds of simulate_sde / torch drawing the normals alone
"""

import statistics
import time
import warnings
from importlib.util import find_spec

import torch

from adasde.scaling.hyperparameters import SDEConstants
from adasde.sde.oracles import Quadratic
from adasde.sde.simulate import PORTION, simulate_sde
from adasde.training.loop import keep_memory

ROUNDS = 7
NUMBERS = 200_000  # paths x dimensions
STEPS = 64
CONSTANTS = SDEConstants(sigma0=1.0, eps0=0.1, c2=2.0)


def ours(oracle, theta):
    """Return a function that integrates RMSprop's SDE to time 1."""
    generator = torch.Generator().manual_seed(0)
    return lambda: simulate_sde(oracle, CONSTANTS, theta=theta, horizon=1.0, step=1.0 / STEPS, generator=generator)


def normals(theta):
    """Return a function that draws as many normals, in portions of the same size."""
    generator = torch.Generator().manual_seed(0)
    portion = torch.empty(PORTION // theta.shape[1], theta.shape[1], dtype=theta.dtype)

    def draw():
        for _ in range(STEPS * (len(theta) // len(portion))):
            portion.normal_(generator=generator)

    return draw


def torchsde(oracle, theta):
    """Return a function that does the same with torchsde: state (theta, u), diagonal noise on theta alone."""
    import torchsde

    c, dim = CONSTANTS, theta.shape[1]

    class Equation(torch.nn.Module):
        noise_type, sde_type = "general", "ito"

        def f_and_g_prod(self, t, y, v):
            theta, u = y[:, :dim], y[:, dim:]
            p = c.sigma0 * u.sqrt() + c.eps0
            drift = torch.cat([-oracle.gradient(theta) / p, c.c2 * (oracle.noise_variance(theta) - u)], dim=1)
            moved = torch.cat([-c.sigma0 * oracle.noise(theta, v) / p, torch.zeros_like(u)], dim=1)
            return drift, moved

    start = torch.cat([theta, oracle.noise_variance(theta).expand_as(theta)], dim=1)
    moments = torch.tensor([0.0, 1.0], dtype=theta.dtype)

    def integrate():
        brownian = torchsde.BrownianInterval(
            t0=0.0, t1=1.0, size=(len(theta), dim), dtype=theta.dtype, dt=1.0 / STEPS, cache_size=None
        )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torchsde.sdeint(Equation(), start, moments, bm=brownian, method="euler", dt=1.0 / STEPS)

    return integrate


def diffrax(theta):
    """Return a function that does the same with diffrax, compiled, in its fastest set-up; of the quadratic alone."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    c = CONSTANTS

    class Noise(diffrax.ControlTerm):
        def prod(self, vf, control):
            return vf * control, jnp.zeros_like(control)

    def drift(t, y, _):
        return -y[0] / (c.sigma0 * jnp.sqrt(y[1]) + c.eps0), c.c2 * (1.0 - y[1])

    def diffusion(t, y, _):
        return -c.sigma0 / (c.sigma0 * jnp.sqrt(y[1]) + c.eps0)

    start = jnp.asarray(theta.numpy())

    @jax.jit
    def integrate(key):
        brownian = diffrax.UnsafeBrownianPath(shape=start.shape, key=key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), Noise(diffusion, brownian))
        solution = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, 1.0, 1.0 / STEPS, (start, jnp.ones_like(start)),
            adjoint=diffrax.DirectAdjoint(), max_steps=STEPS,
        )  # fmt: skip
        return solution.ys[0]

    return lambda: integrate(jax.random.key(0)).block_until_ready()


def seconds(function):
    """Wall-clock time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def main():
    """Print the table."""
    keep_memory()
    torch.set_num_threads(1)
    columns = ("torchsde (>= 5)", "diffrax", "normals (<= 1.5)")
    print(f"\n{'simulate_sde, RMSprop':22}{''.join(f'{name:>18}' for name in columns)}{'path-steps/s':>16}")
    for dim in (1, 4, 10):
        theta = torch.ones(NUMBERS // dim, dim, dtype=torch.float64)
        oracle = Quadratic([1.0] * dim)
        contestants = {"ours": ours(oracle, theta), "normals": normals(theta), "torchsde": torchsde(oracle, theta)}
        if find_spec("diffrax"):
            contestants["diffrax"] = diffrax(theta)
        for function in contestants.values():
            function()  # warm
        rounds = [{name: seconds(function) for name, function in contestants.items()} for _ in range(ROUNDS)]
        mine = statistics.median(r["ours"] for r in rounds)
        drawn = len(theta) // (PORTION // dim) * (PORTION // dim) / len(theta)  # whole portions alone are drawn
        theirs = statistics.median(r["torchsde"] / r["ours"] for r in rounds)
        alone = statistics.median(r["ours"] * drawn / r["normals"] for r in rounds)
        compared = "not installed"
        if "diffrax" in contestants:
            compared = f"{statistics.median(r['diffrax'] / r['ours'] for r in rounds):.1f}"
        cells = f"{theirs:>18.1f}{compared:>18}{alone:>18.2f}{len(theta) * STEPS / mine:>16,.0f}"
        print(f"dimension {dim:<12}{cells}", flush=True)


if __name__ == "__main__":
    main()
