# On a cluster the nodes may have no way to the web, and what reads finished runs takes seconds: neither is sent there.
localrules:
    data,
    collect,
    claims,
    figure,


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
        "adasde data {wildcards.data} --data {params.root} > {log} 2>&1"


# Of a benchmark only the seconds are of use, since a job may be a fork; a run's table holds its own peak of memory.
# The checkpoint is no declared output, because Snakemake deletes those when a job fails; its name carries the spec's
# hash, so that a changed config starts anew. Data are verified by hash when loaded: their dates say nothing.
rule run:
    input:
        data=lambda wildcards: [
            ancient(f"<data>/{name}/manifest.json")
            for name in PLAN.datasets(wildcards.run)
        ],
        pretrained=lambda wildcards: [
            f"<results>/weights/{PLAN.runs[wildcards.run][key]['run']}.safetensors"
            for key in PLAN.runs[wildcards.run]
            if key == "parent"
        ],
    output:
        table="<results>/runs/{run}.parquet",
    log:
        "<results>/logs/runs/{run}.log",
    benchmark:
        "<results>/benchmarks/runs/{run}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: lambda wildcards: cores(wildcards.run)
    resources:
        gpu=lambda wildcards: gpus(wildcards.run),
        mem_mb=lambda wildcards: memory(wildcards.run),
        runtime=lambda wildcards: minutes(wildcards.run),
    params:
        data=lambda wildcards, input: (
            f"--data {dirname(dirname(input.data[0]))}" if input.data else ""
        ),
        pretrained=lambda wildcards, input: (
            f"--pretrained {input.pretrained[0]}" if input.pretrained else ""
        ),
        weights="",
        adasde=lambda wildcards: launcher(wildcards.run),
        spec=lambda wildcards: canonical(PLAN.runs[wildcards.run]),
        checkpoint=lambda wildcards: spec_hash(PLAN.runs[wildcards.run])[:12],
    # exec, so that a signal to the job reaches the run, which saves itself, and not a shell that would leave it behind.
    shell:
        "exec {params.adasde} run --spec {params.spec:q} {params.data} {params.pretrained} {params.weights} --out {output.table} "
        "--checkpoint {output.table}.{params.checkpoint}.checkpoint > {log} 2>&1"


# A run from whose final weights others start.
use rule run as pretrain with:
    output:
        table="<results>/runs/{run}.parquet",
        weights="<results>/weights/{run}.safetensors",
    wildcard_constraints:
        run="|".join(map(re.escape, PLAN.parents)) or "(?!)",
    params:
        data=lambda wildcards, input: (
            f"--data {dirname(dirname(input.data[0]))}" if input.data else ""
        ),
        pretrained="",
        weights=lambda wildcards, output: f"--weights {output.weights}",
        adasde=lambda wildcards: launcher(wildcards.run),
        spec=lambda wildcards: canonical(PLAN.runs[wildcards.run]),
        checkpoint=lambda wildcards: spec_hash(PLAN.runs[wildcards.run])[:12],


# What needs no GPU at any scale.
use rule run as simulate with:
    wildcard_constraints:
        run="|".join(map(re.escape, PLAN.simulations)) or "(?!)",


ruleorder: simulate > pretrain > run
