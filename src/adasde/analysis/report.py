"""The report of a scale: one HTML file with every figure, its caption, setting and verdicts, and every claim."""

import base64
import csv
import shlex
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from adasde.analysis.claims.base import VERDICTS
from adasde.analysis.figures import captions
from adasde.common import InputError, atomic
from adasde.experiments.cells import Plan

FACTS = {"device": "device", "threads": "threads of a run", "adasde": "adasde", "python": "Python", "torch": "torch"}


def write_report(
    plan: Plan, shown: dict[str, list[str]], tables: Path, figures: Path, out: Path, config_files: list[str]
) -> None:
    """Write the report of a plan as one HTML file that needs no network. InputError names what is missing.

    ``shown`` are the runs of each figure (`figure_runs`). The folder ``tables`` holds runs.csv and claims.csv, and
    ``figures`` a PNG per figure. ``config_files`` are for the command that rebuilds a figure.
    """
    config_files = [_near(path) for path in config_files]
    runs, claims = _rows(tables / "runs.csv", "collect"), _rows(tables / "claims.csv", "claims")
    kinds: dict[str, list] = {}
    for claim in claims:
        kinds.setdefault(claim["id"].partition(".")[0], []).append(claim)
    groups: dict[str, list] = {}
    for figure in plan.figures:
        title, paragraphs = captions.caption(figure)
        groups.setdefault(title, []).append({
            "name": figure,
            "label": captions.label(plan, shown[figure], figure),
            "title": title,
            "caption": paragraphs,
            "image": _image(figures, figure),
            "setting": captions.setting(plan, shown[figure]),
            "claims": [claim for claim in claims if claim["figure"] == figure],
            "command": shlex.join(
                ["snakemake", "--cores", "1", _near(figures / f"{figure}.png"), "--configfile", *config_files]
            ),
        })  # fmt: skip
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("adasde.analysis").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        scale=plan.scale,
        facts=_facts(runs, config_files),
        claims=claims,
        kinds=kinds,
        figures=groups,
        verdicts=VERDICTS,
        number=_number,
    )
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _near(path):
    """A path below the working directory as people type it: the report names no folder of this machine."""
    whole = Path(path).resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(path)


def _rows(path, command):
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde {command}`")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _image(figures, name):
    path = figures / f"{name}.png"
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde figure {name}`")
    return base64.b64encode(path.read_bytes()).decode()


def _facts(runs, config_files):
    """What ran, for how long, on which device and versions."""
    hours = sum(float(run.get("seconds") or 0) for run in runs) / 3600
    memory = max(float(run.get("peak_bytes") or 0) for run in runs) / 1e9
    facts = {"config": ", ".join(config_files), "runs": f"{len(runs)}, {hours:.2f} hours in all, up to {memory:.1f} GB"}
    for name, title in FACTS.items():
        facts[title] = ", ".join(dict.fromkeys(run[name] for run in runs if run.get(name)))
    return facts


def _number(text):
    """A number of a table as people read it; NaN is unknown."""
    value = float(text or "nan")
    return "unknown" if value != value else f"{value:.3g}"
