"""What runs, jobs and plans cost, against sums by hand and finished runs."""

import csv
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from adasde.analysis.figures.registry import figure_runs
from adasde.common import InputError
from adasde.experiments import cost, job_cost, plan, plan_cost
from adasde.experiments.documents import merged
from adasde.experiments.specs import spec_of
from adasde.experiments.throughput import COLUMNS, KEY
from adasde.scaling.documents import read_document
from adasde.workloads.registry import WORKLOADS, CostProfile, Entry
from conftest import ROOT, changed, save_run

SMOKE, MINI, PAPER = (ROOT / f"workflow/config/{name}.yaml" for name in ("smoke", "mini", "paper"))
REFERENCE = ROOT / "results/reference/mini/runs.csv"

pytestmark = pytest.mark.filterwarnings(
    "ignore::adasde.scaling.rules.ScalingWarning"
)  # mini goes where the rule breaks


@pytest.fixture
def smoke(config):
    return plan.plan(config)


def planned(path):
    return plan.plan(read_document(path))


def rows(text):
    """The table of a report: name -> {column: cell}."""
    lines = text.partition("\n\n")[0].splitlines()
    columns = lines[0].split()
    starts = [lines[0].index(f"  {c}") + 2 if n else 0 for n, c in enumerate(columns)]
    cells = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    return {name: dict(zip(columns[1:], rest, strict=True)) for name, *rest in cells[1:]}


def sized(batch_size):
    """The fields of a spec with this batch size, and evaluations that go with it."""
    return {"batch_size": batch_size, "samples": 100 * batch_size, "evaluate": [100 * batch_size]}


def throughput(task, size=""):
    with (ROOT / "src/adasde/experiments/throughput.csv").open() as file:
        return next(float(row["examples_per_second"]) for row in csv.DictReader(file)
                    if (row["workload"], row["device"], row["batch_size"]) == (task, "cpu-core", size))  # fmt: skip


# One run


def test_seconds_by_hand(smoke):
    """13,824 images are drawn; four evaluations test 1,000 of them and 1,000 others, each a third of the work."""
    plain, svag = smoke.runs["fashion-cnn-adam.sqrt.k4.s0"], smoke.runs["svag-fashion-cnn-adam.svag.l2.s0"]
    examples = 13_824 + 4 * 2_000 / 3
    seconds = examples / throughput("fashion-cnn", "128")
    assert cost.cost_of(plain).seconds == pytest.approx(seconds)
    assert job_cost.job_seconds([plain, plain]) == pytest.approx(cost.START["vision"] + 2 * seconds)
    assert cost.cost_of(plain).samples == 13_824
    assert cost.cost_of(plain).steps == 13_824 / 128
    # SVAG at ell draws 2 ell^2 times the samples, two minibatches of 32 in each step.
    assert cost.cost_of(svag).samples == 2 * 2**2 * svag.samples
    examples = 8 * svag.samples + 4 * 2_000 / 3
    assert cost.cost_of(svag).seconds == pytest.approx(examples / throughput("fashion-cnn", "64"))
    assert cost.cost_of(svag).speed == "estimated"
    assert cost.cost_of(svag).assumed == "SVAG: as fast as plain steps of both minibatches"
    # The baseline takes the gradient of 1,000 as well, in three of the evaluations.
    examples = 13_824 + 4 * 2_000 / 3 + 3 * 1000
    baseline = smoke.runs["fashion-cnn-adam.sqrt.k1.s0"]
    assert cost.cost_of(baseline).seconds == pytest.approx(examples / throughput("fashion-cnn", "32"))
    whole = cost.cost_of(changed(baseline, tested=None)).seconds  # all 10,000 test images
    assert whole == pytest.approx((examples + 4 * 9000 / 3) / throughput("fashion-cnn", "32"))


def test_simulations_by_hand(smoke):
    steps = {
        "weak-order.quadratic.rmsprop": 6 * 1024 * (256 + 32 + 16 + 8),  # over a time of 1
        "sde.softmax.adam": 4 * 8 * (4 * (1 + 4) + 4 * (4 + 8)),
        "breakdown.linear.rmsprop": 4 * 8 * (128 + 64 + 32),
    }
    for run, count in steps.items():
        spec = smoke.runs[run]
        rate = throughput(f"{spec.study}.{spec.oracle}")
        assert cost.cost_of(spec).seconds == pytest.approx(count / rate)
    unknown = cost.cost_of(changed(smoke.runs["breakdown.linear.rmsprop"], oracle="hidden-layer", examples=100))
    assert "as slow as on the slowest oracle measured" in unknown.assumed


