rule collect:
    input:
        tables(PLAN.runs),
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
        "adasde collect {input:q} --out {params.folder:q} > {log:q} 2>&1"


# Made from the baseline's runs only. So no run at a larger batch can have a part in it.
rule forecast:
    input:
        lambda wildcards: tables(PLAN.baselines[wildcards.experiment]),
    output:
        "<results>/forecasts/{experiment}.json",
    log:
        "<results>/logs/forecasts/{experiment}.log",
    benchmark:
        "<results>/benchmarks/forecasts/{experiment}.tsv"
    conda:
        "../../envs/environment.yaml"
    shell:
        "adasde forecast {input:q} --out {output:q} > {log:q} 2>&1"


rule claims:
    input:
        "<results>/trajectories.parquet",
        "<results>/simulations.parquet",
        expand("<results>/forecasts/{experiment}.json", experiment=PLAN.baselines),
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
        "adasde claims {params.tables:q} --out {output:q} > {log:q} 2>&1"


# Figures with captions and settings, and every claim, as one file to open or to send.
rule report:
    input:
        "<results>/runs.csv",
        "<results>/claims.csv",
        figures=expand("<figures>/{figure}.png", figure=PLAN.figures),
    output:
        "<results>/report.html",
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        configs=[str(path) for path in workflow.configfiles],
        results=subpath(output[0], parent=True),
        figures=lambda wildcards, input: dirname(next(iter(input.figures), "./")),
    shell:
        "adasde report {params.configs:q} --results {params.results:q} --figures {params.figures:q} --out {output:q} > {log:q} 2>&1"
