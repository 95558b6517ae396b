"""The report of a scale: one HTML file with every figure, its caption, setting and verdicts, and every claim."""

import base64
import csv
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from adasde.analysis.claims.base import VERDICTS
from adasde.analysis.figures import captions
from adasde.common import InputError, atomic

FACTS = ("device", "threads", "adasde", "python", "torch", "numpy")


def write_report(
    plan, shown: dict[str, list[str]], tables: Path, figures: Path, out: Path, config_files: list[str]
) -> None:
    """Write the report of a plan as one file that needs no network.

    Args:
        plan: what the config asks for (`experiments.plan.plan`).
        shown: the runs that each figure is drawn from (`figures.registry.figure_runs`).
        tables: folder of runs.csv and claims.csv.
        figures: folder of the figures, PNG.
        out: HTML file to write, whole or not at all.
        config_files: files of the config, for the commands that rebuild a figure; empty for the default config.

    Raises:
        InputError: a table or a figure is missing.
    """
    runs, claims = _rows(Path(tables, "runs.csv"), "collect"), _rows(Path(tables, "claims.csv"), "claims")
    kinds = {}
    for claim in claims:
        kinds.setdefault(claim["id"].partition(".")[0], []).append(claim)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("adasde.analysis").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        scale=plan.scale,
        facts={name: dict.fromkeys(run[name] for run in runs if run.get(name)) for name in FACTS},
        count=len(runs),
        hours=sum(float(run["seconds"]) for run in runs if run.get("seconds")) / 3600,
        claims=claims,
        kinds=kinds,
        verdicts=VERDICTS,
        figures=[_figure(plan, shown[name], name, tables, figures) for name in plan.figures],
        command="snakemake --cores 1 {}" + (f" --configfile {' '.join(config_files)}" if config_files else ""),
        number=_number,
    )
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _rows(path, command):
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde {command}`")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _figure(plan, runs, name, tables, figures):
    """All that the template shows of a figure."""
    path = Path(figures, f"{name}.png")
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde figure {name}`")
    title, paragraphs = captions.caption(name)
    return {
        "name": name,
        "path": str(path),
        "label": captions.label(plan, runs, name),
        "title": title,
        "caption": paragraphs,
        "image": base64.b64encode(path.read_bytes()).decode(),
        "setting": captions.setting(plan, runs),
        "claims": captions.verdicts(Path(tables, "claims.csv")).get(name, []),
    }


def _number(text):
    """A number of a table as people read it; NaN is unknown."""
    value = float(text or "nan")
    return "unknown" if value != value else f"{value:.3g}"
