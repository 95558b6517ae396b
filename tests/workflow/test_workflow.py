"""The graph of jobs: the smoke scale from nothing, what reruns and what does not, and mistakes before any job."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import yaml
from playwright.sync_api import expect, sync_playwright

from adasde.analysis import tables
from adasde.analysis.figures.registry import figure_runs
from adasde.experiments.artifacts import read_results
from adasde.experiments.plan import plan
from conftest import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def snakemake(folder, *arguments):
    """Run Snakemake on the repository's Snakefile in ``folder``; return exit status and everything printed."""
    command = [sys.executable, "-m", "snakemake", "-c2", "--snakefile", str(ROOT / "Snakefile"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def jobs(output):
    """Count of each rule in the job table of a dry run."""
    table = output.partition("job ")[2].partition("total")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


def digests(path):
    """Digests of the rows of a job's runs, by run."""
    return {result.spec.run: result.facts["rows_sha256"] for result in read_results(path)}


SMOKE = ("--configfile", str(ROOT / "workflow/config/smoke.yaml"))
PLAN = plan(yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text()))
# Beside what the plan names: the tables, the claims, the report, and the target of all.
JOBS = len(PLAN.jobs) + len(PLAN.states) + len(PLAN.baselines) + len(PLAN.figures) + 4


@pytest.fixture(scope="module")
def built_at_a_cost(data_root, tmp_path_factory):
    """The smoke scale, built in an empty folder with the data at hand, and its CPU time in imports of torch."""
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "results").mkdir()
    shutil.copytree(data_root, folder / "results/data")
    with torch_imports() as floors:
        taken = seconds(lambda: built_whole(folder))
    return folder, (taken - sum(floors)) / (sum(floors) / len(floors))


@pytest.fixture(scope="module")
def built(built_at_a_cost):
    return built_at_a_cost[0]


@pytest.mark.slow
def test_a_small_job_costs_little_more_than_its_start(built_at_a_cost):
    assert built_at_a_cost[1] < 3 * JOBS


@contextlib.contextmanager
def torch_imports():
    """CPU seconds of importing torch, time and again while something else runs, on a machine that may be busy."""
    floors, over = [], threading.Event()

    def measure():
        while not over.is_set():
            process = subprocess.Popen([sys.executable, "-c", "import torch"])
            usage = os.wait4(process.pid, 0)[2]
            floors.append(usage.ru_utime + usage.ru_stime)
            over.wait(10)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield floors
    finally:
        over.set()
        thread.join()


def built_whole(folder):
    options = re.search(r"^SNAKEMAKE :=.*?(--logger.*?)\n[^ ]", (ROOT / "Makefile").read_text(), re.M | re.S)[1]
    timespan, display = re.search(r"--max-jobs-per-timespan \S+", options)[0], re.search(r"--logger \S+", options)[0]
    begun = time.monotonic()
    status, output = snakemake(folder, *timespan.split(), *display.split(), "--verbose", *SMOKE)
    periods = (time.monotonic() - begun) / 30  # of the timespan, and of the lines where there is no terminal
    assert status == 0, output
    (log,) = (folder / ".snakemake/log").iterdir()
    text = log.read_text()
    # Snakemake looks for what can begin when a job has ended, and once a timespan for every job that has ended before.
    assert text.count("Finished jobid") == JOBS
    assert text.count("Ready jobs") < JOBS * (2 + periods)
    lines = output.splitlines()
    assert lines[-1] == f"{JOBS} of {JOBS} jobs done"
    assert len(lines) < 15 + periods
    left = r"(about \d+ min|less than a minute) left"
    shown = next(line for line in lines if " jobs done" in line)
    assert re.match(rf"\d+ min: \d+ of {JOBS} jobs done, {left}; running: \w", shown)


def seconds(function, *arguments, **options):
    """CPU seconds of the processes that a function starts: other tests may keep the second core busy."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    function(*arguments, **options)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime


@pytest.fixture(scope="module")
def one_figure(data_root, tmp_path_factory):
    """One figure of the smoke scale, built in an empty folder with the data at hand."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "results").mkdir()
    shutil.copytree(data_root, folder / "results/data")
    status, output = snakemake(folder, FIGURE, *SMOKE)
    assert status == 0, output
    return folder


