"""Configs, specs and plan: configs multiplied out, and every mistake refused in one line."""

import copy
import math
import re
import subprocess
import sys
from functools import reduce
from operator import getitem

import pytest
import yaml

from adasde.analysis.figures.registry import figure_runs, plot_named
from adasde.common import InputError
from adasde.experiments import plan
from adasde.experiments.documents import merged
from adasde.experiments.specs import Simulation, Trained, spec_of
from adasde.scaling.documents import read_document
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.rules import RULES
from adasde.workloads.registry import WORKLOADS
from conftest import ROOT, changed

CONFIGS = sorted(path for path in (ROOT / "workflow/config").glob("*.yaml") if path.stem not in ("fashion", "quarter"))


@pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")
def test_fashion_mnist_can_be_laid_over_the_gpu_scale():
    laid = plan.plan(merged([ROOT / f"workflow/config/{name}.yaml" for name in ("gpu", "fashion")]))
    plain = plan.plan(read_document(ROOT / "workflow/config/gpu.yaml"))
    assert (laid.scale, laid.figures) == ("gpu-fashion", plain.figures)
    assert list(laid.runs) == list(plain.runs)
    assert all(spec.data == "fashion-mnist" for spec in laid.runs.values())


@pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")
def test_an_experiment_or_a_rule_that_is_null_is_left_out(config):
    names = [ROOT / f"workflow/config/{name}.yaml" for name in ("gpu", "fashion", "quarter")]
    quarter = plan.plan(merged(names))
    assert quarter.scale == "gpu-quarter"
    assert {spec.experiment for spec in quarter.runs.values()} == {
        "vgg16-adam", "vgg16-rmsprop", "resnet56-adam", "resnet56-rmsprop", "svag-vgg16-adam",
    }  # fmt: skip
    whole = plan.plan(config)
    config["experiments"]["extra"] = None
    assert plan.plan(config) == whole
    config["experiments"]["fashion-cnn-adam"]["rules"]["linear"] = None
    dropped = plan.plan(config).runs
    assert whole.runs.keys() - dropped.keys() == {f"fashion-cnn-adam.linear.k4.s{seed}" for seed in range(2)}
    assert all(whole.runs[run] == spec for run, spec in dropped.items())
    config["experiments"]["fashion-cnn-adam"]["rules"]["lineer"] = None
    with pytest.raises(InputError, match="rules.lineer: None is not of type 'object'"):
        plan.plan(config)


@pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")  # mini goes where the rule breaks
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_plans(path):
    planned = plan.plan(yaml.safe_load(path.read_text()))
    assert planned.scale == path.stem
    assert planned.runs
    for run, spec in planned.runs.items():
        assert spec.run == run
        if isinstance(spec, Simulation):
            continue
        assert spec.samples == spec.evaluate[-1]
        assert list(spec.evaluate) == sorted(set(spec.evaluate))
        assert all(samples % spec.batch_size == 0 for samples in spec.evaluate)
    for figure in planned.figures:
        assert plot_named(figure)


def test_runs_of_an_experiment_share_times_and_samples_and_initial_weights(config):
    specs = [spec for spec in plan.plan(config).runs.values() if isinstance(spec, Trained)]
    assert len({(s.experiment, s.evaluate, s.horizon, s.init_seed) for s in specs}) == len(
        config["experiments"] | config["branches"] | config["finetunings"]
    )


def test_a_spec_by_hand(config):
    spec = plan.plan(config).runs["fashion-cnn-adam.sqrt.k4.s1"]
    assert spec.batch_size == 128
    assert spec.seed == 1
    base = {k: v["value"] for k, v in config["experiments"]["fashion-cnn-adam"]["optimizer"].items() if k != "name"}
    wanted = AdamHyperparameters(**base).scaled(4)
    assert spec.document["optimizer"] == {"name": "adam", "variant": "paper", **vars(wanted)}
    assert spec.optimizer.hyperparameters == wanted
    assert spec.horizon == pytest.approx(base["lr"] ** 2 * spec.samples / 32)


