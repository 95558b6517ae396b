from adasde.analysis.figures.captions import report_caption


# A figure needs the runs that it shows, and no others: it can be rebuilt alone. A forecast in it is made anew from the
# baseline's rows among them; it equals the one that `rule forecast` writes.
rule figure:
    input:
        lambda wildcards: tables(SHOWN[wildcards.figure]),
    output:
        png=report(
            "<figures>/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf="<figures>/{figure}.pdf",
    log:
        "<results>/logs/figures/{figure}.log",
    benchmark:
        "<results>/benchmarks/figures/{figure}.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        caption=lambda wildcards: report_caption(wildcards.figure),
    shell:
        "adasde figure {wildcards.figure} --runs {input:q} --out {output:q} > {log:q} 2>&1"


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
