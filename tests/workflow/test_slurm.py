"""The graph through Snakemake's Slurm executor, on a real cluster of this machine, and what can go wrong there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import yaml

from adasde.experiments.artifacts import read_results
from adasde.experiments.plan import plan
from conftest import ROOT

LINK = Path("/etc/slurm/slurm.conf")
PROFILE = ROOT / "workflow/profiles/slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "mariadbd")
SMOKE = ROOT / "workflow/config/smoke.yaml"
LONG = "fashion-cnn-adam.sqrt.k1"  # a job of one run, which takes about fifty seconds on an idle core
# Snakemake, with an executor that looks at its jobs every second, not ever more rarely.
IMPATIENT = """
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, value: None)
main()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(program) for program in PROGRAMS),
        reason="needs root and Debian's munge, slurmctld, slurmd, slurmdbd, slurm-client and mariadb-server",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of two nodes on this machine; its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "envs/slurm/cluster")
    if not LINK.exists():  # what a cluster leaves behind that is killed, and its folder with it
        LINK.parent.mkdir(exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(folder / "gone")
    subprocess.run([script, "start", str(folder)], check=True, timeout=300)
    try:
        yield folder
    finally:
        subprocess.run([script, "stop", str(folder)], check=True, timeout=120)


@pytest.fixture
def profile(tmp_path):
    """Fill the profile in, and change values, as a user would; return its folder."""

    def fill(account="paper", partition="cpu", **values):
        text = (PROFILE / "config.yaml").read_text().replace("slurm_account: FILL-IN", f"slurm_account: {account}")
        text = text.replace("FILL-IN", partition)
        for key, value in {"latency-wait": 5, **values}.items():
            text, count = re.subn(rf"^( *)(# )?{key}: .*$", rf"\g<1>{key}: {value}", text, flags=re.MULTILINE)
            assert count == 1, key
        (tmp_path / "profile").mkdir()
        (tmp_path / "profile/config.yaml").write_text(text)
        return tmp_path / "profile"

    return fill


def smoke(epochs=24, **options):
    """The smoke config with a baseline so many times as long, of one seed, and other options."""
    config = yaml.safe_load(SMOKE.read_text())
    experiment = config["experiments"]["fashion-cnn-adam"]
    options = {"epochs": epochs * experiment["epochs"]["value"], "seeds": 1} | options
    experiment |= {key: {"value": value, "source": "ours"} for key, value in options.items()}
    return config


def digest_alone(config, data_root, folder, program=("-m", "adasde")):
    """Run the job LONG without a cluster, by `python PROGRAM run`; return the digest of its only run's rows."""
    out = folder / "alone.parquet"
    options = ["run", "--spec", plan(config).jobs[LONG].document, "--data", str(data_root), "--out", str(out)]
    subprocess.run([sys.executable, *program, *options], check=True, timeout=600)
    return digest(out)


def digest(table):
    (result,) = read_results(table)
    return result.facts["rows_sha256"]


@pytest.fixture(scope="module")
def undisturbed(data_root, tmp_path_factory):
    """The digest of the job LONG without a cluster."""
    return digest_alone(smoke(), data_root, tmp_path_factory.mktemp("alone"))


@pytest.fixture
def folder(data_root, tmp_path):
    """A folder to work in, with the data at hand."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/data").symlink_to(data_root)
    return tmp_path


@contextmanager
def graph(folder, config, profile, *options, targets=(), **environment):
    """Start Snakemake with the profile in ``folder``, where jobs take seconds."""
    if isinstance(config, dict):
        (folder / "smoke.yaml").write_text(yaml.safe_dump(config))
        config = folder / "smoke.yaml"
    command = [sys.executable, "-c", IMPATIENT, "--snakefile", str(ROOT / "Snakefile"), "--profile", str(profile)]
    command += [*targets, "--configfile", str(config), "--slurm-keep-successful-logs", *options]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A shell's jobs in the background ignore Ctrl-C, and so would this one.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, preexec_fn=heard, **piped)
    try:
        yield process
    finally:
        process.kill()
        subprocess.run(["scancel", "--user=root"], check=False)


def table(job):
    return f"results/smoke/runs/{job}.parquet"


def checkpoint(folder, config):
    """The file to which the job LONG saves itself."""
    return folder / f"{table(LONG)}.{plan(config).jobs[LONG].hash[:12]}.checkpoint"


def slurm(*command):
    """The lines that a command of Slurm prints."""
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.splitlines()


def next_job():
    """The number that the next job will have; accounting hears of jobs later than the controller does."""
    (line,) = [line for line in slurm("scontrol", "show", "config") if line.startswith("NEXT_JOB_ID")]
    return int(line.split("=")[1])


def running(job):
    """Number and nodes of a job of the graph that runs; None before."""
    lines = [line.split() for line in slurm("squeue", "--noheader", "--states=running", "--format=%i %N %k")]
    return next((line[:2] for line in lines if line[2].endswith(f"_{job}")), None)


def accounted(job, *fields):
    """What accounting says of the jobs of the graph of this name, the last of them last."""
    lines = [line.split("|") for line in slurm("sacct", "-XnP", "--format", ",".join(["Comment", *fields]))]
    return [line[1:] for line in lines if line[0].endswith(f"_{job}")]


def waited(condition, seconds=180):
    """The first true value of ``condition()``; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.1)
    return found