def test_a_spec_of_svag_by_hand(config):
    planned = plan.plan(config)
    plain, spec = (planned.runs[f"svag-fashion-cnn-adam.{name}.s1"].document for name in ("sqrt.k1", "svag.l2"))
    differing = {key for key in spec if spec[key] != plain[key]}
    assert differing == {"run", "optimizer", "rule", "ell"}
    assert (spec["rule"], spec["kappa"], spec["ell"], plain["ell"]) == ("svag", 1, 2, 1)
    values = {k: v for k, v in plain["optimizer"].items() if k not in ("name", "variant")}
    assert spec["optimizer"] == {"name": "adam", "variant": "paper", **vars(AdamHyperparameters(**values).svag(2))}
    # Levels beside kappas in one experiment: the figure is named by the plot and the experiment.
    both = config["experiments"]["fashion-cnn-adam"]
    both["ell"] = {"value": [1, 4], "source": "ours"}
    config["figures"] = ["svag-fashion-cnn-adam"]
    del config["experiments"]["svag-fashion-cnn-adam"]
    runs = plan.plan(config).runs
    assert [r for r in runs if r.startswith("fashion-cnn-adam") and r.endswith("s0")] == [
        f"fashion-cnn-adam.{name}.s0" for name in ("sqrt.k1", "sqrt.k4", "linear.k4", "svag.l4")
    ]


def test_another_kappa_touches_no_other_run(config):
    before = plan.plan(config).runs
    config["experiments"]["fashion-cnn-adam"]["rules"]["sqrt"]["value"] = [1, 12]
    after = plan.plan(config).runs
    assert "fashion-cnn-adam.sqrt.k12.s0" in after
    shared = before.keys() & after.keys()
    assert len(shared) < len(before)
    assert all(before[run] == after[run] for run in shared)


def test_a_kappa_and_the_baseline_may_have_more_seeds(config):
    before = plan.plan(config).runs
    config["experiments"]["fashion-cnn-adam"]["more_seeds"] = given({"kappas": [4], "seeds": 5})
    after = plan.plan(config).runs
    assert {run: after[run] for run in before} == before
    more = {f"fashion-cnn-adam.sqrt.{level}.s{seed}" for level in ("k1", "k4") for seed in (2, 3, 4)}
    assert after.keys() - before.keys() == more


def given(value):
    return {"value": value, "source": "ours"}


def edit(path, value):
    def apply(config):
        *folders, last = path.split("/")
        for folder in folders:
            config = config[folder]
        config[last] = value

    return apply


def both(*changes):
    return lambda config: [change(config) for change in changes]