def test_seconds_on_a_gpu_are_flops_over_a_share_of_the_peak(spec):
    spec = changed(spec, workload="wikitext103-gpt2", device="cuda", precision="tf32", samples=2**20,
                   evaluate=[2**19, 2**20], batch_size=512, tested=None)  # fmt: skip
    one = cost.cost_of(spec)
    rate = 494.5e12 * cost.UTILISATION["GPU", "language"]["tf32"] / (3 * 291_648_307_200)
    evaluating = (2 * 512 + 3 * (128 + 128) / 3) / rate  # at the start and twice more, with the noise but once
    assert one.device == "h100"
    assert one.seconds == pytest.approx(2**20 / rate + evaluating)
    assert "language in tf32" in one.assumed
    # Eight share the steps, at 0.9 of their speed, and wait for the one that evaluates.
    eight = cost.cost_of(changed(spec, processes=8))
    assert eight.seconds == pytest.approx(2**20 / rate / 8 / 0.9 + evaluating)
    assert eight.hours == pytest.approx(8 * eight.seconds / 3600)
    assert cost.cost_of(spec, "a100").seconds > 3 * one.seconds
    # In bf16 an H100 has been measured, at a batch of 64.
    near = cost.cost_of(changed(spec, precision="bf16"))
    assert near.seconds == pytest.approx(one.seconds, rel=0.5)
    assert cost.cost_of(changed(spec, precision="float32"), "cpu-core").seconds > 100 * one.seconds
    with pytest.raises(InputError, match="device = 'tpu': must be one of h100, h200, a100, cpu-core"):
        cost.cost_of(spec, "tpu")


def test_an_engine_has_a_speed_of_its_own(spec, monkeypatch):
    """One that was not measured is said to be as fast as eager, which is an estimate."""
    spec = changed(spec, workload="cifar10-resnet56", device="cuda", precision="tf32", tested=None, **sized(128))
    eager, graph = cost.cost_of(spec), cost.cost_of(changed(spec, engine="graph"))
    assert graph.seconds == eager.seconds
    assert eager.source
    assert (eager.speed, graph.speed) == ("measured", "estimated")
    assert (graph.source, graph.assumed) == (eager.source, "engine graph: as fast as eager")
    known = dict(cost._throughput())
    known["cifar10-resnet56", "h100", "tf32", "graph"] = {128: (4 * 5380.0, "a graph")}
    monkeypatch.setattr(cost, "_throughput", lambda: known)
    measured = cost.cost_of(changed(spec, engine="graph"))
    assert (measured.speed, measured.source, measured.assumed) == ("measured", "a graph", None)
    other = cost.cost_of(changed(spec, engine="graph", workload="fashion32-resnet56"))  # the same network
    assert (other.speed, other.source) == ("estimated", "a graph")
    assert other.assumed == "fashion32-resnet56: as fast as cifar10-resnet56"
    assert measured.seconds == pytest.approx(eager.seconds / 4)
    assert cost.cost_of(spec).seconds == eager.seconds
    # The graph keeps the memory of its step while the noise is measured.
    whole = (16 + 24) * 853_018 + (128 + 50) * 4_272_432 + 50_000 * 3072
    assert graph.memory == pytest.approx(whole)
    assert eager.memory == pytest.approx(whole - 24 * 853_018 - 50 * 4_272_432)


