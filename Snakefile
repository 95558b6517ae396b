# The whole paper as a graph of jobs: `snakemake --cores all` builds every figure of the default scale, mini.
from snakemake.utils import min_version

min_version("9.0")

# --configfile merges into what is loaded here, so the default is loaded only where none was given.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/workflow/config/mini.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"


pathvars:
    data="results/data",
    results=f"results/{PLAN.scale}",
    figures=f"figures/{PLAN.scale}",


include: "workflow/rules/runs.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/figures.smk"


rule figures:
    input:
        expand(
            "<figures>/{figure}.{format}", figure=PLAN.figures, format=["png", "pdf"]
        ),


rule all:
    default_target: True
    input:
        tables(PLAN.runs),
        rules.collect.output,
        rules.figures.input,
        rules.claims.output,
        rules.report.output,