FIGURE = "figures/smoke/scaling-fashion-cnn-adam.png"


def test_one_figure_runs_what_it_shows(one_figure):
    runs = {run for path in (one_figure / "results/smoke/runs").iterdir() for run in digests(path)}
    assert runs == set(figure_runs(PLAN)["scaling-fashion-cnn-adam"])
    assert {path.stem for path in (one_figure / "figures/smoke").iterdir()} == {"scaling-fashion-cnn-adam"}
    assert not list((one_figure / "results").rglob("*.checkpoint*"))


@pytest.mark.slow
def test_every_figure_and_the_claims_are_there(built):
    figures = {path.name for path in (built / "figures/smoke").iterdir()}
    names = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())["figures"]
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    claims = pd.read_csv(built / "results/smoke/claims.csv")
    assert set(claims["verdict"]) <= {"reproduced", "not reproduced", "undecided"}
    experiments = {name.split(".")[1] for name in claims["id"] if name.startswith("rule.")}
    assert experiments == {"fashion-cnn-adam", "fashion-resnet-rmsprop", "roberta-adam", "branch-cnn-adam"}
    assert {"rule.branch-cnn-adam.k4.squared_norm", "rival.branch-cnn-adam.none.k4"} <= set(claims["id"])
    runs = pd.read_csv(built / "results/smoke/runs.csv")
    assert len(runs) == len(PLAN.runs) == 32
    assert runs["device"].notna().all()
    assert not list((built / "results").rglob("*.checkpoint*"))
    assert (built / "results/smoke/report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_nothing_is_left_to_do(built):
    status, output = snakemake(built, "-n", *SMOKE)
    assert status == 0
    assert "Nothing to be done" in output


def touch(folder):
    """Date every file anew, what comes first by name last."""
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        if ".snakemake" not in path.parts and path.is_file():
            os.utime(path, (time.time() - 10_000 + number,) * 2)


def test_touching_every_date_reruns_nothing(one_figure):
    touch(one_figure)
    _, output = snakemake(one_figure, "-n", FIGURE, *SMOKE)
    assert "Nothing to be done" in output, output


@pytest.mark.slow
def test_touching_every_date_of_a_scale_reruns_nothing(built):
    touch(built)
    _, output = snakemake(built, "-n", *SMOKE)
    assert "Nothing to be done" in output, output


def test_a_figure_that_is_not_in_the_config_is_refused_before_any_job(tmp_path):
    status, output = snakemake(tmp_path, "-n", "figures/smoke/scaling-nope.png", *SMOKE)
    assert status != 0
    assert "MissingRuleException" in output


@pytest.mark.slow
def test_a_damaged_run_file_can_be_deleted_and_comes_back(built, adasde):
    path = built / "results/smoke/runs/fashion-cnn-adam.sqrt.k4.parquet"
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)  # some single bytes of a parquet file carry nothing
    path.write_bytes(content)
    check = ("check", ROOT / "workflow/config/smoke.yaml", "--results", built / "results/smoke")
    assert "30 of 32 runs are there" in adasde(*check).stdout
    path.unlink()
    status, output = snakemake(built, *SMOKE)
    assert status == 0, output
    assert adasde(*check).returncode == 0


