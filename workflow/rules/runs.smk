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
        lambda wildcards: ancient(f"<data>/{PLAN.dataset(wildcards.run)}/manifest.json"),
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
        root=subpath(input[0], ancestor=2),
        spec=lambda wildcards: canonical(PLAN.runs[wildcards.run]),
        checkpoint=lambda wildcards: spec_hash(PLAN.runs[wildcards.run])[:12],
    shell:
        "adasde run --spec {params.spec:q} --data {params.root} --out {output} "
        "--checkpoint {output}.{params.checkpoint}.checkpoint > {log} 2>&1"
