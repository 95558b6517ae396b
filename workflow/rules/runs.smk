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


# The checkpoint is no declared output, because Snakemake deletes those when a job fails; its name carries the spec's
# hash, so that a changed config starts anew. Data are verified by hash when loaded: their dates say nothing.
rule run:
    input:
        lambda wildcards: [
            ancient(f"<data>/{name}/manifest.json")
            for name in PLAN.datasets(wildcards.run)
        ],
    output:
        "<results>/runs/{run}.parquet",
    log:
        "<results>/logs/runs/{run}.log",
    benchmark:
        "<results>/benchmarks/runs/{run}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    params:
        data=lambda wildcards, input: (
            f"--data {dirname(dirname(input[0]))}" if input else ""
        ),
        spec=lambda wildcards: canonical(PLAN.runs[wildcards.run]),
        checkpoint=lambda wildcards: spec_hash(PLAN.runs[wildcards.run])[:12],
    shell:
        "adasde run --spec {params.spec:q} {params.data} --out {output} "
        "--checkpoint {output}.{params.checkpoint}.checkpoint > {log} 2>&1"