def test_memory_by_hand_and_the_micro_batch_that_fits(spec):
    spec = changed(spec, workload="wikitext103-gpt2", device="cuda", precision="bf16", **sized(512))
    large = cost.cost_of(spec)
    weights, one = 16 * 124_439_808, 1_348_562_944 * 0.61 + 514_631_680
    assert large.memory == pytest.approx(weights + 512 * one)
    assert large.micro_batch == 32  # 45 GB; 64 would be 88
    assert cost.cost_of(changed(spec, micro_batch=32)).memory == pytest.approx(weights + 32 * one)
    assert cost.cost_of(changed(spec, micro_batch=32)).memory == pytest.approx(44.97e9, rel=0.01)  # as measured
    assert cost.cost_of(changed(spec, micro_batch=32)).micro_batch is None
    assert cost.cost_of(changed(spec, precision="tf32")).micro_batch == 16
    assert cost.cost_of(changed(spec, **sized(64 * 3)), "h200").micro_batch == 64
    assert cost.cost_of(changed(spec, processes=8)).memory == pytest.approx(weights + 64 * one)
    assert cost.cost_of(changed(spec, rule="svag", ell=2, processes=8)).memory == pytest.approx(weights + 128 * one)
    assert cost.cost_of(spec, "cpu-core").micro_batch is None  # who knows how much there is
    # Of a large model with a small batch the measurement of the noise takes most: 40 bytes per weight.
    small = cost.cost_of(changed(spec, workload="wikibooks-roberta", batch_size=1))
    assert small.memory == pytest.approx(40 * 355_018_841 + 16 * 232_447_028)
    # Images stay on a GPU.
    images = cost.cost_of(changed(spec, workload="fashion-cnn"))
    assert images.memory == pytest.approx(16 * 20_746 + 512 * 22_000 / 2 + 60_000 * 784)


def test_no_micro_batch_helps_where_one_example_is_too_large(spec, monkeypatch):
    huge = CostProfile(parameters=1, flops=1.0, activations=1e12, sampled=1, graded=1, chunk=0, tested=1)
    monkeypatch.setitem(
        WORKLOADS, "huge", Entry("huge", "wiki-mini", "language", "adasde.workloads.language", huge, 1000)
    )
    assert cost.cost_of(changed(spec, workload="huge", device="cuda")).micro_batch == 0
    for least, fitting in ((1, 1), (2, 0)):  # batch norm may need two
        profile = replace(huge, activations=4e10, least=least)
        monkeypatch.setitem(WORKLOADS, "huge", replace(WORKLOADS["huge"], profile=profile))
        assert cost.cost_of(changed(spec, workload="huge", device="cuda")).micro_batch == fitting
    monkeypatch.setitem(WORKLOADS, "new", Entry("new", "wiki-mini", "language", "adasde.workloads.language"))
    with pytest.raises(InputError, match="workload = 'new': its entry has no cost profile"):
        cost.cost_of(changed(spec, workload="new"))


def test_finished_runs_took_what_is_said_of_them():
    """All jobs of mini together within a tenth, and none more memory than Slurm would be asked for."""
    runs = planned(MINI).runs
    with REFERENCE.open() as file:
        done = {row["run"]: row for row in csv.DictReader(file)}
    assert len(runs.keys() & done.keys()) > 150
    told = took = 0.0
    for run in runs.keys() & done.keys():
        one = cost.cost_of(runs[run])
        if one.steps == float(done[run]["steps"] or 0):
            told += one.seconds
            took += float(done[run]["seconds"])
        assert job_cost.job_memory([runs[run]]) > float(done[run]["peak_bytes"]) / 1e6
    assert told == pytest.approx(took, rel=0.1)


def test_host_memory_beside_a_gpu_has_room_for_a_checkpoint(spec):
    spec = changed(spec, workload="wikibooks-roberta", device="cuda", precision="bf16", **sized(256))
    parameters = 355_018_841
    assert job_cost.job_memory([spec]) > 24 * parameters / 1e6
    more = job_cost.job_memory([changed(spec, processes=8)]) - job_cost.job_memory([spec])
    assert more == pytest.approx(7 * 1.5 * (6e9 + 4 * parameters) / 1e6, abs=2)
    assert isinstance(job_cost.job_memory([spec]), int)
    images = changed(spec, workload="imagenet-resnet50")  # which 16 processes decode
    assert job_cost.job_cores(images) == 17
    assert (job_cost.job_gpus(images), job_cost.job_gpus(changed(images, processes=8))) == (1, 8)
    assert job_cost.job_memory([images]) > 1.5 * (6e9 + 16 * job_cost.WORKER) / 1e6
    many = changed(spec, processes=8)
    assert job_cost.job_memory([many], nodes=8) == pytest.approx(job_cost.job_memory([spec]), abs=2)


@pytest.mark.parametrize(
    ("processes", "most", "nodes"),
    [(1, None, 1), (1, 8, 1), (8, None, 1), (8, 8, 1), (8, 4, 2), (6, 4, 2), (2, 1, 2), (9, 4, 3)],
)
def test_processes_go_over_as_few_nodes_as_hold_them_evenly(processes, most, nodes, spec):
    spec = changed(spec, processes=processes, **sized(processes * 32))
    assert job_cost.job_nodes(spec, most) == nodes