def causes(output):
    """What the lines for failed jobs say of our own, without names and numbers that differ from time to time."""
    lines = [line for line in output.splitlines() if line.startswith("failed: ")]
    said = [re.search(r"adasde: error: (.*?)( \(log: .*)?$", line) for line in lines]
    return {re.sub(rf"^{LONG}\.s0: |(?<=step )\d+", "", found[1]) for found in said if found}


STOPPED = {"asked to stop at step ; a run with a checkpoint goes on from there"}


def test_the_smoke_graph_finishes_though_a_job_is_cancelled(cluster, profile, undisturbed, folder, broken):
    with graph(folder, smoke(), profile()) as process:
        number, _ = waited(lambda: running(LONG), 900)
        log = folder / f"results/smoke/logs/runs/{LONG}.log"
        waited(checkpoint(folder, smoke()).exists)  # after ten seconds of training, so it is in the middle
        assert not (folder / table(LONG)).exists()
        slurm("scancel", number)
        waited(lambda: "asked to stop at step" in log.read_text(), 60)  # SIGTERM has reached the run itself
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert "Trying to restart job" in output
    assert causes(output) == STOPPED, output
    assert {path.stem for path in (folder / "results/smoke/runs").iterdir()} == set(plan(smoke()).jobs)
    assert (folder / "results/smoke/claims.csv").exists()
    assert digest(folder / table(LONG)) == undisturbed
    seen = "failed: ... asked to stop at step ...; a run with a checkpoint goes on from there"
    broken("cluster", "a job of the smoke graph is cancelled", 1, "sent again, and bit for bit equal", seen)


