rule collect:
    input:
        expand("<results>/runs/{run}.parquet", run=PLAN.runs),
    output:
        trajectories="<results>/trajectories.parquet",
        simulations="<results>/simulations.parquet",
        runs="<results>/runs.csv",
    log:
        "<results>/logs/collect.log",
    benchmark:
        "<results>/benchmarks/collect.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        folder=subpath(output.runs, parent=True),
    shell:
        "adasde collect {input} --out {params.folder} > {log} 2>&1"


rule claims:
    input:
        "<results>/trajectories.parquet",
        "<results>/simulations.parquet",
    output:
        report(
            "<results>/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={"figure": "claims of all figures"},
        ),
    log:
        "<results>/logs/claims.log",
    benchmark:
        "<results>/benchmarks/claims.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        tables=subpath(input[0], parent=True),
    shell:
        "adasde claims {params.tables} --out {output} > {log} 2>&1"
