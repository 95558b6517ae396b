# The plan of the config, made by the library. A mistake in the config ends here, in one line, before any job.
import re
import shlex
import sys
import warnings
from os.path import dirname
from pathlib import Path

from adasde import InputError, ScalingWarning
from adasde.analysis.figures.registry import figure_runs
from adasde.common import hold
from adasde.experiments import cost
from adasde.experiments.documents import read
from adasde.experiments.plan import plan
from snakemake.logging import logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ScalingWarning)  # `adasde plan` prints them
    try:
        for file in workflow.configfiles:
            read(
                Path(file)
            )  # refuses what Snakemake's own reader lets pass: a key given twice
        PLAN = plan(config)
        SHOWN = figure_runs(PLAN)  # the runs that each figure is drawn from
    except InputError as error:
        sys.exit(f"adasde: error: {error}")

# What a profile leaves to its user to fill in.
for place, values in (
    ("default-resources", workflow.resource_settings.default_resources or {}),
    *(
        (f"set-resources: {rule}", values)
        for rule, values in workflow.resource_settings.overwrite_resources.items()
    ),
):
    for field in values:
        if "FILL-IN" in str(values[field].raw):
            sys.exit(
                f"adasde: error: {place}: {field} = FILL-IN: write your cluster's own into the profile's config.yaml"
            )


def begin():
    """Hold the scale while the graph runs. Snakemake's own locks outlive a graph that is killed, this one does not."""
    try:
        hold(f".snakemake/adasde.{PLAN.scale}", f"results/{PLAN.scale}")
    except InputError as error:
        sys.exit(f"adasde: error: {error}")
    # `--logger adasde` estimates from it how long the graph will take.
    planned = {
        cell: estimated(cost.job_seconds, specs(cell))
        for cell in PLAN.cells
        if not Path(f"results/{PLAN.scale}/runs/{cell}.parquet").exists()
    }
    logger.info(None, extra={"planned_seconds": planned})


def specs(cell):
    """The specs of a cell's runs, which differ in their seed only."""
    return PLAN.cells[cell].specs


def tables(runs):
    """The files that hold these runs."""
    cells = dict.fromkeys(PLAN.cell_of[run] for run in runs)
    return expand("<results>/runs/{cell}.parquet", cell=cells)


def parents(cell):
    """The folders of the weights from which a cell's runs start."""
    runs = [spec.parent.run for spec in specs(cell) if spec.parent]
    cells = dict.fromkeys(PLAN.cell_of[run] for run in runs)
    return expand("<results>/weights/{cell}", cell=cells)


def figures_of(kind):
    """Names of the figures that show nothing but runs of one kind: ``vision``, ``language`` or ``theory``."""
    return [
        figure
        for figure, runs in SHOWN.items()
        if {PLAN.runs[run].kind for run in runs} == {kind}
    ]


def launcher(cell):
    """What starts a job: torchrun starts several processes, one per GPU of a machine."""
    count = specs(cell)[0].processes
    torchrun = f"torchrun --standalone --nproc-per-node {count} -m "
    return f"{torchrun if count > 1 else ''}adasde"


def estimated(what, *arguments):
    """An estimate of a job's cost; 0, which leaves it to the cluster, where the workload's entry has no cost profile."""
    try:
        return what(*arguments)
    except InputError:
        return 0


# Jobs use the interpreter that runs Snakemake, whether or not its environment is active.
shell.prefix(f"export PATH={shlex.quote(dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    cell="|".join(map(re.escape, PLAN.cells)),
    figure="|".join(map(re.escape, PLAN.figures)) or "(?!)",
    data="[^/]+",
