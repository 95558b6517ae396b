"""What a report says of a figure beside its caption: a label to find it by, setting, verdicts. It imports no pandas."""

import csv
from pathlib import Path

from adasde.analysis.figures.registry import OPTIMIZERS
from adasde.experiments.studies import oracle_named
from adasde.workloads.registry import workload_named


def label(plan, runs: list[str], figure: str) -> str:
    """What a figure is found by: its name and the optimizers that it shows."""
    optimizers = dict.fromkeys(OPTIMIZERS[plan.runs[run]["optimizer"]["name"]] for run in runs)
    return f"{figure} ({', '.join(optimizers)})"


def setting(plan, runs: list[str]) -> list[str]:
    """A line on each experiment or simulation that a figure shows: what was trained, how, how large, how often."""
    groups = {}
    for run in runs:
        spec = plan.runs[run]
        groups.setdefault(spec["experiment"] if "task" in spec else run, []).append(spec)
    return [_setting(name, specs) for name, specs in groups.items()]


def verdicts(path) -> dict[str, list[str]]:
    """Return, for every figure, a line on each claim that it shows, from a file of verdicts.write if it is there."""
    lines = {}
    if Path(path).exists():
        with Path(path).open(newline="") as file:
            for claim in csv.DictReader(file):
                value, low, high = (f"{float(claim[name] or 'nan'):.3g}" for name in ("value", "low", "high"))
                lines.setdefault(claim.get("figure"), []).append(
                    f"{claim['statement']}: **{claim['verdict']}** ({claim['statistic']} {value}, "
                    f"95% interval {low} to {high}, n = {claim['n']}, threshold {claim['threshold']})"
                )
    return lines


def _setting(name, specs):
    first = next((s for s in specs if s.get("kappa") == 1 and s.get("ell") == 1), specs[0])
    numbers = {k: v for k, v in first["optimizer"].items() if isinstance(v, float | int) and not isinstance(v, bool)}
    optimizer = f"{first['optimizer']['name']}, {', '.join(f'{key} {value:g}' for key, value in numbers.items())}"
    if "study" in first:
        oracle = oracle_named(first["oracle"]).title
        return f"**{name}**: {oracle}; {optimizer}; {first['batches']} batches of paths"
    entry = workload_named(first["task"])

    def varied(field):
        return ", ".join(f"{value:g}" for value in sorted({spec[field] for spec in specs}))

    rules = {spec["rule"]: None for spec in specs if spec["rule"] not in ("sqrt", "svag", "finetune")}
    return "; ".join([
        f"**{name}**: {entry.title}",
        f"{optimizer} at batch size {first['batch_size']}",
        f"{first['samples'] / entry.train_size:.3g} epochs of {entry.train_size:,} examples",
        f"kappa {varied('kappa')}",
        *([f"ell {varied('ell')}"] if len({spec["ell"] for spec in specs}) > 1 else []),
        *([f"also by the rules {', '.join(rules)}"] if rules else []),
        f"seeds {varied('seed')}",
    ])  # fmt: skip