@pytest.mark.slow
def test_a_killed_graph_is_taken_up_again(built):
    """SIGKILL to Snakemake and its jobs; then what `make figures` calls finishes the rest."""
    runs = sorted((built / "results/smoke/runs").glob("*.parquet"))
    before = {path.name: digests(path) for path in runs}
    for path in runs[:4]:
        path.unlink()
    command = [sys.executable, "-m", "snakemake", "-c2", "--snakefile", str(ROOT / "Snakefile"), *SMOKE]
    process = subprocess.Popen(
        command, cwd=built, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((built / "results/smoke/runs").glob("*.checkpoint")) and sum(p.exists() for p in runs[:4]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    status, output = snakemake(built, "--nolock", "--rerun-incomplete", *SMOKE)
    assert status == 0, output
    snakemake(built, "--unlock", *SMOKE)  # the lock that the kill left, for the tests that follow
    assert {path.name: digests(path) for path in runs} == before


@pytest.mark.slow
def test_twenty_kills_cost_nothing(built, data_root, tmp_path, broken):
    """SIGKILL to Snakemake and all of its jobs at random moments; then the graph finishes, with the same tables."""
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    draw, runs = random.Random(0), tmp_path / "results/smoke/runs"
    options = ("--nolock", "--rerun-incomplete", *SMOKE)
    command = [sys.executable, "-m", "snakemake", "-c2", "--snakefile", str(ROOT / "Snakefile"), *options]
    for _ in range(20):
        process = subprocess.Popen(
            command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(draw.uniform(1, 6)) == 0
            for path in draw.sample(sorted(runs.glob("*.parquet")), 6):  # it came to its end: there is more to do
                path.unlink()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    status, output = snakemake(tmp_path, *options)
    assert status == 0, output
    for path in (built / "results/smoke/runs").glob("*.parquet"):
        assert digests(runs / path.name) == digests(path)
    for name in ("trajectories", "simulations"):
        ours, undisturbed = (tables.read(folder / "results/smoke", name) for folder in (tmp_path, built))
        pd.testing.assert_frame_equal(ours, undisturbed, check_exact=True)
    ours, undisturbed = ((folder / "results/smoke/claims.csv").read_bytes() for folder in (tmp_path, built))
    assert ours == undisturbed
    left = [
        path for path in (tmp_path / "results").rglob("*") if path.name.startswith(".") or "checkpoint" in path.name
    ]
    assert all(path.name.startswith(".") for path in left)  # what SIGKILL left half-written has another name
    broken("kill", "SIGKILL to a graph and its jobs at a random moment", 20, "finished with identical tables")


@pytest.mark.slow
def test_two_graphs_in_one_folder(built, broken):
    """The second is refused, in one line, and the first does not notice; a kill lets go of the folder."""
    runs = sorted((built / "results/smoke/runs").glob("*.parquet"))
    before = {path.name: digests(path) for path in runs}
    for path in runs[:6]:
        path.unlink()
    options = ("--nolock", "--rerun-incomplete", *SMOKE)
    command = [sys.executable, "-m", "snakemake", "-c1", "--snakefile", str(ROOT / "Snakefile"), *options]
    silent = {"cwd": built, "start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lock = built / ".snakemake/adasde.smoke"
    lock.write_text("")
    for ending in ("killed", "finished"):
        first = subprocess.Popen(command, **silent)
        while lock.read_text() != str(first.pid):
            assert first.poll() is None
            time.sleep(0.02)
        status, output = snakemake(built, *options)
        assert status == 1
        assert f"adasde: error: results/smoke: process {first.pid} is making this scale here; wait" in output
        assert "Traceback" not in output
        if ending == "killed":
            os.killpg(first.pid, signal.SIGKILL)
        assert first.wait(120) == (-signal.SIGKILL if ending == "killed" else 0)
    assert {path.name: digests(path) for path in runs} == before
    broken("load", "two graphs of one scale at once in one folder", 2, "the second refused in one line")


@pytest.mark.slow
def test_a_deleted_figure_is_one_job(built):
    (built / FIGURE).unlink()
    _, output = snakemake(built, "-n", FIGURE, *SMOKE)
    assert jobs(output) == {"figure": 1}
    _, output = snakemake(built, "-n", *SMOKE)
    assert jobs(output) == {"figure": 1, "report": 1, "all": 1}
    status, output = snakemake(built, FIGURE, *SMOKE)
    assert status == 0, output


def test_a_figure_needs_only_the_runs_that_it_shows(tmp_path):
    _, output = snakemake(tmp_path, "-n", "figures/smoke/scaling-fashion-resnet-rmsprop.png", *SMOKE)
    assert jobs(output) == {"data": 1, "run": 2, "figure": 1}
    _, output = snakemake(tmp_path, "-n", "figures/smoke/weak-order.png", *SMOKE)
    assert jobs(output) == {"simulate": 1, "figure": 1}


# States, and the runs that branch from them

PARENT, BRANCH = "fashion-cnn-adam.sqrt.k1", "branch-cnn-adam.sqrt.k4"


@pytest.fixture
def chained(config, tmp_path):
    """A config with two groups of branches at two times of one parent, a job for each experiment; and its plan."""
    branch = config["branches"]["branch-cnn-adam"]
    config |= {"job": "experiment", "figures": ["scaling-fashion-cnn-adam"], "finetunings": {}, "simulations": {}}
    config["experiments"] = {"fashion-cnn-adam": config["experiments"]["fashion-cnn-adam"]}
    config["branches"]["late"] = {**branch, "at": {"value": 0.2, "source": "ours"}}
    (tmp_path / "chained.yaml").write_text(yaml.safe_dump(config))
    return ("--configfile", str(tmp_path / "chained.yaml")), plan(config)


def test_a_branch_waits_for_its_parent_s_state_and_for_no_table(tmp_path):
    assert PLAN.states.keys() == {f"{PARENT}.s0.7680"}
    for run, needed in (
        (BRANCH, {"data": 1, "state": 1, "run": 1}),
        (PARENT, {"data": 1, "state": 1, "run": 1}),
        ("fashion-cnn-adam.sqrt.k4", {"data": 1, "run": 1}),
    ):
        _, output = snakemake(tmp_path, "-n", f"results/smoke/runs/{run}.parquet", *SMOKE)
        assert jobs(output) == needed, run


@pytest.mark.slow
def test_branches_of_one_parent_at_two_times(chained, tmp_path):
    options, planned = chained
    assert len(planned.jobs) == 6
    _, output = snakemake(tmp_path, "-n", "results/smoke/runs/late.others.parquet", *options)
    assert jobs(output) == {"data": 1, "state": 2, "run": 1}
    _, output = snakemake(tmp_path, "-n", *options)
    assert (jobs(output)["state"], jobs(output)["run"]) == (2, 6)


@pytest.mark.slow
def test_a_job_for_each_experiment_makes_the_same_runs(built, chained, data_root, tmp_path):
    """With a parent that is cut twice, where the graph of `built` cuts it once."""
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    options, planned = chained
    targets = [f"results/smoke/runs/{job}.parquet" for job in planned.jobs]
    status, output = snakemake(tmp_path, *targets, *options)
    assert status == 0, output
    found = {run: digest for target in targets for run, digest in digests(tmp_path / target).items()}
    assert found.keys() == planned.runs.keys()
    wanted = {
        run: sha for path in (built / "results/smoke/runs").glob("*.parquet") for run, sha in digests(path).items()
    }
    assert {run: found[run] for run in found if run in wanted} == {run: wanted[run] for run in found if run in wanted}
    assert len(found.keys() & wanted.keys()) == 16
    states = {path.name for path in (built / "results/smoke/states").iterdir()}
    assert states == {f"{state}.state" for state in PLAN.states}
    assert not list((tmp_path / "results").rglob("*.checkpoint*"))


@pytest.mark.slow
def test_a_changed_kappa_reruns_only_the_runs_it_touches(built, tmp_path):
    config = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
    config["experiments"]["fashion-cnn-adam"]["rules"]["sqrt"]["value"] = [1, 8]
    config["experiments"]["fashion-cnn-adam"]["rules"]["linear"]["value"] = [8]
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config))
    _, output = snakemake(built, "-n", "--configfile", str(tmp_path / "changed.yaml"))
    planned = plan(config)
    new = planned.runs.keys() - PLAN.runs.keys()
    figures = sum(not new.isdisjoint(shown) for shown in figure_runs(planned).values())
    assert jobs(output) == {"run": 2, "collect": 1, "claims": 1, "figure": figures, "report": 1, "all": 1}
    assert figures < len(planned.figures)


@pytest.mark.slow
def test_a_job_that_failed_to_add_runs_is_taken_up_again(data_root, tmp_path):
    """Snakemake would restore the table as it was before the job, and take the job for finished."""
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    config, table = tmp_path / "config.yaml", "results/smoke/runs/fashion-cnn-adam.sqrt.k1.parquet"

    def build(seeds):
        document = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
        document["experiments"]["fashion-cnn-adam"]["seeds"]["value"] = seeds
        config.write_text(yaml.safe_dump(document))
        checkpoint = tmp_path / f"{table}.{plan(document).jobs['fashion-cnn-adam.sqrt.k1'].hash[:12]}.checkpoint"
        return checkpoint, lambda: snakemake(tmp_path, table, "--configfile", str(config))

    _, one = build(1)
    assert one()[0] == 0
    first = digests(tmp_path / table)
    checkpoint, two = build(2)
    checkpoint.write_bytes(b"damaged")
    assert two()[0] == 1
    checkpoint.unlink()
    status, output = two()
    assert status == 0, output
    both = digests(tmp_path / table)
    assert first.items() < both.items()
    assert len(both) == 2
    log = (tmp_path / "results/smoke/logs/runs/fashion-cnn-adam.sqrt.k1.log").read_text()
    assert re.findall(r"k1\.s(\d): \d+ steps", log) == ["1"]  # the finished run was not run again


def test_runs_of_another_config_are_refused_before_any_job(one_figure, tmp_path):
    """A changed learning rate, for example, also with more seeds: nothing is written over or set aside."""
    config = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
    config["experiments"]["fashion-cnn-adam"]["optimizer"]["lr"]["value"] = 3e-3
    config["experiments"]["fashion-cnn-adam"]["seeds"]["value"] += 1
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config))
    status, output = snakemake(one_figure, "--configfile", str(tmp_path / "changed.yaml"))
    assert status != 0
    (line,) = [line for line in output.splitlines() if "another config" in line]
    assert line.startswith("adasde: error: results/smoke/runs/fashion-cnn-adam.linear.k4.parquet: holds runs of")
    assert "rule run" not in output
    _, output = snakemake(one_figure, "-n", FIGURE, "--configfile", str(tmp_path / "changed.yaml"))
    assert jobs(output)["run"] == 3