def process_of(job, number):
    """The process of a job's run, in the job of Slurm of this number."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            ours = f"SLURM_JOB_ID={number}".encode() in (process / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
            continue
        if ours and b"--out" in arguments and table(job).encode() in arguments:
            return int(process.name)
    return None


def slowed(process):
    """Let a process go on for a fifth of the time, until it has ended."""
    with suppress(ProcessLookupError):
        while True:
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(process, signal.SIGCONT)
            time.sleep(0.05)


def test_a_run_that_exceeds_its_time_is_sent_again(cluster, profile, undisturbed, folder, broken):
    """A turn lasts a minute to a minute and a half: Slurm looks every half minute whether less than one is left."""
    limited = profile(partition="short", runtime=2, slurm_extra="\"'--signal=TERM@60'\"", retries=20)
    with graph(folder, smoke(), limited, targets=[table(LONG)]) as process:
        number, _ = waited(lambda: running(LONG))
        waited(checkpoint(folder, smoke()).exists)
        slowed(process_of(LONG, number))  # a fast machine would come to the end
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert digest(folder / table(LONG)) == undisturbed
    assert causes(output) == STOPPED, output
    assert accounted(LONG, "Timelimit", "State")[-2:] == [["00:02:00", "FAILED"], ["00:02:00", "COMPLETED"]]
    seen = "failed: ... asked to stop at step ...; a run with a checkpoint goes on from there"
    broken("cluster", "a run takes longer than its partition allows", 1, "saved, sent again, bit for bit equal", seen)


def kill_node(cluster, node, number):
    """Kill a node's daemon, and all that the job of this number runs there, which is all on this node."""
    os.kill(int((cluster / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            shepherd = (process / "cmdline").read_bytes().startswith(f"slurmstepd: [{number}.".encode())
            if shepherd or f"SLURM_JOB_ID={number}".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
            continue


def test_a_run_goes_on_elsewhere_when_its_node_dies(cluster, profile, undisturbed, folder, broken):
    with graph(folder, smoke(), profile(), targets=[table(LONG)]) as process:
        number, node = waited(lambda: running(LONG))
        waited(checkpoint(folder, smoke()).exists)
        kill_node(cluster, node, number)
        try:
            # Slurm has to miss it first, and to wait until the first turn's credential has expired.
            again, other = waited(lambda: (now := running(LONG)) and now[1] != node and now, 300)
            output, _ = process.communicate(timeout=600)
        finally:
            subprocess.run(["slurmd", "-f", cluster / "slurm.conf", "-N", node], check=True)
            waited(lambda: set(slurm("sinfo", "--noheader", "--format=%T")) == {"idle"})
    assert process.returncode == 0, output
    assert again == number
    assert "resumed at step" in (folder / f"results/smoke/logs/runs/{LONG}.log").read_text()
    assert digest(folder / table(LONG)) == undisturbed
    assert "failed: " not in output
    seen = "nothing: the job waits, and runs again"
    broken("cluster", "the node of a run dies", 1, "goes on at the other node, and bit for bit equal", seen)


def test_a_run_over_two_nodes_is_one_job(cluster, profile, data_root, folder, broken):
    """Stopped on the way, too; its rows are those of two processes that torchrun starts on one machine."""
    config = smoke(12, processes=2)
    with graph(folder, config, profile(processes_per_node=1), targets=[table(LONG)]) as process:
        number, nodes = waited(lambda: running(LONG))
        waited(checkpoint(folder, config).exists)
        slurm("scancel", "--signal=TERM", number)  # as before the end of its time
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert nodes == "127.0.0.[1-2]"
    assert causes(output) == STOPPED, output
    assert accounted(LONG, "NodeList", "NTasks", "State")[-1][::2] == [nodes, "COMPLETED"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "adasde")
    assert digest(folder / table(LONG)) == digest_alone(config, data_root, folder, torchrun)
    seen = "failed: ... asked to stop at step ...; a run with a checkpoint goes on from there"
    broken("cluster", "a job over two nodes is told to stop", 1, "sent again, and equal to one node's", seen)


SPY = """
import os, sys
if "--out" in sys.orig_argv and os.environ.get("RANK", "0") == "0":
    with open(os.environ["SPY"] + os.path.basename(sys.orig_argv[sys.orig_argv.index("--out") + 1]), "w") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
"""


def test_a_job_gets_the_gpus_that_it_asks_for(cluster, profile, folder, broken):
    """One, two, and four over two nodes, of the type that the profile names; and a CPU's job none."""
    config = smoke(1) | {"device": "cuda"}
    gpus = {"fashion-cnn-adam.sqrt.k4": 1, "fashion-resnet-rmsprop.sqrt.k1": 2, "svag-fashion-cnn-adam.sqrt.k1": 4}
    for job, count in gpus.items():
        config["experiments"][job.partition(".")[0]]["processes"] = {"value": count, "source": "ours"}
    (folder / "spy").mkdir()
    (folder / "spy/sitecustomize.py").write_text(SPY)
    path = f"{folder}/spy{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    filled = profile(processes_per_node=2, gpu_model="h100", retries=0)
    with graph(folder, config, filled, targets=map(table, gpus), PYTHONPATH=path, SPY=f"{folder}/spy/") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode != 0  # no GPU is real here
    assert causes(output) == {"device = 'cuda': torch finds no GPU here; the scales smoke and mini need none"}
    for job, count in gpus.items():
        nodes, allocated = accounted(job, "NNodes", "AllocTRES")[-1]
        assert (nodes, f"gres/gpu={count}" in allocated.split(",")) == ("2" if count == 4 else "1", True)
        assert len((folder / f"spy/{job}.parquet").read_text().split(",")) == min(count, 2)
    seen = f"failed: ... {causes(output).pop()}"
    broken("cluster", "a GPU that Slurm counts is not there", 3, "the job has as many as it asks for, and ends", seen)


def test_200_jobs_queue_at_most_64_at_a_time(cluster, profile, folder, broken):
    """And Ctrl-C leaves none of them in the queue."""
    config = smoke(1, seeds=200) | {"job": "run"}
    targets = [table(f"fashion-cnn-adam.sqrt.k1.s{seed}") for seed in range(200)]
    seen, most = set(), 0
    with graph(folder, config, profile(), targets=targets) as process:

        def three_done():
            nonlocal most
            assert process.poll() is None, process.communicate()[0]
            queue = slurm("squeue", "--noheader", "--format=%i")
            seen.update(queue)
            most = max(most, len(queue))
            return most == 64 and len(seen) > 66

        waited(three_done, 300)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        waited(lambda: not slurm("squeue", "--noheader"))
    assert process.returncode != 0
    assert "Traceback" not in output
    line = "Terminating processes on user request, this might take some time."
    assert line in output
    broken("cluster", "Ctrl-C with 200 jobs, 64 of them in the queue", 1, "none is left there", line)


REFUSED = [
    ("an account that is wrong", {"account": "papre"}, "slurm_account = papre: must be one of paper, root"),
    ("a partition that is wrong", {"partition": "gpu"}, "slurm_partition = gpu: must be one of cpu, short"),
]


@pytest.mark.parametrize(("fault", "values", "line"), REFUSED)
def test_what_slurm_would_not_take_is_one_line_before_any_job(fault, values, line, cluster, profile, folder, broken):
    before = next_job()
    with graph(folder, SMOKE, profile(**values)) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    (said,) = [said for said in output.splitlines() if "error" in said]
    assert said.startswith("adasde: error: ")
    assert said.endswith(line)
    assert "Traceback" not in output
    assert next_job() == before
    broken("cluster", fault, 1, "ends before any job", said)


def test_c7_the_cause_of_a_failed_job_is_shown(cluster, profile, data_root, tmp_path, broken):
    """Where Snakemake runs, though the job has failed on a node."""
    (tmp_path / "results").mkdir()
    shutil.copytree(data_root, tmp_path / "results/data")
    array = tmp_path / "results/data/fashion-mnist/test-labels.npy"
    array.write_bytes(array.read_bytes()[:-1])
    with graph(tmp_path, SMOKE, profile(retries=0), targets=[table("fashion-cnn-adam.sqrt.k4")]) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    (line,) = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: run fashion-cnn-adam.sqrt.k4: SLURM-job ")
    assert "test-labels.npy: missing or altered; run `adasde data fashion-mnist --data results/data`" in line
    seen = "failed: ... test-labels.npy: missing or altered; run `adasde data fashion-mnist --data results/data`"
    broken("cluster", "the data are damaged", 1, "the job ends with its cause", seen)


def test_jobs_ask_for_what_they_cost(profile, tmp_path):
    """Eight processes are two nodes of four, and GPUs by the node."""
    paper, filled = ROOT / "workflow/config/paper.yaml", profile(processes_per_node=4, gpu_model="h100")
    with graph(tmp_path, paper, filled, "-n", "--until", "run") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    asked = [line for line in output.splitlines() if "resources: " in line]
    whole = [line for line in asked if "gpu=4" in line]
    assert whole
    assert all("nodes=1, " in line and "mpi" not in line for line in whole)
    spread = [line for line in asked if "gpu=8" in line]
    assert spread
    words = "nodes=2, mpi=srun, tasks_per_node=4, tasks_per_gpu=0, cpus_per_task=1, gres=gpu:h100:4, "
    assert all(words in line for line in spread)


def test_a_job_asks_for_no_more_time_than_its_partition_allows(cluster, profile, folder):
    with graph(folder, SMOKE, profile(partition="short"), "-n", "--until", "run", "simulate") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert set(re.findall(r"runtime=(\d+)", output)) == {"10"}  # and not 11


def test_a_profile_that_is_not_filled_in_is_refused(tmp_path, broken):
    with graph(tmp_path, SMOKE, PROFILE, "-n") as process:
        output, _ = process.communicate(timeout=120)
    line = "default-resources: slurm_account = FILL-IN: write your cluster's own into the profile's config.yaml"
    assert line in output
    assert "Traceback" not in output
    broken("cluster", "a profile that is not filled in", 1, "ends before any job", f"adasde: error: {line}")
