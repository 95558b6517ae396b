# The plan of the config, made by the library. A mistake in the config ends here, in one line, before any job.
import atexit
import os
import re
import shlex
import shutil
import sys
import warnings
from functools import cache
from os.path import dirname
from pathlib import Path

from adasde import InputError, ScalingWarning
from adasde.analysis.figures.registry import figure_runs
from adasde.common import check_writable, hold, one_line
from adasde.experiments import job_cost
from adasde.experiments.artifacts import (
    EARLIER,
    finished_runs,
    misplaced,
    other_code,
    other_code_line,
    specs_in,
)
from adasde.experiments.plan import plan
from adasde.experiments.specs import Trained
from adasde.scaling.documents import read_document
from adasde.workloads.registry import check_installed
from snakemake.logging import logger


def refuse(error):
    """End before any job, with one line."""
    sys.exit(f"adasde: error: {one_line(str(error))}")


for place in (workflow.basedir, Path.cwd(), *workflow.configfiles):
    if re.search("[{}\udc80-\udcff]", str(place)):
        refuse(
            f"{place}: a path must be UTF-8 and have no braces, which Snakemake takes for wildcards; rename it"
        )

if given := workflow.config_settings.config:
    refuse(
        f"--config {' '.join(given)}: reports and `adasde check` read files only; write it into a YAML file, the last "
        "after --configfile"
    )

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ScalingWarning)  # `adasde plan` prints them
    try:
        # It refuses what Snakemake's own reader lets pass, such as a key given twice.
        for file in workflow.configfiles:
            read_document(Path(file))
        PLAN = plan(config)
        first, *laid_over = map(Path, workflow.configfiles)
        if (
            not laid_over
            and first.match("workflow/config/*")
            and PLAN.scale != first.stem
        ):
            raise InputError(
                f"{first}: scale = {PLAN.scale}: must be {first.stem}, where make looks for its results"
            )
        SHOWN = figure_runs(PLAN)  # the runs that each figure is drawn from
        TABLES = Path(f"results/{PLAN.scale}/runs")
    except InputError as error:
        refuse(error)


@cache
def hold_scale():
    """Hold the scale while the graph runs. Snakemake's own locks outlive a graph that is killed, this one does not."""
    hold(f".snakemake/adasde.{PLAN.scale}", f"results/{PLAN.scale}")


def set_aside():
    """Move tables that hold other runs than their jobs aside, whose runs the jobs take from there.

    Snakemake sees from what is missing that a job has to run. From parameters it does not always: it takes a job that
    failed to add runs to its table for finished (9.27).
    """
    try:
        finished_runs(PLAN.runs, TABLES)
    except InputError:
        return  # runs of another config, which `begin` refuses
    try:
        for path in misplaced(PLAN.job_of, TABLES):
            hold_scale()
            (TABLES / EARLIER).mkdir(exist_ok=True)
            name = f"{path.stem}.{path.stat().st_mtime_ns}.parquet"
            path.replace(TABLES / EARLIER / name)
    except (InputError, OSError) as error:
        refuse(error)


if workflow.is_main_process:
    set_aside()


def begin():
    """Refuse what would fail later, and hold the scale."""
    try:
        finished = finished_runs(PLAN.runs, TABLES)
        check_installed(
            spec.workload for spec in PLAN.runs.values() if isinstance(spec, Trained)
        )
        check_compiler(PLAN.runs.values())
        for folder in (Path("results", PLAN.scale), Path("figures", PLAN.scale)):
            for inner in [folder, *filter(Path.is_dir, folder.rglob("*"))]:
                check_writable("output", inner / "file")
        hold_scale()
    except (InputError, OSError) as error:
        refuse(error)
    # `--logger adasde` estimates from it how long the graph will take.
    for specs_there in specs_in(TABLES / EARLIER).values():
        finished |= {spec["run"] for spec in specs_there}
    planned = {}
    for job in PLAN.jobs:
        if rest := [spec for spec in specs(job) if spec.run not in finished]:
            planned[job] = estimated(job_cost.job_seconds, rest)
    logger.info(None, extra={"planned_seconds": planned})


