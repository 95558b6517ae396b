"""What runs and plans cost, told from their specs before anything runs: work, seconds, memory, disk. Without torch.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product

from adasde.common import InputError, text_table
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import AnySpec, Simulation, Trained
from adasde.workloads.data.registry import dataset_named
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
TABLE = 30_000  # bytes that a run leaves in files other than weights, at most
WORKER = 0.2e9  # bytes of a process that decodes images, without what it shares with the others (measured)
PROCESS = {"core": 0.9e9, "GPU": 6e9}  # bytes of a process without its model: libraries (measured), CUDA's (assumed)
PARALLEL = (1, 8, 64)  # numbers of devices for which a report says the time
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
    share, memory = spec.batch_size // spec.processes, peak_bytes(spec, unit, _examples_per_pass(spec))
    micro_batch, room = None, ROOM * (DEVICES[name].memory or math.inf)
    if memory > room:
        sizes = (n for n in range(share, _profile(spec).least - 1, -1) if share % n == 0)
        fitting = (n for n in sizes if peak_bytes(spec, unit, n) <= room)
        micro_batch = next(fitting, 0)
    parameters = _profile(spec).parameters
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
    profile, evaluations = _profile(spec), 1 + len(spec.evaluate)
    tested = profile.sampled + (spec.tested or workload_named(spec.workload).tested)
    evaluating = len(spec.noise) * profile.graded + evaluations * tested / BACKWARD
    return spec.steps * spec.batch_size * spec.minibatches, evaluating


def job_seconds(specs: Sequence[AnySpec], device: str | None = None) -> float:
    """Seconds that a job of these runs should take on ``device``, as for `cost_of`, without any reserve."""
    return START[specs[0].kind] + sum(cost_of(spec, device).seconds for spec in specs)


def job_memory(specs: Sequence[AnySpec], nodes: int = 1) -> int:
    """Megabytes of host memory that a job's processes need on each of its ``nodes``, with half as much again."""
    spec, cost = specs[0], max((cost_of(spec) for spec in specs), key=lambda cost: cost.memory)
    unit = DEVICES[cost.device].unit
    each = cost.memory if unit == "core" else PROCESS[unit] + cost.weights
    if isinstance(spec, Trained):
        each += workload_named(spec.workload).workers * WORKER
    return math.ceil(1.5 * (cost.processes / nodes * each + cost.checkpoint) / 1e6)


def job_minutes(specs: Sequence[AnySpec], gpu_model: str | None = None) -> int:
    """Minutes after which a cluster may end a job, and send it again: twice what it should take, and ten.

    ``gpu_model`` is the type of GPU that the job asks for. One that is not in DEVICES counts as the default.
    """
    device = gpu_model if gpu_model in DEVICES and job_gpus(specs[0]) else None
    return math.ceil(10 + 2 * job_seconds(specs, device) / 60)


def job_cores(spec: AnySpec) -> int:
    """Cores that a job of runs like ``spec`` takes: one per process, and those that decode its examples."""
    return spec.processes * (1 + workload_named(spec.workload).workers) if isinstance(spec, Trained) else 1


def job_nodes(spec: AnySpec, most: int | None) -> int:
    """Nodes over which a job's processes go, the same number on each and at most that; one where that is None.

    Raises:
        InputError: If as few nodes as hold the processes cannot share them evenly.
    """
    count = spec.processes
    nodes = math.ceil(count / (most or count))
    if uneven := count % nodes:
        less = count - uneven
        raise InputError(
            f"processes = {count}: cannot be shared evenly by {nodes} nodes of at most {most}; "
            f"take {less} or {less + nodes}"
        )
    return nodes


def job_gpus(spec: AnySpec) -> int:
    """GPUs that a job of runs like ``spec`` takes."""
    return spec.processes if isinstance(spec, Trained) and spec.device == "cuda" else 0


def _examples_per_pass(spec: Trained) -> int:
    """Examples whose activations a process holds at once; without micro-batches a step of SVAG is one pass.

    Under the engine ``compile`` it is two.
    """
    return spec.micro_batch or spec.batch_size // spec.processes * (1 if spec.engine == "compile" else spec.minibatches)


def peak_bytes(spec: Trained, unit: str, examples: int) -> float:
    """Memory of a process with ``examples`` in a pass: in a step or, with a large model, as the noise is measured.

    A process on a CPU counts with its libraries.
    """
    profile, entry = _profile(spec), workload_named(spec.workload)
    held = profile.activations * (BF16[entry.kind] if spec.precision == "bf16" else 1.0) + profile.moment
    rest = PROCESS["core"] if unit == "core" else profile.resident * entry.train_size
    step = held * examples
    noise = MOMENTS * profile.parameters + profile.activations * profile.chunk
    # A CUDA graph keeps the memory of its step.
    return rest + STATE * profile.parameters + (step + noise if spec.engine == "graph" else max(step, noise))


