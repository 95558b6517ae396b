# What a cluster's profile says, checked before any job, and jobs whose processes are on several nodes.
from itertools import product

from adasde.experiments.cluster import accounts, partitions

# The resources of each place of the profile, as texts.
PROFILE = {
    place: {field: str(resource.raw).strip("'\"") for field, resource in values.items()}
    for place, values in {
        "default-resources": workflow.resource_settings.default_resources or {},
        **{
            f"set-resources: {rule}": values
            for rule, values in workflow.resource_settings.overwrite_resources.items()
        },
    }.items()
}

for place, values in PROFILE.items():
    for field, value in values.items():
        if "FILL-IN" in value:
            refuse(
                f"{place}: {field} = FILL-IN: write your cluster's own into the profile's config.yaml"
            )


# Asked once, not by every job: Slurm would let jobs fail one by one.
known = {"slurm_account": accounts, "slurm_partition": partitions}
for field, place in product(known, PROFILE if workflow.is_main_process else ()):
    for name in filter(None, PROFILE[place].get(field, "").split(",")):
        if (names := known[field]()) and name not in names:
            refuse(f"{place}: {field} = {name}: must be one of {', '.join(names)}")


# The most processes of a run that are on one node; None: all of them.
PER_NODE = PROFILE["default-resources"].get("processes_per_node")
if PER_NODE is not None:
    if not PER_NODE.isdecimal() or int(PER_NODE) == 0:
        refuse(
            f"default-resources: processes_per_node = {PER_NODE}: must be a whole number >= 1"
        )
    PER_NODE = int(PER_NODE)


def profiled(rule):
    """What the profile says of a rule's resources."""
    return PROFILE["default-resources"] | PROFILE.get(f"set-resources: {rule}", {})


def minutes(specs, rulename):
    """The minutes that a job of these runs asks for: no more than its partition allows."""
    asked = estimated(job_cost.job_minutes, specs, profiled(rulename).get("gpu_model"))
    named = profiled(rulename).get("slurm_partition", "").split(",")
    return int(min([asked, *(partitions().get(name, asked) for name in named if name)]))


def nodes(spec):
    """The number of nodes that a job of runs like this takes."""
    return job_cost.job_nodes(spec, PER_NODE)


try:
    for job in PLAN.jobs:
        nodes(specs(job)[0])
except InputError as error:
    refuse(error)


def placement(spec_of):
    """Resources by which the executor for Slurm places a job's processes, the same number on each of its nodes.

    A job on one node needs only the first. None leaves a resource out.
    """

    def several(value):
        def resource(wildcards, rulename):
            spec = spec_of(wildcards)
            each = spec.processes // nodes(spec)
            return value(spec, each, rulename) if nodes(spec) > 1 else None

        return resource

    def gpus(spec, each, rulename):
        names = ["gpu", profiled(rulename).get("gpu_model"), str(each)]
        return ":".join(filter(None, names)) if job_cost.job_gpus(spec) else None

    return {
        "nodes": lambda wildcards: nodes(spec_of(wildcards)),
        # The job starts its processes itself.
        "mpi": several(lambda spec, each, _: "srun"),
        "tasks": several(lambda spec, each, _: spec.processes if each == 1 else None),
        "tasks_per_node": several(lambda spec, each, _: each if each > 1 else None),
        # Or the executor would take `tasks` for them.
        "tasks_per_gpu": several(lambda spec, each, _: 0),
        "cpus_per_task": several(
            lambda spec, each, _: job_cost.job_cores(spec) // spec.processes
        ),
        "gres": several(gpus),
    }


def launcher(spec):
    """What starts a job of runs like this: several processes, one per GPU, are started by torchrun, or on several nodes by srun."""
    count, cores = spec.processes, job_cost.job_cores(spec) // spec.processes
    if nodes(spec) > 1:
        each = f"--ntasks-per-node={count // nodes(spec)} --cpus-per-task={cores}"
        return f"srun --nodes={nodes(spec)} --ntasks={count} {each} --kill-on-bad-exit=1 {PYTHON} -m adasde"
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {count} "
    return f"{PYTHON} {torchrun if count > 1 else ''}-m adasde"
