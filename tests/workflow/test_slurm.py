"""The graph through Snakemake's Slurm executor, on a real cluster of this machine; a job is cancelled on the way."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from adasde.experiments.artifacts import read_results
from adasde.experiments.plan import plan
from conftest import ROOT

LINK = Path("/etc/slurm/slurm.conf")
PROFILE = ROOT / "workflow/profiles/slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(program) for program in PROGRAMS),
        reason="needs root and Debian's munge, slurmctld, slurmd and slurm-client",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "envs/slurm/cluster")
    if not LINK.exists():  # what a cluster leaves behind that is killed, and its folder with it
        LINK.parent.mkdir(exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(folder / "gone")
    subprocess.run([script, "start", str(folder)], check=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run([script, "stop", str(folder)], check=True, timeout=120)


@pytest.fixture
def profile(tmp_path):
    """The profile filled in as a user would: this cluster has one partition, and keeps no accounts."""
    text = (PROFILE / "config.yaml").read_text()
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(
        text.replace("FILL-IN", "cpu").replace("latency-wait: 60", "latency-wait: 5")
    )
    return tmp_path / "profile"


HERE = (  # this cluster has no accounting, and jobs that take seconds
    *("--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-keep-successful-logs"),
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
)


def graph(folder, config, profile, *options, targets=()):
    """Start Snakemake with the profile in ``folder``."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(profile)]
    command += [*targets, "--configfile", str(config), *HERE, *options]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def waited(condition, seconds=120):
    """The first true value of ``condition()``; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.1)
    return found


def test_the_smoke_graph_finishes_though_a_job_is_cancelled(
    cluster, profile, config, data_root, tmp_path, adasde_process
):
    long = config["experiments"]["fashion-cnn-adam"]
    long["epochs"] = {"value": 24 * long["epochs"]["value"], "source": "ours"}
    long["seeds"] = {"value": 1, "source": "ours"}
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    jobs = plan(config).jobs
    run = "fashion-cnn-adam.sqrt.k1"
    table = tmp_path / f"results/smoke/runs/{run}.parquet"
    saved = table.with_name(f"{table.name}.{jobs[run].hash[:12]}.checkpoint")

    def job():
        found = subprocess.run(
            ["squeue", "--noheader", "--states=running", "--format=%i %k"], text=True, capture_output=True
        )
        return next((line.split()[0] for line in found.stdout.splitlines() if line.endswith(f"_{run}")), None)

    process = graph(tmp_path, tmp_path / "smoke.yaml", profile)
    try:
        number = waited(job, 300)
        log = tmp_path / f"results/smoke/logs/runs/{run}.log"
        waited(saved.exists)  # after ten seconds of training, so it is in the middle
        assert not table.exists()
        subprocess.run(["scancel", number], check=True)
        waited(lambda: "asked to stop at step" in log.read_text(), 60)  # SIGTERM has reached the run itself
        assert saved.exists()
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "Trying to restart job" in output
    assert {path.stem for path in table.parent.iterdir()} == set(jobs)
    assert (tmp_path / "results/smoke/claims.csv").exists()
    options = ("--data", data_root, "--out", tmp_path / "whole.parquet")
    done = adasde_process("run", "--spec", jobs[run].document, *options)
    assert done.returncode == 0, done.stderr
    digests = [read_results(path)[0].facts["rows_sha256"] for path in (table, tmp_path / "whole.parquet")]
    assert digests[0] == digests[1]


def test_c7_the_cause_of_a_failed_job_is_shown(cluster, profile, data_root, tmp_path):
    """Where Snakemake runs, though the job has failed on a node."""
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    array = tmp_path / "results/data/fashion-mnist/test-labels.npy"
    array.write_bytes(array.read_bytes()[:-1])
    target = "results/smoke/runs/fashion-cnn-adam.sqrt.k4.parquet"
    process = graph(tmp_path, ROOT / "workflow/config/smoke.yaml", profile, "--retries", "0", targets=[target])
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    (line,) = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: run fashion-cnn-adam.sqrt.k4: SLURM-job ")
    assert "test-labels.npy: missing or altered; run `adasde data fashion-mnist --data results/data`" in line


def test_jobs_ask_for_what_they_cost(profile, tmp_path):
    process = graph(tmp_path, ROOT / "workflow/config/paper.yaml", profile, "-n", "--until", "run")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "gpu=4" in output


def test_a_profile_that_is_not_filled_in_is_refused(tmp_path):
    output, _ = graph(tmp_path, ROOT / "workflow/config/smoke.yaml", PROFILE, "-n").communicate(timeout=120)
    assert "default-resources: slurm_account = FILL-IN: write your cluster's own" in output
    assert "Traceback" not in output