EXPERIMENT = "experiments/fashion-cnn-adam"
BRANCH = "branches/branch-cnn-adam"
SVAG = "experiments/svag-fashion-cnn-adam"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("colour", "blue"), "unknown key 'colour'; must be one of scale"),
        (edit(f"{EXPERIMENT}/kapas", [1]), "fashion-cnn-adam: unknown key 'kapas'; must be one of workload"),
        (edit(f"{EXPERIMENT}/workload", "fashion-cmm"), "workload = 'fashion-cmm': must be one of fashion-cnn"),
        (
            edit(f"{EXPERIMENT}/rules/sqr", {"value": [4], "source": "ours"}),
            "rule = 'sqr': must be one of sqrt",
        ),
        (edit(f"{EXPERIMENT}/optimizer/name", "adagrad"), "optimizer.name: 'adagrad' is not one of"),
        (edit(f"{EXPERIMENT}/optimizer/lr/value", -0.1), "optimizer.lr = -0.1: must be a finite number > 0"),
        (edit(f"{EXPERIMENT}/optimizer/lr/value", "1e-3"), "'1e-3' is not of type 'number' .YAML reads"),
        (edit(f"{EXPERIMENT}/optimizer/beta1/value", 1.0), r"optimizer.beta1 = 1: must be in \[0, 1\)"),
        (edit(f"{EXPERIMENT}/optimizer/beta", {"value": 0.9, "source": "ours"}), "unknown key 'beta'"),
        (edit(f"{EXPERIMENT}/optimizer/eps", 1e-8), "optimizer.eps: 1e-08 is not of type 'object'"),
        (edit(f"{EXPERIMENT}/optimizer/eps/source", "a friend"), "eps.source: 'a friend' is not one of"),
        (
            edit(f"{EXPERIMENT}/rules/sqrt/value", [1, 100]),
            "kappa = 100: too large for beta1 = 0.99.* below 100",
        ),
        (edit(f"{EXPERIMENT}/rules/sqrt/value", [2, 4]), "rules.sqrt = .2, 4.: must contain 1, the baseline"),
        (edit(f"{EXPERIMENT}/rules/sqrt/value", []), "rules.sqrt.value: "),
        (edit(f"{EXPERIMENT}/rules", {}), "rules: 'sqrt' is a required property"),
        (edit(f"{EXPERIMENT}/rules/none", {"value": [1], "source": "ours"}), "leave 1 to sqrt"),
        (
            edit(f"{EXPERIMENT}/rules/none", {"value": [1.3], "source": "ours"}),
            "batch size 32 would become 41.6",
        ),
        (
            edit(f"{EXPERIMENT}/rules/none", {"value": [2048], "source": "ours"}),
            "batch_size = 65536 .* larger than",
        ),
        (
            edit(f"{EXPERIMENT}/rules/none", {"value": [5], "source": "ours"}),
            "evaluate.every = 1536: .* 7680 would do",
        ),
        (edit(f"{EXPERIMENT}/batch_size/value", 0), "batch_size.value: 0 is less than the minimum of 1"),
        (edit(f"{EXPERIMENT}/seeds/value", 0), "seeds.value: 0 is less than the minimum of 1"),
        (edit(f"{EXPERIMENT}/epochs/value", 0.05), "evaluate.count = 3: the run has only 1 intervals"),
        (
            edit(f"{EXPERIMENT}/sampling/value", "shuffle"),
            "sampling = 'shuffle': must be replacement or epoch",
        ),
        (
            edit(f"{EXPERIMENT}/schedule", {"decays": {"value": [0.8, 0.6], "source": "ours"}}),
            "decays = .0.8, 0.6.: must increase",
        ),
        (
            edit("figures", ["scatter-fashion-cnn-adam"]),
            "figure = 'scatter-fashion-cnn-adam': must be one of map, scaling-EXPERIMENT",
        ),
        (
            edit("figures", ["scaling-fashion-cnn-adm"]),
            "'fashion-cnn-adm' is not an experiment that it can show; possible: scaling-fashion-cnn-adam",
        ),
        (
            edit("figures", ["branch-fashion-cnn-adam"]),
            "'fashion-cnn-adam' is not an experiment that it can show; possible: branch-cnn-adam",
        ),
        (
            edit("figures", ["rules-fashion-cnn"]),
            "figure = 'rules-fashion-cnn': must be one of map, scaling-EXPERIMENT",
        ),
        (edit("experiments", {}), "experiments: "),
        (edit("scale", "data"), "scale: 'data' is taken"),
        (edit("scale", "Mini"), "scale: 'Mini' must be lower-case letters"),
        (edit("scale", "x" * 101), "scale: 'x*... must have at most 100 characters"),
        (edit("experiments/" + "x" * 101, {}), "experiments.x*: 'x*... must have at most 100 characters"),
        (edit(f"{EXPERIMENT}/seeds/value", 2.0), "seeds.value: 2.0 is not of type 'integer'"),
        (edit(f"{EXPERIMENT}/seeds/value", 10**7), "seeds.value: 10000000 is greater than the maximum"),
        (edit(f"{EXPERIMENT}/epochs/value", math.nan), "epochs.value = nan: must be a finite number"),
        (edit(f"{EXPERIMENT}/epochs/value", -1), "epochs.value: -1 is less than or equal to the minimum of 0"),
        (edit(f"{EXPERIMENT}/epochs/value", 10**400), "epochs.value: .* is greater than the maximum"),
        (edit(f"{EXPERIMENT}/optimizer/lr/value", 1e200), "lr.value: 1e.200 is greater than the maximum"),
        (edit(f"{EXPERIMENT}/optimizer/lr", 7e-4), "lr: 0.0007 is not of type 'object' .write {value: 0.0007, source"),
        (edit("experiments", {5: {}}), "experiments: the key 5 is not text"),
        (edit(f"{EXPERIMENT}/evaluate/tested", 10_001), "evaluate.tested = 10001: larger than the 10000 examples"),
        (edit(f"{BRANCH}/evaluate/tested", 10**12), "evaluate.tested: .* is greater than the maximum of 1000000000"),
        (edit(f"{BRANCH}/evaluate/tested", 10_001), "branch-cnn-adam: evaluate.tested = 10001: larger than the"),
        (edit(f"{EXPERIMENT}/evaluate/count", 50_000_000), "evaluate.count: 50000000 is greater than the maximum of"),
        (edit(f"{EXPERIMENT}/evaluate/noise", 10**9), "evaluate.noise: 1000000000 is greater than the maximum of"),
        (edit(f"{EXPERIMENT}/evaluate/every", 10**400), "evaluate.every: .* is greater than the maximum"),
        (
            edit(f"{EXPERIMENT}/schedule", {"decay_factor": {"value": 0.5, "source": "ours"}}),
            "fashion-cnn-adam: decay_factor = 0.5: goes with decays, which the schedule has none of",
        ),
        (
            edit(f"{EXPERIMENT}/rules/sqrt/value", [1, 1.000000000001]),
            "fashion-cnn-adam.sqrt.k1.s0 is a run already; .* kappas and ells in their first six digits",
        ),
        (
            edit(f"{EXPERIMENT}/more_seeds", given({"kappas": [8], "seeds": 5})),
            "more_seeds = 8: must be a kappa above 1",
        ),
        (edit(f"{EXPERIMENT}/more_seeds", given({"kappas": [4], "seeds": 0})), "more_seeds.*: 0 is less than"),
        (edit(f"{SVAG}/ell/value", [2, 4]), "svag-fashion-cnn-adam: ell = .2, 4.: must contain 1, the plain run"),
        (edit(f"{SVAG}/ell/value", [1, 0.5]), "ell.value.1: 0.5 is less than the minimum of 1"),
        (edit(f"{SVAG}/ell/value", [1, "2"]), "ell.value.1: '2' is not of type 'number'"),
        (edit(f"{SVAG}/ell", [1, 2]), "ell: .1, 2. is not of type 'object'"),
        (
            edit(f"{SVAG}/ell/value", [1, 1.3]),
            "ell = 1.3: 256 samples .* would become 13.52 steps, .* whole number .nearest ell: 1.32287565553",
        ),
        (edit(f"{SVAG}/rules/svag", {"value": [2], "source": "ours"}), "rule = 'svag': must be one of sqrt, linear"),
        (
            edit("figures", ["svag-fashion-resnet-rmsprop"]),
            "'fashion-resnet-rmsprop' is not an experiment that it can show; possible: svag-fashion-cnn-adam",
        ),
        (
            both(edit(f"{SVAG}/ell/value", [1]), edit(f"{BRANCH}/ell/value", [1])),
            "possible: none, since no ell is above 1",
        ),
    ],
)
def test_mistakes_are_refused_in_one_line(change, message, config):
    change(config)
    with pytest.raises(InputError, match=message) as caught:
        figure_runs(plan.plan(config))
    assert "\n" not in str(caught.value)


