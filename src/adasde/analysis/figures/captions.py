"""What a report says of a figure beside the picture: label, caption, setting, verdicts. It imports no pandas."""

import csv
from importlib.resources import files
from pathlib import Path

from adasde.analysis.figures.registry import OPTIMIZERS, PLOTS, plot_named
from adasde.experiments.oracles import oracle_named
from adasde.workloads.registry import workload_named


def label(plan, runs: list[str], figure: str) -> str:
    """Name of a figure with the optimizers that it shows: what a reader searches for."""
    optimizers = dict.fromkeys(OPTIMIZERS[plan.runs[run]["optimizer"]["name"]] for run in runs)
    return f"{figure} ({', '.join(optimizers)})"


def caption(figure: str) -> tuple[str, list[str]]:
    """Title and paragraphs of the Markdown file beside the figure's module; empty if there is no such file."""
    package, _, module = PLOTS[plot_named(figure)[0]].module.rpartition(".")
    path = files(package).joinpath(f"{module}.md") if package else None
    title, _, text = path.read_text().partition("\n\n") if path and path.is_file() else ("", "", "")
    return title.removeprefix("# "), [part.replace("\n", " ").strip() for part in text.split("\n\n") if part.strip()]


def setting(plan, runs: list[str]) -> dict[str, str]:
    """Return, for every experiment and simulation among ``runs``: what was trained, how, how large, how often."""
    groups = {}
    for run in runs:
        spec = plan.runs[run]
        groups.setdefault(spec["experiment"] if "task" in spec else run, []).append(spec)
    return {name: _setting(specs) for name, specs in groups.items()}


def verdicts(path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a claims.csv by the figure that shows them; empty if there is no such file."""
    rows = {}
    if Path(path).exists():
        with Path(path).open(newline="") as file:
            for claim in csv.DictReader(file):
                rows.setdefault(claim["figure"], []).append(claim)
    return rows


def _setting(specs):
    first = next((s for s in specs if s.get("kappa") == 1 and s.get("ell") == 1), specs[0])
    numbers = {k: v for k, v in first["optimizer"].items() if isinstance(v, float | int) and not isinstance(v, bool)}
    optimizer = f"{first['optimizer']['name']}, {', '.join(f'{key} {value:g}' for key, value in numbers.items())}"
    if "study" in first:
        return f"{oracle_named(first['oracle']).title}; {optimizer}; {first['batches']} batches of paths"
    entry = workload_named(first["task"])

    def varied(field):
        return ", ".join(f"{value:g}" for value in sorted({spec[field] for spec in specs}))

    rules = {spec["rule"]: None for spec in specs if spec["rule"] not in ("sqrt", "svag", "finetune")}
    return "; ".join([
        entry.title,
        f"{optimizer} at batch size {first['batch_size']}",
        f"{first['samples'] / entry.train_size:.3g} epochs of {entry.train_size:,} examples",
        f"kappa {varied('kappa')}",
        *([f"ell {varied('ell')}"] if len({spec["ell"] for spec in specs}) > 1 else []),
        *([f"also by the rules {', '.join(rules)}"] if rules else []),
        f"seeds {varied('seed')}",
    ])  # fmt: skip
