"""What a plan costs before it is launched: per figure, as a whole, and in how many hours with so many devices."""

import heapq
import math

from adasde.common import InputError, text_table
from adasde.experiments import cost
from adasde.workloads.data.registry import dataset_named

PARALLEL = (1, 8, 64)  # devices for which the time is told, unless a number of them is asked for


def needed(plan, shown: dict[str, list[str]], figure: str) -> list[str]:
    """Ids of the runs that a figure needs: those that it shows, and those from whose weights these start."""
    if figure not in plan.figures:
        raise InputError(f"figure = {figure!r}: must be one of {', '.join(plan.figures)}")
    mine = shown[figure]
    wanted = {*mine, *(plan.runs[run]["parent"]["run"] for run in mine if "parent" in plan.runs[run])}
    return [run for run in plan.runs if run in wanted]


def makespan(costs, devices: int) -> float:
    """Seconds in which so many devices of one kind finish all runs, none of them before the one it starts from.

    List scheduling: as devices become free, of the ready runs that fit the one with the longest way to the end starts.
    A run for more devices than there are takes them all, in proportion longer.
    """
    costs = {c.run: c for c in costs}
    width = {run: min(c.processes, devices) for run, c in costs.items()}
    length = {run: c.seconds * c.processes / width[run] for run, c in costs.items()}
    children = {}
    for run, c in costs.items():
        children.setdefault(c.parent if c.parent in costs else None, []).append(run)

    def freed(parent):
        for run in children.get(parent, ()):
            after = max((length[child] for child in children.get(run, ())), default=0.0)
            heapq.heappush(ready, (-length[run] - after, run))

    ready, running, free, now = [], [], devices, 0.0
    freed(None)
    while ready or running:
        too_wide = []
        while ready and free:
            rank, run = heapq.heappop(ready)
            if width[run] > free:
                too_wide.append((rank, run))
                continue
            free -= width[run]
            heapq.heappush(running, (now + length[run], run))
        for waiting in too_wide:
            heapq.heappush(ready, waiting)
        now, run = heapq.heappop(running)
        free += width[run]
        freed(run)
    return now


def report(plan, shown, figure: str | None = None, device: str | None = None, devices: int | None = None) -> str:
    """Return the costs of a plan's figures, or of one, and of the whole as text, with all that they presume."""
    costs = {run: cost.of(spec, device) for run, spec in plan.runs.items()}
    parts = {name: needed(plan, shown, name) for name in ([figure] if figure else plan.figures)}
    whole = parts[figure] if figure else list(plan.runs)
    if not figure:
        parts["whole, each run once"] = whole
    units = list(dict.fromkeys(cost.DEVICES[costs[run].device].unit for run in whole))
    rows = [("figure", "runs", "steps", "samples", *(f"{unit}-hours" for unit in units), "speed", "memory", "disk")]
    for name, runs in parts.items():
        mine = [costs[run] for run in runs]
        rows.append((
            name,
            f"{len(mine):,}",
            f"{sum(c.steps for c in mine):,}",
            f"{sum(c.samples for c in mine):,}",
            *(_hours(sum(c.hours for c in mine if cost.DEVICES[c.device].unit == unit)) for unit in units),
            " and ".join(sorted({"estimated" if c.assumed else "measured" for c in mine}, reverse=True)),
            _bytes(max(c.memory for c in mine)) + ("!" if any(c.micro_batch is not None for c in mine) else ""),
            _bytes(sum(_disk(plan, runs, costs).values())),
        ))  # fmt: skip
    mine = [costs[run] for run in whole]
    lines = [text_table(rows), ""]
    for unit in units:
        of_unit = [c for c in mine if cost.DEVICES[c.device].unit == unit]
        counts = (devices,) if devices else PARALLEL
        times = [f"{n:,} {unit}{'s' * (n > 1)}: {_time(makespan(of_unit, n))}" for n in counts]
        least = makespan(of_unit, sum(c.processes for c in of_unit))
        lines.append(f"time with {', '.join(times)}; never less than {_time(least)}, the longest chain of runs")
    lines.append("disk: " + ", ".join(f"{what} {_bytes(size)}" for what, size in _disk(plan, whole, costs).items()))
    return "\n".join([*lines, *_too_large(plan, mine), *_presumed(mine)])


def _disk(plan, runs, costs):
    """Bytes by what they hold."""
    sets = [dataset_named(name) for name in dict.fromkeys(name for run in runs for name in plan.datasets(run))]
    parents = set(plan.parents).intersection(runs)
    return {
        "data to fetch": sum(d.download_bytes for d in sets),
        "data prepared": sum(d.prepared_bytes for d in sets),
        "weights": sum(costs[run].weights for run in parents),
        "tables": cost.TABLE * len(runs),
        "a running job's checkpoint": max(costs[run].checkpoint for run in runs),
    }


def _too_large(plan, costs):
    """Yield a line for every experiment of which a run does not fit into its device's memory."""
    experiments = {}
    for c in costs:
        experiments.setdefault(plan.runs[c.run].get("experiment"), []).append(c)
    for name, mine in experiments.items():
        if all(c.micro_batch is None for c in mine):
            continue
        fitting = [c.share if c.micro_batch is None else c.micro_batch for c in mine]
        would = f"micro_batch: {math.gcd(*fitting)} would fit" if min(fitting) else "no micro_batch would fit"
        device, most = cost.DEVICES[mine[0].device], _bytes(max(c.memory for c in mine))
        room = f"{_bytes(cost.ROOM * device.memory)} of the {device.model}'s {_bytes(device.memory)}"
        yield f"memory! {name}: up to {most}, which should be below {room}; {would}"


def _presumed(costs):
    """Yield lines that say what the seconds rest on."""
    yield from dict.fromkeys(f"measured: examples per second of {c.source}" for c in costs if c.source)
    yield from dict.fromkeys(f"estimated: {c.assumed}" for c in costs if c.assumed)
    if any(c.processes > 1 for c in costs):
        yield f"estimated: several devices that share a run reach {cost.EFFICIENCY:g} of as many apart; one evaluates"
    yield f"the start of a job: {cost.START:g} s"


def _hours(hours):
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _time(seconds):
    unit, size = next((u for u in (("h", 3600.0), ("min", 60.0)) if seconds >= u[1]), ("s", 1.0))
    return f"{_hours(seconds / size)} {unit}"


def _bytes(size):
    power = next((p for p in (12, 9, 6) if size >= 10**p), 3)
    return f"{size / 10**power:.3g} {'kMGT'[power // 3 - 1]}B"