def test_variants_and_runs_are_checked_as_well(config):
    number = {"value": 0.99, "source": "ours"}
    config["experiments"]["fashion-cnn-adam"]["optimizer"] = {
        "name": "rmsprop", "variant": {"value": "tf", "source": "ours"}, "lr": number, "beta": number, "eps": number,
    }  # fmt: skip
    with pytest.raises(
        InputError, match="fashion-cnn-adam: optimizer.variant = 'tf': must be one of paper, torch, authors"
    ):
        plan.plan(config)


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_config_that_is_no_mapping_is_refused_shortly(document):
    with pytest.raises(InputError, match="config: .* is not of type 'object'"):
        plan.plan(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": 99}, "recipe = 99: this version runs recipe 6"),
        ({"rule": "bogus"}, "rule = 'bogus': must be one of"),
        ({"workload": "bogus"}, "workload = 'bogus': must be one of"),
        ({"run": "../../evil"}, "run: '../../evil' must be lower-case"),
        ({"horizon": math.inf}, "horizon = inf: must be a finite number"),
        ({"batch_size": 32.0}, "batch_size: 32.0 is not of type 'integer'"),
        ({"evaluate": [13824, 1536]}, "evaluate = .13824, 1536.: must increase in multiples of the batch size 32"),
        ({"evaluate": [1536, 1536, 13824]}, "evaluate = "),
        ({"evaluate": [1536]}, "evaluate = .*to samples = 13824"),
        ({"evaluate": [100, 13824]}, "evaluate = "),
        ({"schedule": {"warmup": 2}}, "warmup = 2: must be in"),
        ({"ell": 2}, "ell = 2: does not go with rule 'sqrt' at kappa 1"),
        ({"rule": "svag"}, "ell = 1: does not go with rule 'svag'"),
        ({"rule": "svag", "ell": 2, "kappa": 4}, "ell = 2: does not go with rule 'svag' at kappa 4"),
        ({"rule": "svag", "ell": 0.9}, "ell: 0.9 is less than the minimum of 1"),
        ({"rule": "svag", "ell": 1.1}, "ell = 1.1: 1536 samples .* 58.08 steps"),
        ({"tested": 10**400}, "tested: .* is greater than the maximum"),
    ],
)
def test_a_spec_made_by_hand_is_checked_too(change, message, spec):
    assert spec_of(spec.document) == spec
    with pytest.raises(InputError, match=message):
        changed(spec, **change)