def test_c10_a_copy_that_keeps_the_scale_and_names_fewer_runs_is_refused(one_figure, tmp_path):
    """It would write its tables, claims and figures over those of the scale."""
    config = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
    del config["experiments"]["fashion-cnn-adam"]["rules"]["linear"]
    (tmp_path / "workflow/config").mkdir(parents=True)
    copy = tmp_path / "workflow/config/mine.yaml"
    copy.write_text(yaml.safe_dump(config))
    before = contents(one_figure)
    status, output = snakemake(one_figure, "--configfile", str(copy))
    assert status != 0
    assert (
        output.splitlines()[-1]
        == f"adasde: error: {copy}: scale = smoke: must be mine, where make looks for its results"
    )
    status, output = snakemake(one_figure, "--configfile", str(copy.rename(tmp_path / "mine.yaml")))
    assert status != 0
    (line,) = [line for line in output.splitlines() if "another config" in line]
    assert line.startswith("adasde: error: results/smoke/runs/fashion-cnn-adam.linear.k4.parquet: holds runs of")
    assert "rule collect" not in output
    assert contents(one_figure) == before


def contents(folder):
    """What the results and figures of a folder hold."""
    files = [path for place in ("results/smoke", "figures") for path in (folder / place).rglob("*.*")]
    return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")