def _profile(spec: Trained) -> CostProfile:
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
    return peak * share / (BACKWARD * _profile(spec).flops), {"speed": "estimated", "assumed": assumed, **stand_in}


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


# A plan


def needed(plan: Plan, shown: Mapping[str, Sequence[str]], figure: str) -> list[str]:
    """Ids of the runs that a figure needs: those that it shows, and those from whose final weights these start."""
    if figure not in shown:
        raise InputError(f"figure = {figure!r}: must be one of {', '.join(shown)}")
    wanted = set(shown[figure])
    wanted |= {plan.parents[run] for run in shown[figure] if run in plan.parents}
    return [run for run in plan.runs if run in wanted]


def hours_of(plan: Plan, runs: Iterable[str], device: str | None = None) -> dict[str, tuple[float, float]]:
    """Return (device-hours, hours of the longest chain of jobs) of these runs, by unit: GPU or core.

    No number of devices can be faster than the chain: a job that starts from weights waits for the job that makes them.
    """
    total: dict[str, float] = {}
    ends: dict[str, tuple[str, float]] = {}  # when runs and states are there
    for made, needs, parts in _in_order(plan, set(runs)):
        costs = [(cost_of(spec, device), share) for spec, share in parts]
        unit, processes = DEVICES[costs[0][0].device].unit, costs[0][0].processes
        hours = (START[parts[0][0].kind] + sum(cost.seconds * share for cost, share in costs)) / 3600
        before = max((ends[name][1] for name in needs if name in ends), default=0.0)
        ends |= dict.fromkeys(made, (unit, hours + before))
        total[unit] = total.get(unit, 0.0) + hours * processes
    return {unit: (hours, max(end for of, end in ends.values() if of == unit)) for unit, hours in total.items()}


def _in_order(plan: Plan, wanted: set[str]) -> Iterator[tuple[list[str], set[str], list[tuple[AnySpec, float]]]]:
    """Yield what a cluster runs for the ``wanted`` runs: names of what is made and needed, and shares of runs.

    First come the states from which they branch, each a part of its run, which goes on from the last of them.
    """
    for state in _states(plan, wanted):
        spec, samples = plan.states[state]
        earlier = plan.states_of(spec.run, samples)
        yield [state], set(earlier[-1:]), [(spec, (samples - _seen(plan, earlier)) / spec.samples)]
    for job in plan.jobs.values():
        parts, needs = [], set()
        for spec in (spec for spec in job.specs if spec.run in wanted):
            own = plan.states_of(spec.run)
            parts.append((spec, 1 - _seen(plan, own) / spec.samples if own else 1.0))
            needs |= {*plan.starts(spec), *([plan.parents[spec.run]] if spec.run in plan.parents else [])}
        if parts:
            yield [spec.run for spec, _ in parts], needs, parts


def _states(plan: Plan, runs: Iterable[str]) -> list[str]:
    """Names of the states that these runs take, in order: their own, and those of their parents up to the branch."""
    taken: set[str] = set()
    for spec in (plan.runs[run] for run in runs):
        branch = spec.parent if spec.origin == "branch" else None
        taken.update(plan.states_of(branch.run, branch.samples + 1) if branch else plan.states_of(spec.run))
    return [state for state in plan.states if state in taken]


def _seen(plan: Plan, states: Sequence[str]) -> int:
    """Samples that a run has seen at the last of its states."""
    return plan.states[states[-1]][1] if states else 0


def report(
    plan: Plan,
    shown: Mapping[str, Sequence[str]],
    figure: str | None = None,
    device: str | None = None,
    devices: int | None = None,
) -> str:
    """Return the costs of a plan's figures, or of one, and of the whole as text, with all that they presume.

    ``shown`` are the runs that each figure shows; ``device`` replaces that of the config; ``devices`` is how
    many there are.
    """
    costs = {run: cost_of(spec, device) for run, spec in plan.runs.items()}
    parts = {name: needed(plan, shown, name) for name in ([figure] if figure else plan.figures)}
    whole = parts[figure] if figure else list(plan.runs)
    if not figure:
        parts["whole, each run once"] = whole
    units = list(dict.fromkeys(DEVICES[costs[run].device].unit for run in whole))
    rows = [("figure", "runs", "steps", "samples", *(f"{unit}-hours" for unit in units), "speed", "memory", "disk")]
    for name, runs in parts.items():
        mine, of = [costs[run] for run in runs], hours_of(plan, runs, device)
        hours = (_hours(of[unit][0] if unit in of else 0.0) for unit in units)
        speed = _speeds(mine)
        memory = _bytes(max(c.memory for c in mine)) + "!" * any(c.micro_batch is not None for c in mine)
        counts = (f"{len(mine):,}", f"{sum(c.steps for c in mine):,}", f"{sum(c.samples for c in mine):,}")
        rows.append((name, *counts, *hours, speed, memory, _bytes(sum(_disk(plan, runs, costs).values()))))
    lines = [text_table(rows), ""]
    for unit, (total, chain) in hours_of(plan, whole, device).items():
        times = [
            f"{n:,} {unit}{'s' * (n > 1)}: {_time(max(total / n, chain) * 3600)}"
            for n in ((devices,) if devices else PARALLEL)
        ]
        lines.append(
            f"time with {', '.join(times)}, if none is idle; the longest chain of jobs takes {_time(chain * 3600)}"
        )
    lines.append("disk: " + ", ".join(f"{what} {_bytes(size)}" for what, size in _disk(plan, whole, costs).items()))
    mine = [costs[run] for run in whole]
    return "\n".join([*lines, *_too_large(plan, mine), *_presumed(plan, mine)])


