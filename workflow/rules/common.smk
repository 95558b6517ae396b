# The plan of the config, made by the library; a mistake in the config ends here, in one line, before any job.
import math
import os
import re
import sys
import warnings
from os.path import dirname
from pathlib import Path

from adasde import InputError, ScalingWarning
from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import figure_runs
from adasde.common import canonical, hold, spec_hash
from adasde.experiments import cost
from adasde.experiments.config import read
from adasde.experiments.plan import plan
from adasde.workloads.registry import workload_named

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ScalingWarning)  # `adasde plan` prints them
    try:
        for file in workflow.configfiles:
            # Refuses what Snakemake's own reader lets pass: a key given twice.
            read(Path(file))
        PLAN = plan(config)
        SHOWN = figure_runs(PLAN)  # the runs that each figure is drawn from
    except InputError as error:
        sys.exit(f"adasde: error: {error}")


# What the captions of a report say beside what they are written with.
config["settings"] = {figure: captions.setting(PLAN, SHOWN[figure]) for figure in PLAN.figures}
config["verdicts"] = captions.verdicts(f"results/{PLAN.scale}/claims.csv")


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
    """What a graph does before its first job; Snakemake's own locks outlive a graph that is killed, this one does not."""
    try:
        hold(f".snakemake/adasde.{PLAN.scale}", f"results/{PLAN.scale}")
    except InputError as error:
        sys.exit(f"adasde: error: {error}")


def figures_of(kind):
    """Names of the figures that show nothing but runs of one kind: ``vision``, ``language`` or ``theory``."""
    return [
        figure
        for figure, runs in SHOWN.items()
        if {PLAN.kind(run) for run in runs} == {kind}
    ]


def launcher(run):
    """What starts a run: several processes, one per GPU of a machine, are torchrun's."""
    count = PLAN.runs[run].get("processes", 1)
    torchrun = f"torchrun --standalone --nproc-per-node {count} -m "
    return f"{torchrun if count > 1 else ''}adasde"


def gpus(run):
    """Number of GPUs that a run takes."""
    spec = PLAN.runs[run]
    return spec.get("processes", 1) if spec.get("device") == "cuda" else 0


def cores(run):
    """Number of cores that a run takes: one per process, and those that decode its examples."""
    spec = PLAN.runs[run]
    workers = workload_named(spec["task"]).workers if "task" in spec else 0
    return spec.get("processes", 1) * (1 + workers)


def memory(run):
    """Megabytes of a run's job; 0, which leaves it to the cluster, where the task's entry does not tell its cost."""
    try:
        return cost.memory(PLAN.runs[run])
    except InputError:
        return 0


def minutes(run):
    """Minutes after which a run's job is ended, and sent again: twice what it should take, and ten; 0 as for memory."""
    try:
        return math.ceil(10 + 2 * cost.seconds(PLAN.runs[run]) / 60)
    except InputError:
        return 0


# Jobs use the interpreter that runs Snakemake, whether or not its environment is active.
shell.prefix(f"export PATH={dirname(sys.executable)}:$PATH; ")


wildcard_constraints:
    run="[^/]+",
    figure="|".join(map(re.escape, PLAN.figures)),
    data="[^/]+",