@pytest.mark.parametrize(
    ("processes", "most", "fitting"), [(13, 8, "12 or 14"), (11, 8, "10 or 12"), (5, 4, "4 or 6"), (10, 4, "9 or 12")]
)
def test_processes_that_few_nodes_cannot_share_are_refused(processes, most, fitting, spec):
    with pytest.raises(InputError, match=rf"processes = {processes}: .* of at most {most}; take {fitting}$"):
        job_cost.job_nodes(changed(spec, processes=processes, **sized(processes * 32)), most)


def test_the_time_of_a_job_is_that_of_the_gpu_that_it_asks_for(spec):
    spec = changed(spec, workload="wikitext103-gpt2", device="cuda", precision="bf16", tested=None, **sized(64))
    default, a100 = job_cost.job_minutes([spec] * 100), job_cost.job_minutes([spec] * 100, "a100")
    assert a100 > 2 * default
    assert job_cost.job_minutes([spec] * 100, "h100") == job_cost.job_minutes([spec] * 100, "rtx4090") == default
    cores = changed(spec, workload="fashion-cnn", device="cpu", precision="float32")
    assert job_cost.job_minutes([cores], "a100") == job_cost.job_minutes([cores])


# A plan


def test_runs_that_figures_share_are_counted_once(smoke):
    found = rows(plan_cost.report(smoke, figure_runs(smoke)))
    whole = found["whole, each run once"]
    assert whole["runs"] == str(len(smoke.runs)) == "32"
    assert sum(int(found[f]["runs"]) for f in smoke.figures) > 32
    # A state is a job, of a part of its run.
    hours = (sum(job_cost.job_seconds(job.specs) for job in smoke.jobs.values()) + cost.START["vision"]) / 3600
    assert float(whole["core-hours"]) == pytest.approx(hours, rel=0.01)
    assert found["scaling-fashion-cnn-adam"]["samples"] == f"{6 * 13_824:,}"
    for name, shown in figure_runs(smoke).items():
        samples = sum(cost.cost_of(smoke.runs[run]).samples for run in plan_cost.needed(smoke, {name: shown}, name))
        assert found[name]["samples"] == f"{samples:,}"


def test_a_figure_of_fine_tuning_needs_the_pre_training_first(smoke):
    shown = figure_runs(smoke)
    runs = plan_cost.needed(smoke, shown, "finetune")
    assert {run for run in runs if run.startswith("roberta-adam")} == set(smoke.parents.values()) != set()
    assert set(shown["finetune"]) < set(runs)
    total, chain = plan_cost.hours_of(smoke, runs)["core"]
    cells = {name: job_cost.job_seconds(job.specs) / 3600 for name, job in smoke.jobs.items()}
    mine = [name for name in cells if name.startswith(("roberta-adam", "finetune"))]
    assert total == pytest.approx(sum(cells[name] for name in mine))
    chains = [cells[f"roberta-adam.sqrt.k{kappa}"] + cells[f"finetune-roberta.k{kappa}"] for kappa in (1, 4)]
    assert chain == pytest.approx(max(chains))
    text = plan_cost.report(smoke, shown, "finetune", devices=100)
    assert f"100 cores: {chain * 60:.3g} min" in text or f"100 cores: {chain * 3600:.3g} s" in text