def numbers(node, place=()):
    """The places of all numbers in a document."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from numbers(value, (*place, key))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield place


@pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")
def test_no_number_of_a_spec_is_too_large_for_a_float():
    runs = plan.plan(read_document(ROOT / "workflow/config/overnight.yaml")).runs.values()
    kinds = {(type(spec), spec.kind, getattr(spec, "rule", None)): spec for spec in runs}
    for spec in kinds.values():
        for place in numbers(spec.document):
            document = copy.deepcopy(spec.document)
            node = reduce(getitem, place[:-1], document)
            node[place[-1]] = 10**400
            with pytest.raises(InputError, match=str(place[0])):
                spec_of(document)


def test_planning_imports_neither_torch_nor_snakemake():
    code = (
        "import sys, yaml, adasde.experiments.plan, adasde.cli;"
        "adasde.experiments.plan.plan(yaml.safe_load(open('workflow/config/mini.yaml')));"
        "print([m for m in ('torch', 'snakemake', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_every_number_of_a_config_has_its_source():
    """The models ask for it; this looks with other eyes: no bare number but the evaluation grid and a model's form."""

    def bare(node, place):
        if isinstance(node, dict):
            if "source" in node:
                return
            for key, value in node.items():
                yield from bare(value, f"{place}.{key}")
        elif (
            isinstance(node, int | float)
            and not isinstance(node, bool)
            and not re.search(r"\.(evaluate|workload)\.", place)
        ):
            yield place

    for path in CONFIGS:
        assert list(bare(yaml.safe_load(path.read_text()), path.stem)) == []


def test_the_registries_point_to_code():
    from importlib import import_module

    from adasde.analysis.figures.registry import MOMENTS, PLOTS
    from adasde.analysis.figures.style import RULE_STYLES
    from adasde.analysis.figures.style import RULES as NAMES

    assert all(hasattr(import_module(entry.module), "load") for entry in WORKLOADS.values())
    assert all(hasattr(import_module(plot.module), "plot") for plot in PLOTS.values())
    assert RULES.keys() | MOMENTS == NAMES.keys() == RULE_STYLES.keys()