def check_compiler(specs):
    """Refuse torch.compile on this machine's cores without the compiler that it would look for."""
    name = os.environ.get("CXX", "g++")
    compiled = any(
        isinstance(spec, Trained) and (spec.engine, spec.device) == ("compile", "cpu")
        for spec in specs
    )
    if compiled and not shutil.which(name):
        raise InputError(
            f"engine = 'compile': needs a C++ compiler, and {name} is not here; install one, or take eager"
        )


def name_other_code():
    """Say which runs were made by different code."""
    files = [TABLES / f"{job}.parquet" for job in PLAN.jobs]
    if named := other_code(files):
        check = shlex.join(
            ["adasde", "check", *map(str, workflow.configfiles), "--delete"]
        )
        print(
            f"adasde: warning: {other_code_line(named)}. To make them again: `{check}`, and then this again.",
            file=sys.stderr,
        )


# At the end in any case: where there is nothing to do, Snakemake calls neither `onstart` nor `onsuccess`.
atexit.register(name_other_code)


onstart:
    begin()


onsuccess:
    if finished_runs(PLAN.runs, TABLES) == PLAN.runs.keys():
        shutil.rmtree(TABLES / EARLIER, ignore_errors=True)


def specs(job):
    """The specs of a job's runs."""
    return PLAN.jobs[job].specs


def tables(runs):
    """The files that hold these runs."""
    jobs = dict.fromkeys(PLAN.job_of[run] for run in runs)
    return expand("<results>/runs/{job}.parquet", job=jobs)


def data_of(specs):
    """The manifests of the data sets that runs learn. Their dates say nothing: data are verified by hash when read."""
    return [
        ancient(f"<data>/{name}/manifest.json")
        for name in {spec.data for spec in specs} - {None}
    ]


def pretrained(job):
    """The folders of the weights from which a job's runs start."""
    runs = [PLAN.parents[spec.run] for spec in specs(job) if spec.run in PLAN.parents]
    jobs = dict.fromkeys(PLAN.job_of[run] for run in runs)
    return expand("<results>/weights/{job}", job=jobs)


def states(job):
    """The states from which a job's runs branch, and from which those go on that others branch from."""
    names = dict.fromkeys(state for spec in specs(job) for state in PLAN.starts(spec))
    return expand("<results>/states/{state}.state", state=names)


def earlier(state):
    """The state before a state of the same run, from which the run goes on."""
    spec, samples = PLAN.states[state]
    names = PLAN.states_of(spec.run, samples)[-1:]
    return expand("<results>/states/{state}.state", state=names)


def figures_of(kind):
    """Names of the figures that show nothing but runs of one kind: ``vision``, ``language`` or ``theory``."""
    return [
        figure
        for figure, runs in SHOWN.items()
        if {PLAN.runs[run].kind for run in runs} == {kind}
    ]


def estimated(what, *arguments):
    """An estimate of a job's cost; 0, which leaves it to the cluster, where the workload's entry has no cost profile."""
    try:
        return what(*arguments)
    except InputError:
        return 0


# Jobs use the interpreter that runs Snakemake, whether or not its environment is active.
PYTHON = shlex.quote(sys.executable)
FUNCTION = f'adasde() {{ {PYTHON} -m adasde "$@"; }}; '
shell.prefix(FUNCTION.replace("{", "{{").replace("}", "}}"))  # it is formatted


wildcard_constraints:
    job="|".join(map(re.escape, PLAN.jobs)),
    experiment="|".join(map(re.escape, PLAN.baselines)) or "(?!)",
    state="|".join(map(re.escape, PLAN.states)) or "(?!)",
    figure="|".join(map(re.escape, PLAN.figures)) or "(?!)",
    data="[^/]+",
