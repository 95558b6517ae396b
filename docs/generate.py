"""Write the parts of the documentation that say numbers or list names: docs/generated, which is not committed.

`make docs` runs this before Sphinx. Tutorials are run on the way.
"""

import json
import warnings

import evidence_pages as evidence
import package_pages as package
from tables import ROOT
from tutorial_pages import write_pages

from adasde.analysis.cells import map_table
from adasde.analysis.claims.report import read_claims
from adasde.analysis.summary import five_lines
from adasde.scaling.rules import ScalingWarning

OUT = ROOT / "docs/generated"


def main():
    """Write every generated part."""
    warnings.simplefilter("ignore", ScalingWarning)  # kappa 64 is there to show where the rule breaks
    OUT.mkdir(exist_ok=True)
    claims = read_claims(evidence.REFERENCE / evidence.SCALE / "claims.csv")
    files = {
        "numbers.json": json.dumps(evidence.numbers(claims), indent=1),
        "part-lines.md": "".join(f"{number}. {line}\n" for number, line in enumerate(five_lines(claims), start=1)),
        "part-picture.md": f"![{evidence.CAPTION}](../{evidence.MAP})\n",
        "part-map.md": map_table(claims),
        "part-forecasts.md": evidence.forecasts(claims),
        "part-scores.md": evidence.scores(claims),
        "part-norms.md": evidence.norms(),
        "part-relatives.md": evidence.relatives(claims),
        "part-norm-drift.md": evidence.norm_drift(),
        "part-null.md": evidence.null(),
        "part-places.md": evidence.places(claims),
        "figures.md": evidence.figures_page(claims),
        "part-gpu.md": evidence.gpu(),
        "part-models.md": evidence.models(),
        "part-quarter.md": evidence.quarter(),
        "part-carried.md": evidence.carried(),
        "part-ramp.md": evidence.ramps(),
        "part-invariant.md": evidence.invariant(),
        "part-metrics.md": package.measured(),
        "part-workloads.md": package.workloads(),
        "part-datasets.md": package.datasets(),
        "part-commands.txt": package.printed("--help"),
        "part-plan.txt": package.printed("plan", str(ROOT / "workflow/config/paper.yaml"), "--device", "h100"),
        "part-budget.txt": package.printed("plan", str(ROOT / "workflow/config/paper.yaml"), "--budget", "100gpuh"),
        "api.md": package.api(),
        "options.md": package.options(),
    }
    for name, text in files.items():
        (OUT / name).write_text(text)
    write_pages(OUT / "tutorials")


if __name__ == "__main__":
    main()