def test_what_a_job_runs(config):
    planned = plan.plan(config)
    jobs = planned.jobs
    assert [spec.run for job in jobs.values() for spec in job.specs] == list(planned.runs)
    assert [spec.seed for spec in jobs["fashion-cnn-adam.sqrt.k4"].specs] == [0, 1]
    assert {"svag-fashion-cnn-adam.svag.l2", "finetune-roberta.k4", "finetune-roberta.scratch"} <= set(jobs)
    assert {"branch-cnn-adam.sqrt.k4", "branch-cnn-adam.sqrt.k4.keep"} <= set(jobs)
    assert planned.job_of["fashion-cnn-adam.sqrt.k4.s1"] == "fashion-cnn-adam.sqrt.k4"
    config["job"] = "run"
    assert list(plan.plan(config).jobs) == list(planned.runs)
    config["job"] = "experiment"
    jobs = plan.plan(config).jobs
    assert {name for name in jobs if "fashion-cnn-adam" in name} == {
        "fashion-cnn-adam.baseline", "fashion-cnn-adam.others",
"svag-fashion-cnn-adam",
    }  # fmt: skip
    assert [spec.run for spec in jobs["branch-cnn-adam.baseline"].specs] == [
        "branch-cnn-adam.sqrt.k1.s0", "branch-cnn-adam.sqrt.k1.s1",
    ]  # fmt: skip
    # However many seeds there are, the specs of a job fit into a command.
    config["experiments"]["fashion-cnn-adam"]["seeds"]["value"] = 400
    jobs = plan.plan(config).jobs
    assert max(len(job.document) for job in jobs.values()) < 131_072
    assert sum(len(job.specs) for name, job in jobs.items() if name.startswith("fashion-cnn-adam.")) == 1200
    assert "fashion-cnn-adam.others.1" in jobs


def test_a_branch_has_its_parent_s_recipe_at_its_own_batch(config):
    runs = plan.plan(config).runs
    names = ("fashion-cnn-adam.sqrt.k1", "branch-cnn-adam.sqrt.k1", "branch-cnn-adam.sqrt.k4")
    parent, base, four = (runs[f"{name}.s0"] for name in names)
    assert base.parent.model_dump() == {"run": parent.run, "spec_hash": parent.hash, "samples": 7680}
    assert (base.batch_size, base.samples, base.evaluate, base.noise) == (16, 3072, (1024, 3072), (0, 1024, 3072))
    assert base.optimizer.hyperparameters == parent.optimizer.hyperparameters.scaled(0.5)
    assert four.optimizer.hyperparameters == base.optimizer.hyperparameters.scaled(4)
    assert math.isclose(base.horizon, base.optimizer.lr**2 * 3072 / 16)
    assert four.noise == ()
    assert four.stream == base.stream != parent.stream
    assert plan.plan(config).states == {base.parent.state: (parent, 7680)}
    seeds = {runs[f"branch-cnn-adam.sqrt.k1.s{seed}"].parent.run for seed in (0, 1)}
    assert seeds == {parent.run}


def test_a_branch_keeps_the_factor_of_its_parent_s_schedule_and_scales_its_clip(config):
    parent, child = config["experiments"]["fashion-cnn-adam"], config["branches"]["branch-cnn-adam"]
    parent["schedule"] = {"decays": given([0.7]), "decay_factor": given(0.1)}
    parent["clip"] = given(1.0)
    before = plan.plan(config).runs["branch-cnn-adam.sqrt.k1.s0"]
    child["at"] = given(0.2)
    after = plan.plan(config).runs["branch-cnn-adam.sqrt.k1.s0"]
    assert math.isclose(after.optimizer.lr, 0.1 * before.optimizer.lr, rel_tol=1e-9)
    assert math.isclose(after.clip, 2**0.5)


