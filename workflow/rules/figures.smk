rule figure:
    input:
        "<results>/trajectories.parquet",
        "<results>/simulations.parquet",
    output:
        png=report(
            "<figures>/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
        ),
        pdf="<figures>/{figure}.pdf",
    log:
        "<results>/logs/figures/{figure}.log",
    benchmark:
        "<results>/benchmarks/figures/{figure}.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        tables=subpath(input[0], parent=True),
    shell:
        "adasde figure {wildcards.figure} --tables {params.tables} --out {output} > {log} 2>&1"