def test_states_and_branches_by_hand(config):
    """A parent of 13,824 samples is cut at its states after 7,680 and 12,000; what starts from them waits for them."""
    first = config["branches"]["branch-cnn-adam"]
    config["branches"]["late"] = {**first, "at": {"value": 0.2, "source": "ours"}}
    planned = plan.plan(config)
    start = cost.START["vision"]
    parents = [f"fashion-cnn-adam.sqrt.k1.s{seed}" for seed in (0, 1)]
    parent, other = (cost.cost_of(planned.runs[run]).seconds for run in parents)
    branch = cost.cost_of(planned.runs["branch-cnn-adam.sqrt.k4.s0"]).seconds

    def seconds(*runs):
        return [3600 * hours for hours in plan_cost.hours_of(planned, runs)["core"]]

    early = start + parent * 7680 / 13_824
    late = start + parent * 4320 / 13_824
    rest = start + parent * 1824 / 13_824 + other
    # Its own states are made wherever the parent is wanted, the branches or not.
    assert seconds(*parents) == pytest.approx([early + late + rest] * 2)
    # A branch takes its parent's state, and not the rest of the parent.
    assert seconds("branch-cnn-adam.sqrt.k4.s0") == pytest.approx([early + start + branch] * 2)
    assert seconds("late.sqrt.k4.s0") == pytest.approx([early + late + start + branch] * 2)
    two = seconds("late.sqrt.k4.s0", "branch-cnn-adam.sqrt.k4.s0")
    assert two == pytest.approx([early + late + 2 * (start + branch), early + late + start + branch])
    # Seeds of one cell share a job.
    shared = cost.cost_of(planned.runs["late.sqrt.k4.s1"]).seconds
    assert seconds("late.sqrt.k4.s0", "late.sqrt.k4.s1") == pytest.approx([early + late + start + branch + shared] * 2)
    # A branch draws 3,072 samples in steps of 64, and is evaluated three times, on 1,000 examples of each set.
    examples = 3072 + 3 * 2_000 / 3
    assert branch == pytest.approx(examples / throughput("fashion-cnn", "64"))
    costs = {run: cost.cost_of(spec) for run, spec in planned.runs.items()}
    state = 24 * 20_746  # bytes: weights, two averages, the last gradient, its variance and that of half the examples
    for runs, count in (
        (["late.sqrt.k4.s0"], 2),
        (["branch-cnn-adam.sqrt.k4.s0"], 1),
        (parents, 2),
        (["roberta-adam.sqrt.k1.s0"], 0),
    ):
        assert plan_cost._disk(planned, runs, costs)["states"] == count * state


def test_a_report_marks_what_is_measured_estimated_and_too_large(smoke):
    shown = figure_runs(smoke)
    here = plan_cost.report(smoke, shown)
    speeds = {name: row["speed"] for name, row in rows(here).items()}
    assert speeds["scaling-fashion-cnn-adam"] == speeds["finetune"] == "measured"
    mixed = r"\d\d% measured, \d\d% estimated"
    assert re.fullmatch(mixed, speeds["branch-cnn-adam"])  # one of its batches was not run
    assert "unknown" not in here
    assert "measured: examples per second of finished runs on Intel(R) Xeon(R) Processor" in here
    there = plan_cost.report(smoke, shown, device="h100")
    assert rows(there)["finetune"]["speed"] == "estimated"
    assert rows(there)["weak-order"]["speed"] == "measured"  # on the CPU
    assert re.fullmatch(mixed, rows(there)["forecast"]["speed"])  # the simulations, on a core
    assert {"GPU-hours", "core-hours"} <= rows(there)["forecast"].keys()
    assert "!" not in here + there
    paper = planned(PAPER)
    for run, spec in paper.runs.items():  # whatever the config says, here each run is on one GPU, a batch in one pass
        rest = {k: v for k, v in spec.document.items() if k not in ("processes", "micro_batch")}
        paper.runs[run] = spec_of({**rest, "device": "cuda", "precision": "bf16"})
    text = plan_cost.report(paper, figure_runs(paper))
    assert rows(text)["scaling-gpt2-adam"]["memory"].endswith("TB!")
    assert "gpt2-adam: up to 11 TB, which should be below 60 GB of the NVIDIA H100's 80 GB; micro_batch: 32" in text
    assert "estimated: language in bf16: 0.12 of the 989 TFLOP/s of one h100" in text


def test_batch_norm_over_several_processes_is_offered_more_of_them_and_no_micro_batch():
    """A batch of 16,384 over four processes is 104 GB; a micro_batch of 2,048 would be refused by every job."""
    experiment = read_document(PAPER)["experiments"]["resnet50-adam"]
    experiment |= {"processes": {"value": 4, "source": "ours"}, "seeds": {"value": 1, "source": "ours"}}
    experiment["evaluate"] |= {"every": 16384}

    def said(*kappas):
        own = experiment | {"rules": {"sqrt": {"value": [1, *kappas], "source": "ours"}}}
        document = {"scale": "one", "device": "cuda", "experiments": {"one": own}, "figures": []}
        return plan_cost.report(plan.plan(document), {})

    assert "memory!" not in said(16)
    assert re.search(r"memory! one: up to 10\d GB, .*; processes: 8 would fit", said(64))
    experiment["batch_size"] = {"value": 260, "source": "ours"}  # eight do not divide it
    experiment["evaluate"] |= {"every": 64 * 260}
    assert re.search(r"memory! one: .*; batch norm over processes takes no micro_batch", said(64))


