# A figure needs the runs that it shows, and no others: it can be rebuilt alone.
rule figure:
    input:
        lambda wildcards: expand(
            "<results>/runs/{run}.parquet", run=SHOWN[wildcards.figure]
        ),
    output:
        png=report(
            "<figures>/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            # One label alone: of several, Snakemake makes switches where two values are equally frequent.
            labels=lambda wildcards: {
                "figure": captions.label(
                    PLAN, SHOWN[wildcards.figure], wildcards.figure
                )
            },
        ),
        pdf="<figures>/{figure}.pdf",
    log:
        "<results>/logs/figures/{figure}.log",
    benchmark:
        "<results>/benchmarks/figures/{figure}.tsv"
    conda:
        "../../envs/environment.yaml"
    shell:
        "adasde figure {wildcards.figure} --runs {input} --out {output} > {log} 2>&1"


# Parts of the paper, each on its own.
rule vision:
    input:
        expand("<figures>/{figure}.png", figure=figures_of("vision")),


rule language:
    input:
        expand("<figures>/{figure}.png", figure=figures_of("language")),


rule theory:
    input:
        expand("<figures>/{figure}.png", figure=figures_of("theory")),