def hours_by_speed(costs: Iterable[Cost]) -> dict[str, float]:
    """Return the device-hours of runs by how their speed is known, without the start of their jobs."""
    hours = dict.fromkeys(SPEEDS, 0.0)
    for cost in costs:
        hours[cost.speed] += cost.hours
    return hours


def _speeds(costs: Sequence[Cost]) -> str:
    """Shares of the hours by how their speed is known, in percent that add up to 100; of one kind only its name."""
    hours = {speed: share for speed, share in hours_by_speed(costs).items() if share}
    if len(hours) == 1:
        return next(iter(hours))
    percent = {speed: max(1, round(100 * share / sum(hours.values()))) for speed, share in hours.items()}
    percent[max(hours, key=lambda speed: hours[speed])] += 100 - sum(percent.values())
    return ", ".join(f"{share}% {speed}" for speed, share in percent.items())


def _disk(plan: Plan, runs: Sequence[str], costs: Mapping[str, Cost]) -> dict[str, float]:
    """Bytes by what they hold."""
    sets = [dataset_named(name) for name in dict.fromkeys(plan.runs[run].data for run in runs) if name]
    return {
        "data to fetch": sum(data.download_bytes for data in sets),
        "data prepared": sum(data.prepared_bytes for data in sets),
        "weights": sum(costs[run].weights for run in set(plan.parents.values()).intersection(runs)),
        "states": sum(costs[plan.states[state][0].run].checkpoint / 2 for state in _states(plan, runs)),
        "tables": TABLE * len(runs),
        "a running job's checkpoint": max(costs[run].checkpoint for run in runs),
    }


def _too_large(plan: Plan, costs: Sequence[Cost]) -> Iterable[str]:
    """Yield a line for every experiment that has a run which does not fit into its device's memory."""
    experiments: dict[str, list[Cost]] = {}
    for cost in costs:
        if isinstance(spec := plan.runs[cost.run], Trained):
            experiments.setdefault(spec.experiment, []).append(cost)
    for name, mine in experiments.items():
        if any(cost.micro_batch is not None for cost in mine):
            fitting = [cost.share if cost.micro_batch is None else cost.micro_batch for cost in mine]
            would = f"micro_batch: {math.gcd(*fitting)} would fit" if min(fitting) else "no micro_batch would fit"
            # Batch norm over several processes takes no micro-batches, but smaller shares do the same.
            large = [(plan.runs[cost.run], cost.micro_batch) for cost in mine if cost.micro_batch]
            if min(fitting) and any(spec.processes > 1 and _profile(spec).norm for spec, _ in large):
                count = max(spec.processes * _examples_per_pass(spec) // fits for spec, fits in large)
                fit = not any(plan.runs[cost.run].batch_size % count for cost in mine)
                would = f"processes: {count} would fit" if fit else "batch norm over processes takes no micro_batch"
            device, most = DEVICES[mine[0].device], _bytes(max(cost.memory for cost in mine))
            room = f"{_bytes(ROOM * device.memory)} of the {device.model}'s {_bytes(device.memory)}"
            yield f"memory! {name}: up to {most}, which should be below {room}; {would}"


def _presumed(plan: Plan, costs: Sequence[Cost]) -> Iterable[str]:
    """Yield lines that say what the seconds rest on."""
    yield from dict.fromkeys(f"measured: examples per second of {cost.source}" for cost in costs if cost.source)
    yield from dict.fromkeys(f"{cost.speed}: {cost.assumed}" for cost in costs if cost.assumed)
    if any(cost.processes > 1 for cost in costs):
        yield f"estimated: several devices that share a run reach {EFFICIENCY:g} of separate ones; one evaluates"
    kinds = dict.fromkeys(plan.runs[cost.run].kind for cost in costs)
    yield "the start of a job: " + ", ".join(f"{START[kind]:g} s ({kind})" for kind in kinds)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _time(seconds: float) -> str:
    unit, size = next((u for u in (("h", 3600.0), ("min", 60.0)) if seconds >= u[1]), ("s", 1.0))
    return f"{_hours(seconds / size)} {unit}"


def _bytes(size: float) -> str:
    power = next((p for p in (12, 9, 6) if size >= 10**p), 3)
    return f"{size / 10**power:.3g} {'kMGT'[power // 3 - 1]}B"