def test_the_profile_and_the_default_config(tmp_path):
    status, output = snakemake(tmp_path, "-n", "--profile", str(ROOT / "workflow/profiles/local"))
    assert status == 0, output
    wanted = len(plan(yaml.safe_load((ROOT / "workflow/config/mini.yaml").read_text())).jobs)
    assert sum(jobs(output).get(rule, 0) for rule in ("run", "pretrain", "simulate")) == wanted
    _, output = snakemake(tmp_path, "-n")
    assert sum(jobs(output).get(rule, 0) for rule in ("run", "pretrain", "simulate")) == wanted


def test_a_mistake_in_the_config_is_one_line_before_any_job(tmp_path):
    config = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
    config["experiments"]["fashion-cnn-adam"]["kapas"] = [1]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    status, output = snakemake(tmp_path, "--configfile", str(tmp_path / "wrong.yaml"))
    assert status != 0
    lines = [line for line in output.splitlines() if "adasde: error: " in line]
    assert lines == [
        "adasde: error: experiments.fashion-cnn-adam: unknown key 'kapas'; must be one of "
        "workload, optimizer, batch_size, epochs, sampling, schedule, clip, precision, engine, processes, "
        "micro_batch, rules, ell, seeds, more_seeds, evaluate, frozen"
    ]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("field", "options", "line"),
    [
        (
            {"engine": {"value": "compile", "source": "ours"}},
            (),
            "engine = 'compile': needs a C++ compiler, and no-g++ is not here; install one, or take eager",
        ),
        (
            {"processes": {"value": 3, "source": "ours"}, "batch_size": {"value": 48, "source": "ours"}},
            ("--default-resources", "processes_per_node=2"),
            "processes = 3: cannot be shared evenly by 2 nodes of at most 2; take 2 or 4",
        ),
        (
            {},
            ("--config", "device=cuda", "job=run"),
            "--config device job: reports and `adasde check` read files only; write it into a YAML file, the last "
            "after --configfile",
        ),
    ],
    ids=["compiler", "nodes", "values"],
)
def test_what_jobs_would_not_find_is_one_line_before_any_job(field, options, line, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-g++")
    config = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())
    config["experiments"]["fashion-cnn-adam"] |= field
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"finetunings": {}, "branches": {}, "figures": []}))
    status, output = snakemake(tmp_path, *options, "--configfile", str(tmp_path / "config.yaml"))
    assert status != 0
    assert [said for said in output.splitlines() if "error: " in said] == [f"adasde: error: {line}"]
    assert not (tmp_path / "results/smoke").exists()


