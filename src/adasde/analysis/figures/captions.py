"""What a report says of a figure beside the picture: label, caption and setting. It imports no pandas."""

from collections.abc import Sequence
from importlib.resources import files

from adasde.analysis.figures.registry import PLOTS, plot_named
from adasde.analysis.optimizers import TITLES, optimizer_name
from adasde.experiments.jobs import Plan
from adasde.experiments.oracles import oracle_named
from adasde.experiments.specs import AnySpec, Simulation, WeakOrder
from adasde.workloads.registry import workload_named


def label(plan: Plan, runs: Sequence[str], figure: str) -> str:
    """Name of a figure with the optimizers that it shows: what a reader searches for."""
    optimizers = dict.fromkeys(TITLES[optimizer_name(plan.runs[run])] for run in runs)
    return f"{figure} ({', '.join(optimizers)})"


def caption(figure: str) -> tuple[str, list[str]]:
    """Title and paragraphs of the Markdown file beside the figure's module; empty if there is no such file."""
    package, _, module = PLOTS[plot_named(figure)[0]].module.rpartition(".")
    path = files(package).joinpath(f"{module}.md") if package else None
    title, *paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n") if path and path.is_file() else [""]
    return title.removeprefix("# "), paragraphs


def report_caption(figure: str) -> str:
    """Return the caption in reStructuredText, as Snakemake's report shows it beside the figure."""
    title, paragraphs = caption(figure)
    return "\n\n".join([f"**{title}**", *(part.replace("`", "``") for part in paragraphs)])


def setting(plan: Plan, runs: Sequence[str]) -> dict[str, str]:
    """Return, for every experiment and simulation among ``runs``: what was trained, how, how large, how often."""
    groups: dict[str, list[AnySpec]] = {}
    for spec in (plan.runs[run] for run in runs):
        groups.setdefault(spec.run if isinstance(spec, Simulation) else spec.experiment, []).append(spec)
    return {name: _setting(specs) for name, specs in groups.items()}


def _setting(specs):
    first = next((s for s in specs if not isinstance(s, Simulation) and s.kappa == s.ell == 1), specs[0])
    numbers = (first.constants if isinstance(first, WeakOrder) else first.optimizer).model_dump()
    numbers = [f"{key} {value:g}" for key, value in numbers.items() if type(value) in (int, float)]
    optimizer = ", ".join([optimizer_name(first), *numbers])
    if isinstance(first, Simulation):
        return f"{oracle_named(first.oracle).title}; {optimizer}; {first.batches} batches of paths"
    entry = workload_named(first.workload)

    def varied(field):
        return ", ".join(f"{value:g}" for value in sorted({getattr(spec, field) for spec in specs}))

    rules = dict.fromkeys(spec.rule for spec in specs if spec.rule not in ("sqrt", "svag", "finetune"))
    return "; ".join([
        entry.title,
        f"{optimizer} at batch size {first.batch_size}",
        f"{first.samples / entry.train_size:.3g} epochs of {entry.train_size:,} examples",
        f"kappa {varied('kappa')}",
        *([f"ell {varied('ell')}"] if len({spec.ell for spec in specs}) > 1 else []),
        *([f"also by the rules {', '.join(rules)}"] if rules else []),
        f"seeds {varied('seed')}",
    ])  # fmt: skip
