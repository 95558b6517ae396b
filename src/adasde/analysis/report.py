"""The report of a scale: one HTML file with the answer in five lines, the map, every figure, and every claim."""

import base64
import shlex
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from adasde.analysis.claims.base import VERDICTS
from adasde.analysis.claims.report import FIELDS, fields, read_claims
from adasde.analysis.figures import captions
from adasde.analysis.summary import five_lines
from adasde.analysis.tables import read_runs
from adasde.common import InputError, atomic, opened
from adasde.experiments.jobs import Plan

PNG = b"\x89PNG\r\n\x1a\n"  # with which a file in this format begins
LARGEST = 2**25  # bytes of one; a figure has some 200,000
FACTS = {"device": "device", "threads": "threads of a run", "adasde": "adasde", "python": "Python", "torch": "torch"}


def write_report(
    plan: Plan, shown: dict[str, list[str]], tables: Path, figures: Path, out: Path, config_files: list[str]
) -> None:
    """Write the report of a plan as one HTML file that needs no network. InputError names what is missing or damaged.

    The map comes first, whatever its place in the plan.

    Args:
        plan: The plan of the scale.
        shown: The runs of each figure (`figure_runs`).
        tables: Folder of runs.csv and claims.csv.
        figures: Folder with a PNG per figure.
        out: File to write.
        config_files: For the command that rebuilds a figure.
    """
    config_files = [_near(path) for path in config_files]
    runs, table = read_runs(tables), read_claims(tables / "claims.csv")
    claims = list(table.itertuples())
    kinds: dict[str, list] = {}
    for claim in claims:
        kinds.setdefault(claim.claim, []).append(claim)
    embedded = [
        _figure(plan, shown, figure, figures, claims, config_files)
        for figure in sorted(plan.figures, key=lambda figure: figure != "map")
    ]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("adasde.analysis").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        scale=plan.scale,
        lines=[line.split("**", 2)[1:] for line in five_lines(table)],
        facts=_facts(runs, config_files),
        claims=claims,
        kinds=kinds,
        figures=embedded,
        shown=plan.figures,
        verdicts=VERDICTS,
        names=FIELDS,
        fields=fields,
    )
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _figure(plan, shown, figure, folder, claims, config_files):
    """What the report says of one figure."""
    title, paragraphs = captions.caption(figure)
    command = ["snakemake", "--cores", "1", _near(folder / f"{figure}.png"), "--configfile", *config_files]
    return {
        "name": figure,
        "label": captions.label(plan, shown[figure], figure),
        "title": title,
        "caption": paragraphs,
        "image": _image(folder, figure),
        "setting": captions.setting(plan, shown[figure]),
        "claims": [claim for claim in claims if claim.figure == figure],
        "command": shlex.join(command),
    }


def _near(path):
    """A path below the working directory as people type it: the report names no folder of this machine."""
    whole = Path(path).resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(path)


def _image(figures, name):
    path = figures / f"{name}.png"
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it, by `adasde figure {name}`")
    with opened(path) as file:
        picture = file.read(LARGEST + 1)
    if not picture.startswith(PNG) or len(picture) > LARGEST:
        raise InputError(
            f"{path}: not a picture in PNG of at most {LARGEST:,} bytes; make it again, by `adasde figure {name}`"
        )
    return base64.b64encode(picture).decode()


def _facts(runs, config_files):
    """What ran, for how long, on which device and versions."""
    runs = runs.reindex(columns=["seconds", "peak_bytes", *FACTS])  # of tables that have no such column as well
    hours, memory = runs["seconds"].sum() / 3600, runs["peak_bytes"].max() / 1e9
    facts = {"config": ", ".join(config_files), "runs": f"{len(runs)}, {hours:.2f} hours in all, up to {memory:.1f} GB"}
    for name, title in FACTS.items():
        facts[title] = ", ".join(map(str, runs[name].dropna().unique()))
    return facts
