# On a cluster the nodes may have no way to the web, and what reads finished runs takes seconds: neither is sent there.
localrules:
    data,
    collect,
    forecast,
    claims,
    figure,
    report,


rule data:
    output:
        "<data>/{data}/manifest.json",
    log:
        "<results>/logs/data/{data}.log",
    benchmark:
        "<results>/benchmarks/data/{data}.tsv"
    conda:
        "../../envs/environment.yaml"
    params:
        root=subpath(output[0], ancestor=2),
    shell:
        "adasde data {wildcards.data} --data {params.root:q} > {log:q} 2>&1"


# The state of a run in mid-training, from which others branch: a checkpoint of the run, which goes on from it.
rule state:
    input:
        data=lambda wildcards: data_of([PLAN.states[wildcards.state][0]]),
        before=lambda wildcards: earlier(wildcards.state),
    output:
        "<results>/states/{state}.state",
    log:
        "<results>/logs/states/{state}.log",
    benchmark:
        "<results>/benchmarks/states/{state}.tsv"
    priority: 1000000  # many wait for it
    conda:
        "../../envs/environment.yaml"
    threads: lambda wildcards: job_cost.job_cores(PLAN.states[wildcards.state][0])
    resources:
        **placement(lambda wildcards: PLAN.states[wildcards.state][0]),
        gpu=lambda wildcards: job_cost.job_gpus(PLAN.states[wildcards.state][0]),
        mem_mb=lambda wildcards: estimated(
            job_cost.job_memory,
            PLAN.states[wildcards.state][:1],
            nodes(PLAN.states[wildcards.state][0]),
        ),
        runtime=lambda wildcards, rulename: minutes(
            PLAN.states[wildcards.state][:1], rulename
        ),
    params:
        options=lambda wildcards, input: [
            *(["--data", dirname(dirname(input.data[0]))] if input.data else []),
            *(["--before", *input.before] if input.before else []),
        ],
        adasde=lambda wildcards: launcher(PLAN.states[wildcards.state][0]),
        spec=lambda wildcards: PLAN.states[wildcards.state][0].canonical,
        samples=lambda wildcards: PLAN.states[wildcards.state][1],
        checkpoint=lambda wildcards: PLAN.states[wildcards.state][0].hash[:12],
    shell:
        "exec {params.adasde} state --spec {params.spec:q} --samples {params.samples} {params.options:q} "
        "--out {output:q} --checkpoint {output:q}.{params.checkpoint}.checkpoint > {log:q} 2>&1"


# Some runs, one after another. A changed seed count keeps what is finished, so the file is updated. The checkpoint is no
# declared output, because Snakemake deletes those when a job fails; its name has a hash of the specs, so that a changed
# config starts anew.
rule run:
    input:
        data=lambda wildcards: data_of(specs(wildcards.job)),
        pretrained=lambda wildcards: pretrained(wildcards.job),
        states=lambda wildcards: states(wildcards.job),
    output:
        table=update("<results>/runs/{job}.parquet"),
    log:
        "<results>/logs/runs/{job}.log",
    benchmark:
        "<results>/benchmarks/runs/{job}.tsv"
    priority: lambda wildcards: estimated(job_cost.job_seconds, specs(wildcards.job))  # long ones first, so that cores end together
    conda:
        "../../envs/environment.yaml"
    threads: lambda wildcards: job_cost.job_cores(specs(wildcards.job)[0])
    resources:
        **placement(lambda wildcards: specs(wildcards.job)[0]),
        gpu=lambda wildcards: job_cost.job_gpus(specs(wildcards.job)[0]),
        mem_mb=lambda wildcards: estimated(
            job_cost.job_memory, specs(wildcards.job), nodes(specs(wildcards.job)[0])
        ),
        runtime=lambda wildcards, rulename: minutes(specs(wildcards.job), rulename),
    params:
        options=lambda wildcards, input, output: [
            *(["--data", dirname(dirname(input.data[0]))] if input.data else []),
            *(["--pretrained", *input.pretrained] if input.pretrained else []),
            *(["--states", *input.states] if input.states else []),
            *(["--weights", output.weights] if hasattr(output, "weights") else []),
        ],
        adasde=lambda wildcards: launcher(specs(wildcards.job)[0]),
        spec=lambda wildcards: PLAN.jobs[wildcards.job].document,
        checkpoint=lambda wildcards: PLAN.jobs[wildcards.job].hash[:12],
    # exec, so that a signal to the job reaches the run, which saves itself, and not a shell that would leave it behind.
    shell:
        "exec {params.adasde} run --spec {params.spec:q} {params.options:q} --out {output.table:q} --overwrite "
        "--checkpoint {output.table:q}.{params.checkpoint}.checkpoint > {log:q} 2>&1"


# A job from whose final weights others start. The folder is not updated: after a kill Snakemake (9.27) would stumble over
# its own copy of it. So a new seed here runs all seeds again.
use rule run as pretrain with:
    output:
        table=update("<results>/runs/{job}.parquet"),
        weights=directory("<results>/weights/{job}"),
    wildcard_constraints:
        job="|".join(
            re.escape(PLAN.job_of[run]) for run in sorted(set(PLAN.parents.values()))
        )
        or "(?!)",


# What needs no GPU at any scale.
use rule run as simulate with:
    wildcard_constraints:
        job="|".join(
            re.escape(job.name)
            for job in PLAN.jobs.values()
            if job.specs[0].kind == "theory"
        )
        or "(?!)",


ruleorder: simulate > pretrain > run
