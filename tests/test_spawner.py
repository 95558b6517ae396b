"""Jobs as forks of one process: the same files, words, signals and statuses as of a process of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adasde import spawner, store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks only there")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The process that forks, for the folder ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(spawner.SOCKET, "")
    (tmp_path / ".snakemake").mkdir()
    spawner.start()
    process = spawner._started[-1]
    yield process
    process.stdin.close()
    assert process.wait(20) == 0
    assert not list((tmp_path / ".snakemake").iterdir())


@pytest.fixture
def asking(monkeypatch):
    """Start `adasde run` for a spec, as a job of a graph does."""
    command = [sys.executable, "-m", "adasde", "run"]

    def start(spec, *options):
        whole = [*command, "--spec", store.canonical(spec), "--out", "run.parquet", *map(str, options)]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def until(condition, seconds=30):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(process):
    """Process ids of the forks of ``process``."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def test_a_fork_does_the_same(server, asking, spec, data_root, tmp_path, adasde):
    spec = {**spec, "samples": 640, "evaluate": [640]}
    job = asking(spec, "--data", data_root)
    out, error = job.communicate(timeout=60)
    assert job.returncode == 0, error
    assert out.startswith(f"{spec['run']}: 20 steps")
    alone = adasde("run", "--spec", store.canonical(spec), "--data", data_root, "--out", "alone.parquet",
                   env={spawner.SOCKET: ""})  # fmt: skip
    assert alone.returncode == 0
    (rows, facts), (wanted, others) = store.read_run("run.parquet"), store.read_run("alone.parquet")
    assert store.digest(rows) == store.digest(wanted)
    assert facts.keys() == others.keys()
    assert {key: facts[key] for key in ("threads", "torch", "device")} == {
        key: others[key] for key in ("threads", "torch", "device")
    }


def test_a_fork_refuses_in_the_same_words(server, asking, spec, adasde):
    wrong = {**spec, "batch_size": -1}
    job = asking(wrong)
    out, error = job.communicate(timeout=60)
    alone = adasde("run", "--spec", store.canonical(wrong), "--out", "run.parquet", env={spawner.SOCKET: ""})
    assert (job.returncode, out, error) == (alone.returncode, alone.stdout, alone.stderr)
    assert job.returncode == 2
    assert "batch_size" in error


def long(asking, spec, data_root):
    """A run of minutes that has just begun to save itself."""
    job = asking({**spec, "samples": 3_200_000, "evaluate": [3_200_000]}, "--data", data_root,
                 "--checkpoint", "checkpoint", "--checkpoint-every", 0)  # fmt: skip
    until(lambda: Path("checkpoint").exists())
    return job


def test_sigterm_reaches_the_fork_which_saves_itself(server, asking, spec, data_root):
    job = long(asking, spec, data_root)
    job.send_signal(signal.SIGTERM)
    _, error = job.communicate(timeout=30)
    assert job.returncode == 128 + signal.SIGTERM
    assert "asked to stop at step" in error
    assert Path("checkpoint").exists()
    assert not children(server)


def test_a_fork_ends_with_its_asker(server, asking, spec, data_root):
    job = long(asking, spec, data_root)
    assert len(children(server)) == 1
    job.kill()
    job.communicate()
    until(lambda: not children(server))
    assert not Path("run.parquet").exists()


def test_a_killed_fork_is_told(server, asking, spec, data_root):
    job = long(asking, spec, data_root)
    os.kill(*children(server), signal.SIGKILL)
    _, error = job.communicate(timeout=30)
    assert job.returncode == 128 + signal.SIGKILL
    assert "killed" in error
    assert Path("checkpoint").exists()


def test_without_sockets_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder for one
    monkeypatch.setenv(spawner.SOCKET, "")
    before = len(spawner._started)
    spawner.start()
    assert (len(spawner._started), os.environ[spawner.SOCKET]) == (before, "")


def test_without_the_process_a_job_does_by_itself(asking, spec, tmp_path, data_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(spawner.SOCKET, ".snakemake/adasde.gone")
    job = asking({**spec, "samples": 640, "evaluate": [640]}, "--data", data_root)
    _, error = job.communicate(timeout=60)
    assert job.returncode == 0, error
    assert Path("run.parquet").exists()
