"""What a run costs, told from its spec alone: work, seconds, memory, disk. Pure, and without torch.

The unit of work is one *example*: forward and backward pass of one training example, three times the FLOPs of the
forward pass. A step draws examples; an evaluation takes the gradient of some, and tests others, each a third of one as
it is a forward pass only. The unit of a simulation is one step of one path.

Seconds are work over examples per second: those of ``throughput.csv`` where a task was measured on the device (the
work of finished runs over the seconds that they recorded, evaluations included and the start of the process not), or
else peak FLOP/s times an assumed utilisation. `adasde throughput` makes that file; nothing in it is typed.
"""

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from adasde.common import InputError
from adasde.experiments.studies import path_steps
from adasde.scaling.clock import step_count
from adasde.workloads.registry import workload_named


@dataclass(frozen=True)
class Device:
    """A device by its ``model``, as the system calls it; dense peak FLOP/s by precision, memory in bytes if its own."""

    model: str
    unit: str
    peak: dict[str, float]
    source: str
    memory: float | None = None


NVIDIA = "dense, NVIDIA's data sheet of the SXM card"
DEVICES = {
    "h100": Device("NVIDIA H100", "GPU", {"bf16": 989e12, "tf32": 494.5e12, "float32": 67e12}, NVIDIA, 80e9),
    "h200": Device("NVIDIA H200", "GPU", {"bf16": 989e12, "tf32": 494.5e12, "float32": 67e12}, NVIDIA, 141e9),
    "a100": Device("NVIDIA A100", "GPU", {"bf16": 312e12, "tf32": 156e12, "float32": 19.5e12}, NVIDIA, 80e9),
    "cpu-core": Device("AMD EPYC", "core", {"float32": 80e9}, "a product of 1024 x 1024 matrices here"),
}

# Share of the peak that training reaches where nothing was measured; models are not compiled. On GPUs about what the
# paper's tasks reached on an H100 (results/reference/gpu/steps.csv), where small images do not fill the device: VGG-16
# 0.41 in float32, 0.08 to 0.22 in tf32 and 0.06 in bf16, ResNet-56 0.11, 0.01 to 0.04 and 0.01, ResNet-50 0.32, 0.12
# and 0.09. Language models in other precisions than bf16 were not tried. On a CPU about what our own small tasks reach.
UTILISATION = {
    ("GPU", "language"): {"bf16": 0.12, "tf32": 0.20, "float32": 0.60},
    ("GPU", "vision"): {"bf16": 0.08, "tf32": 0.10, "float32": 0.25},
    ("core", "language"): {"float32": 0.50},
    ("core", "vision"): {"float32": 0.40},
}
EFFICIENCY = 0.90  # of several GPUs that share a run, against as many that need not talk: an assumption

# Seconds of a job beside those that it records: the median over the jobs of mini, forks of one process (spawner.py). On
# a cluster a job imports torch itself: two seconds, or six with transformers, and little beside a run of hours.
START = 0.3

BACKWARD = 3  # passes per example drawn: one forward, two for the gradients of activations and weights
STATE = 16  # bytes per weight while training: weight, gradient, Adam's two averages, all float32
MOMENTS = 20  # and more of them while the gradient's noise is measured: see noise.measure
SAVED = 12  # in a checkpoint: weight and averages
# Activations of bfloat16 over those of float32, as torch counts them; transformers keep norms and losses in float32.
BF16 = {"vision": 0.50, "language": 0.61}
# Of a device's memory; the rest is for what a step holds for a moment: gradients of activations, workspaces. While
# cuDNN looks for its fastest algorithm it takes up to three times as much as a step, but only if there is so much.
ROOM = 0.75
TABLE = 30_000  # bytes that a run leaves in files other than weights, at most: its table twice, log, benchmark
WORKER = 0.2e9  # bytes of a process that decodes images, without what it shares with the others (measured)
PROCESS = {"core": 0.9e9, "GPU": 6e9}  # bytes of a process without its model: libraries (measured), CUDA's (assumed)