def test_a_speed_is_measured_only_at_its_own_precision_and_batch(spec):
    on_gpu = {"workload": "cifar10-vgg16", "device": "cuda", "precision": "tf32"}
    for changes, speed, assumed in (
        ({}, "measured", None),
        (sized(2048), "measured", None),
        (sized(512), "estimated", "other batches: as fast per example as the nearest measured"),
        ({**sized(256), "processes": 2}, "estimated", None),  # 128 each, by an assumed efficiency
        ({"workload": "cifar10-vgg16", "device": "cpu", "precision": "float32"}, "estimated", "0.4 of the"),
        ({"device": "cpu", "precision": "bf16"}, "unknown", "vision in bf16 on one cpu-core: as fast as in float32"),
    ):
        found = cost.cost_of(changed(spec, **{**on_gpu, **sized(128), **changes}))
        assert (found.speed, (assumed or "") in (found.assumed or "")) == (speed, True), changes
        assert bool(found.assumed) == bool(assumed)
    # bf16 on a core rests on what was measured in float32, and still is unknown.
    assert cost.cost_of(changed(spec, precision="bf16")).speed == "unknown"
    assert cost.cost_of(spec).speed == "measured"


def test_shares_of_the_hours_add_up_to_them(smoke):
    paper = planned(PAPER)
    for whole, device in ((paper, None), (paper, "cpu-core"), (smoke, "h100")):
        costs = {run: cost.cost_of(spec, device) for run, spec in whole.runs.items()}
        for runs in (*figure_runs(whole).values(), whole.runs):
            hours = plan_cost.hours_by_speed([costs[run] for run in runs])
            assert set(hours) == set(cost.SPEEDS)
            assert sum(hours.values()) == pytest.approx(sum(costs[run].hours for run in runs))
        for row in rows(plan_cost.report(whole, figure_runs(whole), device=device)).values():
            percents = [int(part.partition("%")[0]) for part in row["speed"].split(", ") if "%" in part]
            assert (sum(percents) == 100 and min(percents) > 0) or row["speed"] in cost.SPEEDS
    speeds = {name: row["speed"] for name, row in rows(plan_cost.report(paper, figure_runs(paper))).items()}
    assert speeds["scaling-imagenet-adam"] == "33% measured, 67% estimated"  # the baseline's batch is one of three
    assert speeds["scaling-vgg16-rmsprop"] == "estimated"  # its engine was not measured
    assert speeds["scaling-roberta-adam"] == "estimated"
    away = rows(plan_cost.report(paper, figure_runs(paper), device="cpu-core"))
    assert away["whole, each run once"]["speed"] == "18% estimated, 82% unknown"  # bf16 on a core


def test_measured_speeds_are_those_of_the_reference(adasde, tmp_path):
    """What `plan` reads of an H100 is what the table of steps says, and nothing else."""
    out = tmp_path / "throughput.csv"
    assert adasde("throughput", ROOT / "results/reference/gpu/steps.csv", "--out", out).returncode == 0
    with (ROOT / "src/adasde/experiments/throughput.csv").open() as file:
        kept = [row for row in csv.DictReader(file) if row["device"] != "cpu-core"]
    with out.open() as file:
        assert kept == list(csv.DictReader(file))


def test_one_figure_alone(adasde, smoke):
    done = adasde("plan", SMOKE, "--figure", "finetune", "--gpus", 2)
    assert list(rows(done.stdout)) == ["finetune"]
    assert rows(done.stdout)["finetune"]["runs"] == "5"
    assert "time with 2 cores: " in done.stdout
    assert "8 cores" not in done.stdout
    specs = json.loads(adasde("plan", SMOKE, "--figure", "finetune", "--json").stdout)
    assert [spec["run"] for spec in specs] == plan_cost.needed(smoke, figure_runs(smoke), "finetune")
    assert "time with 1 core: " in adasde("plan", SMOKE).stdout


