"""What a run costs, told from its spec before anything runs: work, seconds, memory, disk. Without torch.

The unit of work is one *example*: the forward and backward pass of one training example, three times the FLOPs of the
forward pass. A step takes examples. An evaluation takes the gradient of some and tests others; a tested example is a
forward pass only, so it counts a third. The unit of a simulation is one step of one path.

Seconds are work over examples per second. Where a workload was measured on the device, the speed is that of
``throughput.csv``: the work of finished runs over the seconds that they recorded, which include evaluations but not the
start of the process. At other batches it is that of the nearest one, by another engine that of eager, for SVAG that of
plain steps, and elsewhere the peak FLOP/s times an assumed utilisation: these are estimates. `adasde throughput` makes
that file.
"""

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

from adasde.common import InputError
from adasde.experiments.specs import AnySpec, Simulation, Trained
from adasde.workloads.registry import CostProfile, counted, workload_named


@dataclass(frozen=True)
class Device:
    """A device by its ``model``, as the system calls it; dense peak FLOP/s by precision, memory in bytes if its own."""

    model: str
    unit: str
    peak: dict[str, float]
    source: str
    memory: float | None = None


_NVIDIA = "dense, NVIDIA's data sheet of the SXM card"
DEVICES = {
    "h100": Device("NVIDIA H100", "GPU", {"bf16": 989e12, "tf32": 494.5e12, "float32": 67e12}, _NVIDIA, 80e9),
    "h200": Device("NVIDIA H200", "GPU", {"bf16": 989e12, "tf32": 494.5e12, "float32": 67e12}, _NVIDIA, 141e9),
    "a100": Device("NVIDIA A100", "GPU", {"bf16": 312e12, "tf32": 156e12, "float32": 19.5e12}, _NVIDIA, 80e9),
    "cpu-core": Device("AMD EPYC", "core", {"float32": 80e9}, "a product of 1024 x 1024 matrices here"),
}

# Share of the peak that training reaches where nothing was measured; models are not compiled. On GPUs it is about what
# the paper's workloads reached on an H100 (results/reference/gpu/steps.csv), where small images do not fill the device:
# VGG-16 0.41 in float32, 0.08 to 0.22 in tf32 and 0.06 in bf16, ResNet-56 0.11, 0.01 to 0.04 and 0.01, ResNet-50 0.32,
# 0.12 and 0.09. Language models were tried in bf16 only. On a CPU it is about what our own small workloads reach.
UTILISATION = {
    ("GPU", "language"): {"bf16": 0.12, "tf32": 0.20, "float32": 0.60},
    ("GPU", "vision"): {"bf16": 0.08, "tf32": 0.10, "float32": 0.25},
    ("core", "language"): {"float32": 0.50},
    ("core", "vision"): {"float32": 0.40},
}
EFFICIENCY = 0.90  # of several GPUs that share a run, against the same number that need not talk: an assumption

# Seconds of a job beside those that its runs record: imports, and reading the data. Measured on one core.
START = {"vision": 2.6, "language": 6.0, "theory": 2.2}

BACKWARD = 3  # passes per training example: one forward, two for the gradients of activations and weights
STATE = 16  # bytes per weight while training: weight, gradient, Adam's two averages, all float32
MOMENTS = 24  # more bytes per weight while the gradient's noise is measured: see gradient_noise.measure
SAVED = 12  # bytes per weight in a checkpoint: weight and averages
METER = 12  # more of them where the noise is measured: the last gradient, its variance and that of half the examples
# Activations of bfloat16 over those of float32, as torch counts them; transformers keep norms and losses in float32.
BF16 = {"vision": 0.50, "language": 0.61}
# Of a device's memory. The rest is for what a step holds for a short time: gradients of activations, workspaces. While
# cuDNN looks for its fastest algorithm it takes up to three times as much as a step, but only if there is that much.
ROOM = 0.75
PROCESS = {"core": 0.9e9, "GPU": 6e9}  # bytes of a process without its model: libraries (measured), CUDA's (assumed)
SPEEDS = ("measured", "estimated", "unknown")