@pytest.mark.slow
def test_the_report_is_made(built):
    status, output = snakemake(built, "--report", "report.html", *SMOKE)
    assert status == 0, output
    assert (built / "report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_report_in_a_browser(built, tmp_path):
    """`make report`, opened without a network: every figure is seen with its caption, setting, verdicts and command."""
    for name in ("Makefile", "Snakefile", "workflow", "envs"):
        (built / name).symlink_to(ROOT / name)
    command = ["make", "-o", "env", "report", "SCALE=smoke", "CORES=2", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=built, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())["figures"]
    claims = pd.read_csv(built / "results/smoke/claims.csv")
    requests, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 1500, "height": 1000}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((built / "results/smoke/report.html").as_uri())
        assert "at the scale smoke" in page.inner_text("h1")
        for figure in figures:
            page.click(f"nav a[href='#{figure}']")
            image, article = page.locator(f"article[id='{figure}'] img"), page.locator(f"article[id='{figure}']")
            expect(image).to_be_in_viewport()
            assert image.evaluate("image => image.naturalWidth") > 400
            box = image.bounding_box()
            assert (max(box["width"], box["height"]) > 400, min(box["width"], box["height"]) > 150) == (True, True)
            image.click()
            expect(page.locator(f"[id='zoom-{figure}']")).to_be_checked()
            assert image.bounding_box()["width"] > box["width"]
            image.click()
            page.screenshot(path=tmp_path / f"{figure}.png")
            text = article.text_content()  # with the setting, which is folded up
            for part in ("at batch size" if "kappa" in text else "batches of paths", f"figures/smoke/{figure}.png"):
                assert part in text, (figure, part)
            assert article.locator(".verdict").count() == (claims["figure"] == figure).sum(), figure
        assert page.locator("h2#claims ~ .scroll tbody tr").count() == len(claims)
        page.set_viewport_size({"width": 400, "height": 800})  # a telephone: nothing is cut off at the side
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        browser.close()
    assert errors == []
    assert all(request.startswith(("file:", "data:")) for request in requests)