POSSIBLE = "fashion-cnn-adam has a state from 0.000533 to 0.2304 epochs"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("parent", "nobody", "branches.branch-cnn-adam: parent = 'nobody': must be one of fashion-cnn-adam, "),
        ("at.value", 0.3, f"branches.branch-cnn-adam: at = 0.3: {POSSIBLE}"),
        ("at.value", 1e-5, f"at = 1e-05: {POSSIBLE}"),
        ("at.value", 0, "branches.branch-cnn-adam.at.value: 0 is less than or equal to the minimum of 0"),
        ("second_moments.value", ["keep"], "second_moments.value: must contain transport"),
        (
            "second_moments.value",
            ["transport", "new"],
            "second_moments.value.1: 'new' is not one of ['transport', 'keep', 'fresh']",
        ),
        ("rules.value", None, "branches.branch-cnn-adam.rules.value: None is not of type 'object'"),
        ("batch_size.value", 24, "evaluate.every = 512: batch size 24"),
    ],
)
def test_a_branch_that_cannot_be_is_refused(config, path, value, message):
    *parts, last = path.split(".")
    node = config["branches"]["branch-cnn-adam"]
    for part in parts:
        node = node[part]
    node[last] = value
    with pytest.raises(InputError) as caught:
        plan.plan(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_states_of_one_parent_follow_each_other(config):
    """Two groups of branches from one state share it; a later one is made from the earlier."""
    first = config["branches"]["branch-cnn-adam"]
    config["branches"] = {
        "late": {**first, "at": given(0.2)},
        "branch-cnn-adam": first,
        "other": {**first, "seeds": given(1)},
    }
    planned = plan.plan(config)
    parent = planned.runs["fashion-cnn-adam.sqrt.k1.s0"]
    early, late = (f"{parent.run}.{samples}" for samples in (7680, 12000))
    assert list(planned.states.items()) == [(early, (parent, 7680)), (late, (parent, 12000))]
    assert planned.states_of(parent.run) == [early, late]
    assert planned.states_of(parent.run, 12000) == [early]
    assert planned.states_of(parent.run, 7680) == planned.states_of("fashion-cnn-adam.sqrt.k1.s1") == []
    assert {planned.runs[f"{name}.sqrt.k4.s0"].parent.state for name in ("other", "branch-cnn-adam")} == {early}
    assert planned.parents.keys() == {run for run in planned.runs if run.startswith("finetune-roberta.k")}


def test_a_branch_must_not_replay_examples(config):
    """Without replacement a branch may take what is left of its parent's pass: here 0.872 epochs."""
    config["experiments"]["fashion-cnn-adam"]["sampling"]["value"] = "epoch"
    child = config["branches"]["branch-cnn-adam"]
    plan.plan(config)  # SVAG at ell = 2 draws 8 times 0.0512 epochs
    child["ell"]["value"] = [1, 4]
    with pytest.raises(InputError, match="svag.l4.s0 draws 98304 examples, and its parent leaves 52320"):
        plan.plan(config)
    child["ell"]["value"], child["epochs"]["value"] = [1], 0.9
    with pytest.raises(InputError, match="epochs = 0.9: branch-cnn-adam.sqrt.k1.s0 draws 53760 examples"):
        plan.plan(config)


def test_noise_is_not_measured_where_no_one_forecasts(config):
    evaluate = config["experiments"]["svag-fashion-cnn-adam"]["evaluate"]
    evaluate["noise"] = 0
    assert {spec.noise for spec in plan.plan(config).runs.values() if spec.run.startswith("svag")} == {()}
    evaluate["noise"] = 1
    with pytest.raises(InputError, match=r"evaluate.noise: must be at least 2, the start and the end, or 0"):
        plan.plan(config)
    evaluate["noise"] = 2
    config["experiments"]["fashion-cnn-adam"]["evaluate"]["noise"] = 0
    with pytest.raises(InputError, match=r"evaluate.noise = 0: kappa .1.*4.* need a forecast; must be at least 2"):
        plan.plan(config)