@dataclass(frozen=True)
class Cost:
    """What one run costs: ``seconds`` on the clock with ``processes`` devices at once, and bytes.

    ``samples`` are the examples that it takes; ``share`` is the part of a minibatch that a process takes. ``memory`` is
    the peak of one process on its device. If the run does not fit there, ``micro_batch`` is the largest that would fit,
    or 0. ``speed`` is one of SPEEDS: *measured* where the workload was measured on the device at this precision and
    batch; *estimated* from FLOPs, another batch or one device of several; *unknown* where something else stands in.
    ``source`` is the measurement that it rests on, ``assumed`` what it assumes beside or instead.
    """

    run: str
    device: str
    seconds: float
    memory: float
    processes: int = 1
    steps: int = 0
    samples: int = 0
    share: int = 0
    micro_batch: int | None = None
    weights: int = 0
    checkpoint: int = 0
    speed: str = "measured"
    source: str | None = None
    assumed: str | None = None

    @property
    def hours(self) -> float:
        """Hours of devices."""
        return self.seconds * self.processes / 3600.0


def device_named(name: str) -> Device:
    """Return the device called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in DEVICES:
        raise InputError(f"device = {name!r}: must be one of {', '.join(DEVICES)}")
    return DEVICES[name]


def cost_of(spec: AnySpec, device: str | None = None) -> Cost:
    """Return what ``spec`` costs on ``device``, by default the one that it asks for; simulations run on the CPU."""
    if isinstance(spec, Simulation):
        rate, basis = _simulated_rate(spec)
        return Cost(spec.run, "cpu-core", spec.path_steps / rate, PROCESS["core"], **basis)
    name = device or ("h100" if spec.device == "cuda" else "cpu-core")
    unit, (rate, basis) = device_named(name).unit, _rate(spec, name)
    if spec.processes > 1 and "speed" not in basis:
        basis["speed"] = "estimated"  # by EFFICIENCY
    taken, evaluating = work(spec)
    together = rate * spec.processes * (EFFICIENCY if spec.processes > 1 else 1.0)
    share, memory = spec.batch_size // spec.processes, peak_bytes(spec, unit, examples_per_pass(spec))
    micro_batch, room = None, ROOM * (DEVICES[name].memory or math.inf)
    if memory > room:
        sizes = (n for n in range(share, profile_of(spec).least - 1, -1) if share % n == 0)
        fitting = (n for n in sizes if peak_bytes(spec, unit, n) <= room)
        micro_batch = next(fitting, 0)
    parameters = profile_of(spec).parameters
    return Cost(
        run=spec.run,
        device=name,
        seconds=taken / together + evaluating / rate,  # only the first process evaluates
        memory=memory,
        processes=spec.processes,
        steps=spec.steps,
        samples=taken,
        share=share,
        micro_batch=micro_batch,
        weights=4 * parameters,
        checkpoint=2 * (SAVED + METER * bool(spec.noise)) * parameters,  # a new one is whole before the old one goes
        **basis,
    )


def work(spec: Trained) -> tuple[int, float]:
    """Return the examples that a training run takes, and the number that its evaluations amount to.

    A step of SVAG takes two minibatches, and there are ell^2 of its steps for each of a plain run. The start is
    evaluated as well. An evaluation is a forward pass; where the noise is measured, there are gradients beside it.
    """
    profile, evaluations = profile_of(spec), 1 + len(spec.evaluate)
    tested = profile.sampled + (spec.tested or workload_named(spec.workload).tested)
    evaluating = len(spec.noise) * profile.graded + evaluations * tested / BACKWARD
    return spec.steps * spec.batch_size * spec.minibatches, evaluating


def examples_per_pass(spec: Trained) -> int:
    """Examples whose activations a process holds at once; without micro-batches a step of SVAG is one pass.

    Under the engine ``compile`` it is two.
    """
    return spec.micro_batch or spec.batch_size // spec.processes * (1 if spec.engine == "compile" else spec.minibatches)


def peak_bytes(spec: Trained, unit: str, examples: int) -> float:
    """Memory of a process with ``examples`` in a pass: in a step or, with a large model, as the noise is measured.

    A process on a CPU counts with its libraries.
    """
    profile, entry = profile_of(spec), workload_named(spec.workload)
    held = profile.activations * (BF16[entry.kind] if spec.precision == "bf16" else 1.0) + profile.moment
    rest = PROCESS["core"] if unit == "core" else profile.resident * entry.train_size
    step = held * examples
    noise = MOMENTS * profile.parameters + profile.activations * profile.chunk
    # A CUDA graph keeps the memory of its step.
    return rest + STATE * profile.parameters + (step + noise if spec.engine == "graph" else max(step, noise))


def profile_of(spec: Trained) -> CostProfile:
    """Return what the workload of a run costs; InputError if its entry does not say."""
    profile = counted(spec.workload).profile
    if profile is None:
        raise InputError(f"workload = {spec.workload!r}: its entry has no cost profile, from which to tell its cost")
    return profile


def _rate(spec: Trained, name: str) -> tuple[float, dict[str, str]]:
    """Examples per second of one device, and their source or what is assumed; at the nearest size that was measured."""
    device, kind = DEVICES[name], spec.kind
    precision = spec.precision if spec.precision in device.peak else "float32"
    alike = spec.workload.replace("fashion32-", "cifar10-")  # the same network on images of the same form
    stand_in = {}
    if precision != spec.precision:
        assumed = f"{kind} in {spec.precision} on one {name}: as fast as in {precision}"
        stand_in = {"speed": "unknown", "assumed": assumed}
    for engine, workload in product(dict.fromkeys((spec.engine, "eager")), dict.fromkeys((spec.workload, alike))):
        if known := _throughput().get((workload, name, precision, engine)):
            step = spec.batch_size // spec.processes * spec.minibatches
            size = min(known, key=lambda size: abs(math.log(size / step)))
            rate, source = known[size]
            assumed = [f"engine {spec.engine}: as fast as eager"] * (engine != spec.engine)
            assumed += [f"{spec.workload}: as fast as {workload}"] * (workload != spec.workload)
            assumed += ["SVAG: as fast as plain steps of both minibatches"] * (spec.minibatches > 1)
            assumed += ["other batches: as fast per example as the nearest measured"] * (size != step)
            if assumed and not stand_in:
                stand_in = {"speed": "estimated", "assumed": "; ".join(assumed)}
            return rate, {"source": source, **stand_in}
    peak, share = device.peak[precision], UTILISATION[device.unit, kind][precision]
    assumed = f"{kind} in {precision}: {share:g} of the {peak / 1e12:.3g} TFLOP/s of one {name} ({device.source})"
    return peak * share / (BACKWARD * profile_of(spec).flops), {"speed": "estimated", "assumed": assumed, **stand_in}


def _simulated_rate(spec: Simulation) -> tuple[float, dict[str, str]]:
    """Steps of paths per second, and their source; of oracles that were not measured, the study's slowest."""
    study, oracle = spec.study, spec.oracle
    known = {name: sizes[1] for (name, *_), sizes in _throughput().items() if name.startswith(f"{study}.")}
    if f"{study}.{oracle}" in known:
        rate, source = known[f"{study}.{oracle}"]
        return rate, {"source": source}
    assumed = f"{study} on {oracle}: as slow as on the slowest oracle measured"
    return min(known.values())[0], {"speed": "unknown", "assumed": assumed}


@cache
def _throughput() -> dict[tuple[str, str, str, str], dict[int, tuple[float, str]]]:
    """Return what was measured: (workload, device, precision, engine) -> {batch size: (examples a second, source)}."""
    measured: dict = {}
    with files("adasde.experiments").joinpath("throughput.csv").open() as file:
        for row in csv.DictReader(file):
            key = row["workload"], row["device"], row["precision"], row["engine"]
            sizes = measured.setdefault(key, {})
            sizes[int(row["batch_size"] or 1)] = float(row["examples_per_second"]), row["source"]
    return measured
