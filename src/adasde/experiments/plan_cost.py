"""What a plan costs: device-hours, the longest chain of jobs, disk, and the report of `adasde plan`. Without torch."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from adasde.common import InputError, text_table
from adasde.experiments.cost import (
    DEVICES,
    EFFICIENCY,
    ROOM,
    SPEEDS,
    START,
    Cost,
    cost_of,
    examples_per_pass,
    profile_of,
)
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import AnySpec, Trained
from adasde.workloads.data.registry import dataset_named

PARALLEL = (1, 8, 64)  # numbers of devices for which a report says the time
TABLE = 30_000  # bytes that a run leaves in files other than weights, at most


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
            if min(fitting) and any(spec.processes > 1 and profile_of(spec).norm for spec, _ in large):
                count = max(spec.processes * examples_per_pass(spec) // fits for spec, fits in large)
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
