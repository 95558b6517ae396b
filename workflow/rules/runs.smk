# On a cluster the nodes may have no way to the web, and what reads finished runs takes seconds: neither is sent there.
localrules:
    data,
    collect,
    claims,
    figure,
    report,


rule data:
    output:
        "<data>/{data}/manifest.json",
    log:
        "<results>/logs/data/{data}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        root=subpath(output[0], ancestor=2),
    shell:
        "adasde data {wildcards.data} --data {params.root:q} > {log:q} 2>&1"


# A job is a cell: the runs of an experiment at one rule and level, one after another. A changed seed count keeps what is
# finished, so the file is updated. The checkpoint is no declared output, because Snakemake deletes those when a job fails;
# its name has a hash of the specs, so that a changed config starts anew. Data are verified by hash when they are loaded:
# their dates say nothing.
rule run:
    input:
        data=lambda wildcards: [
            ancient(f"<data>/{name}/manifest.json")
            for name in {spec.data for spec in specs(wildcards.cell)} - {None}
        ],
        pretrained=lambda wildcards: parents(wildcards.cell),
    output:
        table=update("<results>/runs/{cell}.parquet"),
    log:
        "<results>/logs/runs/{cell}.log",
    benchmark:
        "<results>/benchmarks/runs/{cell}.tsv"
    priority: lambda wildcards: estimated(cost.job_seconds, specs(wildcards.cell))  # long ones first, so that cores end together
    conda:
        "../../envs/environment.yaml"
    threads: lambda wildcards: cost.job_cores(specs(wildcards.cell)[0])
    resources:
        gpu=lambda wildcards: cost.job_gpus(specs(wildcards.cell)[0]),
        mem_mb=lambda wildcards: estimated(cost.job_memory, specs(wildcards.cell)),
        runtime=lambda wildcards: estimated(cost.job_minutes, specs(wildcards.cell)),
    params:
        options=lambda wildcards, input, output: [
            *(["--data", dirname(dirname(input.data[0]))] if input.data else []),
            *(["--pretrained", *input.pretrained] if input.pretrained else []),
            *(["--weights", output.weights] if hasattr(output, "weights") else []),
        ],
        adasde=lambda wildcards: launcher(wildcards.cell),
        spec=lambda wildcards: PLAN.cells[wildcards.cell].document,
        checkpoint=lambda wildcards: PLAN.cells[wildcards.cell].hash[:12],
    # exec, so that a signal to the job reaches the run, which saves itself, and not a shell that would leave it behind.
    shell:
        "exec {params.adasde} run --spec {params.spec:q} {params.options:q} --out {output.table:q} --overwrite "
        "--checkpoint {output.table:q}.{params.checkpoint}.checkpoint > {log:q} 2>&1"


# A cell from whose final weights others start. The folder is not updated: after a kill Snakemake (9.27) would stumble over
# its own copy of it. So a new seed here runs all seeds again.
use rule run as pretrain with:
    output:
        table=update("<results>/runs/{cell}.parquet"),
        weights=directory("<results>/weights/{cell}"),
    wildcard_constraints:
        cell="|".join(re.escape(PLAN.cell_of[run]) for run in sorted(PLAN.parents))
        or "(?!)",


# What needs no GPU at any scale.
use rule run as simulate with:
    wildcard_constraints:
        cell="|".join(
            re.escape(cell.name)
            for cell in PLAN.cells.values()
            if cell.specs[0].kind == "theory"
        )
        or "(?!)",


ruleorder: simulate > pretrain > run
