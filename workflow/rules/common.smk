# The plan of the config, made by the library; a mistake in the config ends here, in one line, before any job.
import os
import re
import sys
import warnings
from os.path import dirname
from pathlib import Path

from adasde import InputError, ScalingWarning
from adasde.plan import plan
from adasde.schema import read
from adasde.store import canonical, spec_hash

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ScalingWarning)  # `adasde plan` prints them
    try:
        for file in workflow.configfiles:
            # Refuses what Snakemake's own reader lets pass: a key given twice.
            read(Path(file))
        PLAN = plan(config)
    except InputError as error:
        sys.exit(f"adasde: error: {error}")


def launcher(run):
    """What starts a run: several processes, one per GPU of a machine, are torchrun's."""
    count = PLAN.runs[run].get("processes", 1)
    torchrun = f"torchrun --standalone --nproc-per-node {count} -m "
    return f"{torchrun if count > 1 else ''}adasde"


# Jobs use the interpreter that runs Snakemake, whether or not its environment is active.
shell.prefix(f"export PATH={dirname(sys.executable)}:$PATH; ")


wildcard_constraints:
    run="[^/]+",
    figure="|".join(map(re.escape, PLAN.figures)),
    data="[^/]+",