@dataclass(frozen=True)
class Cost:
    """What one run costs: ``seconds`` of the clock on ``processes`` devices at once, and bytes.

    ``samples`` are the examples that it draws, ``share`` those of a minibatch that a process takes. ``memory`` is the
    peak of one process on its device. ``micro_batch`` is the largest that would fit there if the run does not: 0 if
    none does. ``source`` is what the seconds rest on if that was measured, ``assumed`` if not.
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
    parent: str | None = None
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


def of(spec: dict, device: str | None = None) -> Cost:
    """Return what ``spec`` costs on ``device``, or if None on the one that it asks for; simulations run on the CPU."""
    if "study" in spec:
        rate, basis = _simulated_rate(spec)
        taken = START + path_steps(spec) / rate
        return Cost(spec["run"], "cpu-core", taken, PROCESS["core"], **basis)
    name = device or ("h100" if spec.get("device") == "cuda" else "cpu-core")
    device, parameters = device_named(name), _facts(spec).parameters
    processes, (steps, drawn, evaluating), (rate, basis) = spec.get("processes", 1), work(spec), _rate(spec, name)
    together = rate * processes * (EFFICIENCY if processes > 1 else 1.0)
    share, memory = spec["batch_size"] // processes, peak_bytes(spec, device.unit, examples_per_pass(spec))
    micro_batch, room = None, ROOM * (device.memory or math.inf)
    if memory > room:
        micro_batch = max((n for n in _divisors(share) if peak_bytes(spec, device.unit, n) <= room), default=0)
    return Cost(
        run=spec["run"],
        device=name,
        seconds=START + drawn / together + evaluating / rate,  # the first process evaluates, alone
        memory=memory,
        processes=processes,
        steps=steps,
        samples=drawn,
        share=share,
        micro_batch=micro_batch,
        weights=4 * parameters,
        checkpoint=2 * SAVED * parameters,  # a new one is whole before the old one goes
        parent=spec["parent"]["run"] if "parent" in spec else None,
        **basis,
    )


def seconds(spec: dict) -> float:
    """Seconds that the job of ``spec`` should take on the device that it asks for, without any reserve."""
    return of(spec).seconds


def memory(spec: dict) -> int:
    """Megabytes of host memory that the job of ``spec`` needs, all its processes together, with half as much again."""
    cost = of(spec)
    unit = DEVICES[cost.device].unit
    each = cost.memory if unit == "core" else PROCESS[unit] + cost.weights
    if "task" in spec:
        each += workload_named(spec["task"]).workers * WORKER
    return math.ceil(1.5 * (cost.processes * each + cost.checkpoint) / 1e6)


def work(spec: dict) -> tuple[int, int, float]:
    """Return the steps of a training run, the examples that it draws, and those that its evaluations amount to.

    A step of SVAG draws two minibatches, and there are ell^2 for each of a plain run. The start is evaluated as well.
    """
    size, entry = spec["batch_size"], workload_named(spec["task"])
    steps = step_count(spec["samples"], size, spec["ell"])
    drawn = steps * size * (1 if spec["ell"] == 1 else 2)
    evaluations = 1 + len(spec["evaluate"])
    return steps, drawn, evaluations * (_facts(spec).graded + entry.tested / BACKWARD)


def examples_per_pass(spec: dict) -> int:
    """Examples whose activations a process holds at once: SVAG without micro-batches takes both minibatches in one."""
    whole = spec["batch_size"] // spec.get("processes", 1) * (1 if spec["ell"] == 1 else 2)
    return spec.get("micro_batch", whole)


def peak_bytes(spec: dict, unit: str, examples: int) -> float:
    """Memory of a process with ``examples`` in a pass: in a step or, of large models, as the noise is measured.

    A CPU's process is counted whole, with its libraries.
    """
    facts, entry = _facts(spec), workload_named(spec["task"])
    held = facts.activations * (BF16[entry.kind] if spec.get("precision") == "bf16" else 1.0) + facts.moment
    rest = PROCESS["core"] if unit == "core" else facts.resident * entry.train_size
    step = STATE * facts.parameters + held * examples
    return rest + max(step, (STATE + MOMENTS) * facts.parameters + facts.activations * facts.chunk)


def _facts(spec):
    facts = workload_named(spec["task"]).facts
    if facts is None:
        raise InputError(f"task = {spec['task']!r}: its entry in tasks has no facts, from which to tell its cost")
    return facts


def _rate(spec, name):
    """Examples per second of one device, and its source or what is assumed; at the nearest size of a step measured."""
    device, kind, precision = DEVICES[name], workload_named(spec["task"]).kind, spec.get("precision", "float32")
    if precision not in device.peak:
        precision = "float32"
    alike = spec["task"].replace("fashion32-", "cifar10-")  # the same network on images of the same form
    if known := next((k for task in (spec["task"], alike) if (k := _throughput().get((task, name, precision)))), None):
        step = spec["batch_size"] // spec.get("processes", 1) * (1 if spec["ell"] == 1 else 2)
        rate, source = known[min(known, key=lambda size: abs(math.log(size / step)))]
        return rate, {"source": source}
    peak, share = device.peak[precision], UTILISATION[device.unit, kind][precision]
    assumed = f"{kind} in {precision}: {share:g} of the {peak / 1e12:.3g} TFLOP/s of one {name} ({device.source})"
    return peak * share / (BACKWARD * _facts(spec).flops), {"assumed": assumed}


def _simulated_rate(spec):
    """Steps of paths per second, and their source; of oracles that were not measured, the study's slowest."""
    study, oracle = spec["study"], spec["oracle"]
    known = {task: sizes[1] for (task, *_), sizes in _throughput().items() if task.startswith(f"{study}.")}
    if f"{study}.{oracle}" in known:
        rate, source = known[f"{study}.{oracle}"]
        return rate, {"source": source}
    return min(known.values())[0], {"assumed": f"{study} on {oracle}: as slow as on the slowest oracle measured"}


@cache
def _throughput():
    """Return what was measured: (task, device, precision) -> {examples of a step: (examples per second, source)}."""
    measured = {}
    with files("adasde.experiments").joinpath("throughput.csv").open() as file:
        for row in csv.DictReader(file):
            sizes = measured.setdefault((row["task"], row["device"], row["precision"]), {})
            sizes[int(row["batch_size"] or 1)] = float(row["examples_per_second"]), row["source"]
    return measured


def _divisors(number):
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in small]