@pytest.mark.parametrize("options", [[], ["--runs"], ["--json"], ["--device", "h100"]])
def test_a_cost_is_told_without_torch_in_a_second(options):
    code = (
        f"import sys; from adasde.cli import main; main(['plan', {str(PAPER)!r}, *{options!r}]);"
        "print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # seconds of a core, whatever else the machine does
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 1.0
    assert done.stderr.splitlines()[-1] == "[]"


# Several configs


def test_configs_merge_as_snakemake_merges_them(adasde, tmp_path):
    from snakemake.utils import update_config

    texts = {
        "first": "experiments: {finetune: &a {x: {value: 1, source: ours}}, other: *a}\nfigures: [a, b]",
        "second": "experiments: {finetune: {x: {value: 2}, y: {z: 1}}}\nfigures: [c]",
        "third": "experiments: {finetune: {y: 3}, more: {w: {v: 1}}}\nscale: x",
    }
    paths, expected = [], {}
    for name, text in texts.items():
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(text)
        update_config(expected, yaml.safe_load(text))
    assert merged(paths) == expected
    assert expected["experiments"]["finetune"] == {"x": {"value": 2, "source": "ours"}, "y": 3}
    assert expected["experiments"]["other"]["x"]["value"] == 1

    (tmp_path / "seeds.yaml").write_text("experiments: {fashion-cnn-adam: {seeds: {value: 5}}}")
    (tmp_path / "none.yaml").write_text("")
    specs = json.loads(adasde("plan", SMOKE, tmp_path / "seeds.yaml", "--json").stdout)
    assert sum(spec.get("experiment") == "fashion-cnn-adam" for spec in specs) == 3 * 5
    done = adasde("check", SMOKE, tmp_path / "seeds.yaml", "--results", tmp_path)
    assert done.stdout.splitlines()[-1] == f"0 of {len(specs)} runs are there, whole and as planned"
    done = adasde("plan", SMOKE, tmp_path / "none.yaml")
    assert done.returncode == 2
    assert done.stderr == f"adasde: error: {tmp_path / 'none.yaml'}: None is not a mapping, so it cannot be merged\n"


# Facts


def test_steps_measured_on_a_gpu_are_throughput(adasde, tmp_path):
    out, steps = tmp_path / "throughput.csv", ROOT / "results/reference/gpu/steps.csv"
    assert adasde("throughput", steps, "--out", out).returncode == 0
    found = {(r["workload"], r["precision"], r["batch_size"]): r for r in csv.DictReader(out.open())}
    wanted = [row for row in csv.DictReader(steps.open()) if row["ell"] == "1"]
    assert len(found) == len(wanted)
    for row in wanted:
        rate = found[row["workload"], row["precision"], row["batch_size"]]
        assert float(rate["examples_per_second"]) == float(row["examples_per_second"])
        assert (rate["device"], rate["engine"]) == ("h100", "eager")  # in a table of the time before there were engines
    row = {**wanted[0], "engine": "graph", "examples_per_second": "99", "decoded_per_second": "nan"}
    (tmp_path / "steps.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    assert adasde("throughput", tmp_path / "steps.csv", "--out", out).returncode == 0
    more = list(csv.DictReader(out.open()))
    assert len(more) == len(wanted) + 1
    assert [r["examples_per_second"] for r in more if r["engine"] == "graph"] == ["99"]
    header = "workload,device,torch,precision,engine,batch_size,examples_per_second,ell"
    for row, words in {
        "fashion-cnn,Quadro,2,bf16,eager,1,1,1": "device = Quadro: must be one of NVIDIA H100, NVIDIA H200, ",
        "nope,NVIDIA H100,2,bf16,eager,1,1,1": "workload = 'nope': must be one of",
        "fashion-cnn,NVIDIA H100,2,bf16,grph,1,1,1": "engine = 'grph': must be one of eager, compile, graph",
        "fashion-cnn,NVIDIA H100,2,fp8,eager,1,1,1": "precision = 'fp8': must be one of float32, bf16, tf32",
        "fashion-cnn,NVIDIA H100,2,bf16,eager,1,1,2": "says no speed of a plain run on one device: 1 of SVAG",
        "1,2": "not a table of speeds",
    }.items():
        (tmp_path / "other.csv").write_text(f"{header}\n{row}\n")
        done = adasde("throughput", tmp_path / "other.csv", "--out", tmp_path / "none.csv")
        assert done.returncode == 2
        assert done.stderr.startswith(f"adasde: error: {tmp_path / 'other.csv'}: {words}")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none.csv").exists()


def test_throughput_is_work_over_seconds(adasde, spec, tmp_path, caplog):
    facts = {"threads": 1, "device": "AMD EPYC", "torch": "2.0"}
    done = [(spec.run, 432, 0.1, "test_loss", 1.0)]
    paths = []

    def run(rows, spec, **changes):
        paths.append(tmp_path / f"{len(paths)}.parquet")
        save_run(paths[-1], rows, spec, **{**facts, "seconds": 2.0, **changes})

    run(done, spec)
    run(done, spec, seconds=4.0)
    run([(spec.run, 100, 0.1, "diverged", 1.0)], spec, seconds=0.1)  # what did not come to its end says nothing
    run(done, changed(spec, rule="svag", ell=2), seconds=0.1)
    run(done, spec, threads=2, seconds=0.1)
    gpu = changed(spec, device="cuda", precision="bf16")
    run(done, gpu, device="NVIDIA H100 80GB HBM3", seconds=1.0)
    run(done, changed(gpu, engine="graph"), device="NVIDIA H100 80GB HBM3", seconds=0.5)
    out = tmp_path / "throughput.csv"
    # As it was written before there were engines.
    header = ",".join(name for name in COLUMNS if name != "engine")
    out.write_text(f"{header}\nfashion-cnn,cpu-core,float32,32,1.0,1,old\nother,h100,bf16,,2.0,1,x\n")
    assert adasde("throughput", *paths, "--out", out).returncode == 0
    assert caplog.messages == [
        "left out, since they say nothing of a plain run on one device: "
        "1 that did not come to their end, 1 of SVAG, 1 on several cores"
    ]
    examples = 13_824 + 4 * 2_000 / 3 + 3 * 1000
    found = [
        (*(r[name] for name in KEY), float(r["examples_per_second"]), r["runs"]) for r in csv.DictReader(out.open())
    ]
    assert found == [
        ("fashion-cnn", "cpu-core", "float32", "eager", "32", pytest.approx(2 * examples / 6.0, rel=1e-3), "2"),
        ("fashion-cnn", "h100", "bf16", "eager", "32", pytest.approx(examples, rel=1e-3), "1"),
        ("fashion-cnn", "h100", "bf16", "graph", "32", pytest.approx(2 * examples, rel=1e-3), "1"),
        ("other", "h100", "bf16", "eager", "", 2.0, "1"),
    ]
    run(done, gpu, device="AMD Instinct MI300X")
    done = adasde("throughput", *paths, "--out", out)
    assert "device = AMD Instinct MI300X: must be one of NVIDIA H100, NVIDIA H200, NVIDIA A100; others" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "\0",
            "a" * 200_000,
            "\n" * 100,
            ",".join(COLUMNS) + "\n1,2\n",
            ",".join(COLUMNS) + "\na,b,c,e,x,1,1,1\n",
        ),
        *(",".join(COLUMNS) + f"\na,b,c,e,1,{speed},1,1\n" for speed in ("x", "nan", "0", "inf", "")),
        ",".join(COLUMNS) + '\na,"b,c,e,1,1,1,1\n',
    ],
)
def test_an_odd_table_of_speeds_is_one_line(text, adasde, spec, tmp_path):
    save_run(tmp_path / "a.parquet", [(spec.run, 432, 0.1, "test_loss", 1.0)], spec, seconds=1.0, threads=1)
    path = tmp_path / "odd.csv"
    path.write_text(text)
    for read, out in ((path, tmp_path / "x.csv"), (tmp_path / "a.parquet", path)):
        done = adasde("throughput", read, "--out", out)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "odd.csv: not a table of speeds" in done.stderr
    assert path.read_text() == text
    assert not (tmp_path / "x.csv").exists()


def test_a_pipe_or_a_huge_file_is_no_table_of_speeds(adasde, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(2**40)
    for name, words in (("pipe.csv", "is a pipe"), ("huge.csv", "bytes; such a file has at most")):
        done = adasde("throughput", tmp_path / name, "--out", tmp_path / "x.csv")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert words in done.stderr


@pytest.mark.parametrize("facts", [{}, {"seconds": 0.0}, {"seconds": "x"}, {"seconds": None}])
def test_a_run_without_its_seconds_has_no_speed(facts, adasde, spec, tmp_path):
    save_run(tmp_path / "a.parquet", [(spec.run, 432, 0.1, "test_loss", 1.0)], spec, threads=1, **facts)
    done = adasde("throughput", tmp_path / "a.parquet", "--out", tmp_path / "x.csv")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"a.parquet: seconds of {spec.run} = " in done.stderr
