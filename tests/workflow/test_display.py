"""What people see while a graph of jobs runs, by `make figures` and a small Snakefile in place of the repository's."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, slow
from snakemake_logger_plugin_adasde import Progress, _cause

SNAKEFILE = """
rule all:
    input: expand("{name}.txt", name=["quick", "slow", "bad"])
rule wait:
    output: "{name}.txt"
    log: "logs/{name}.log"
    params: seconds=lambda wildcards: {"quick": 0, "slow": 4, "bad": 2}[wildcards.name]
    shell:
        "(sleep {params.seconds}; echo some words; "
        "test {wildcards.name} != bad || (echo 'adasde: error: lr = -1: must be > 0'; exit 2); touch {output}) > {log}"
onstart:
    from snakemake.logging import logger
    logger.info(None, extra={"planned_seconds": {"slow": 1200, "bad": 1200}})
"""


@pytest.fixture
def figures(tmp_path):
    """The command `make figures`, in a folder with that Snakefile."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "workflow/config").mkdir(parents=True)
    (tmp_path / "workflow/config/mini.yaml").write_text("{}")
    return ["make", "-f", ROOT / "Makefile", "-o", "env", "figures", "CORES=3", f"VENV={sys.prefix}"]


CAUSE = "failed: wait bad: adasde: error: lr = -1: must be > 0 (log: logs/bad.log)"


def test_a_failed_job_is_named_with_its_cause_at_once(figures, tmp_path):
    process = subprocess.Popen(figures, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    while "jobs done" not in "".join(lines):
        lines.append(process.stderr.readline().rstrip())
    output, rest = process.communicate(timeout=20)  # Snakemake does not wait for its next look for jobs, after 30 s
    assert process.returncode != 0
    lines += rest.splitlines()
    assert lines[0] == CAUSE
    assert lines[1].startswith("Complete log(s): ")
    assert lines[2] == "2 of 4 jobs done"
    assert len(lines) == 4  # and make's own
    assert "some words" not in output
    assert "rule wait:" in Path(lines[1].partition(": ")[2]).read_text()


def test_a_terminal_sees_what_runs_and_how_long_it_will_take(figures, tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(figures, cwd=tmp_path, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm"})
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the last process has closed its end
            break
        written += part
    assert process.wait() != 0
    states = written.decode().split("\r\x1b[2K")
    running = [state for state in states if "running: " in state]
    assert len(running) >= 2
    assert all("\n" not in state and len(state) < 80 for state in running)
    assert re.match(r"0 min: [01] of 4 jobs done, about (19|2\d) min left; running: ", running[0])
    assert "slow" in running[-1]
    causes = [number for number, state in enumerate(states) if state.strip() == CAUSE]
    assert len(causes) == 1
    assert any("running: slow" in state for state in states[causes[0] :])  # others still run


def test_c7_a_profile_shows_the_cause_too(figures, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--profile", ROOT / "workflow/profiles/local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert CAUSE in done.stderr.splitlines()
    assert "Error in rule" not in done.stderr


def test_c7_what_the_cluster_says_is_shown_and_a_silent_end_is_named(tmp_path):
    (tmp_path / "full.log").write_text("resumed\nadasde: error: lr = -1: must be > 0\n\n")
    (tmp_path / "empty.log").touch()
    full, empty = str(tmp_path / "full.log"), str(tmp_path / "empty.log")
    assert _cause([empty, full], None) == f"adasde: error: lr = -1: must be > 0 (log: {full})"
    (tmp_path / "full.log").write_text("adasde: error: lr = -1: must be > 0\nChildFailedError:\n=====\n")  # torchrun's
    assert _cause([full], None) == f"adasde: error: lr = -1: must be > 0 (log: {full})"
    said = "SLURM-job '7' failed,\nSLURM status is: 'TIMEOUT'."
    assert _cause([full], said).startswith("SLURM-job '7' failed, SLURM status is: 'TIMEOUT'.; adasde: error: lr = -1")
    assert _cause([empty], None) == f"no message in {empty}, as of a job that was killed, for want of memory perhaps"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--configfile", "my.yaml", "figures/mini/a b.png", "report", "-n"],
            "--configfile takes what follows for configs (figures/mini/a b.png, report); write targets before it: "
            "snakemake --cores 1 --logger adasde 'figures/mini/a b.png' report -n --configfile my.yaml",
        ),
        (["--configfile", "nothing.yaml"], "adasde: error: nothing.yaml: No such file or directory"),
        (["--configfile", "folder"], "adasde: error: folder: Is a directory"),
        (["--configfile", "pipe.yaml"], "adasde: error: pipe.yaml: is a pipe, a socket or a device; name a file"),
        slow(["--configfiles=pipe.yaml"], "adasde: error: pipe.yaml: is a pipe, a socket or a device; name a file"),
        (["--configfile", "my.yaml", "--configfiles=pipe.yaml"], "adasde: error: pipe.yaml: is a pipe, a socket or a "),
        (["--profile", "profile"], "adasde: error: pipe.yaml: is a pipe, a socket or a device; name a file"),
        (["-n", "--configfile", "my.yaml", "bomb.yaml"], "adasde: error: bomb.yaml: more than 100,000 values, with "),
        (["--configfile", "list.yaml"], "WorkflowError: Config file must be given as JSON or YAML with keys at top"),
        slow(["-n", "--configfile", "list.yaml"], "WorkflowError: Config file must be given as JSON or YAML with keys"),
        slow(
            ["--config", "foo"],
            "ValueError: Invalid config definition: Config entries have to be defined as name=value",
        ),
        (["--nolock", "nothing.txt"], "MissingRuleException: No rule to produce nothing.txt (if you use input fun"),
    ],
)
def test_c12_a_target_after_configfile_is_one_line_with_the_right_command(arguments, line, tmp_path):
    (tmp_path / "my.yaml").write_text("a: 1")
    (tmp_path / "list.yaml").write_text("[1]")
    aliases = [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("a0: &a0 {k: 1}\n" + "".join(aliases))
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "Snakefile").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text("configfile: pipe.yaml")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "adasde", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    (found,) = (line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Using profile"))
    assert found.startswith(line)


@pytest.mark.parametrize("end", [slow(">&-"), slow("2>&-"), ">&- 2>&-", "2>/dev/full"])
def test_a_closed_or_full_output_stops_no_job(end, tmp_path):
    (tmp_path / "Snakefile").write_text('rule one:\n    output: "a.txt"\n    shell: "touch {output}"')
    line = f'"$0" -m snakemake --cores 1 --logger adasde {end}; exit $?'
    done = subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert (tmp_path / "a.txt").exists()
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def clock(monkeypatch):
    """A clock that is put forward by hand."""
    time = [0.0]
    monkeypatch.setattr("snakemake_logger_plugin_adasde.time.monotonic", lambda: time[0])
    return time


def test_the_rest_is_estimated_from_the_plan_and_from_what_jobs_took(clock):
    progress = Progress()
    progress.total, progress.waiting = 5, {"a": 600.0, "b": 600.0, "c": 600.0, "d": 600.0}
    progress.start(1, "a")
    progress.start(2, "b")
    assert progress.seconds_left() == pytest.approx(1201, abs=1)  # 2,400 on two cores, and a figure
    clock[0] = 1200.0
    assert progress.seconds_left() == pytest.approx(601, abs=1)  # both are late; what waits takes what was planned
    progress.end(1)
    progress.end(2)
    progress.done = 2
    assert progress.seconds_left() == pytest.approx(1201, rel=0.05)  # jobs take twice what was planned
    progress.start(3, "c")
    assert progress.end(3, failed=True) == "c"
    assert progress.waiting["c"] == 600.0  # a cluster's job may be tried again
    progress.start(3, "c")
    progress.start(4, "d")
    progress.end(3)
    progress.done = 3
    assert 600 < progress.seconds_left() < 1200  # one job of 600 planned seconds decides
    assert progress.line().startswith("20 min: 3 of 5 jobs done, about ")


def test_only_some_targets_of_a_plan_take_their_share(clock):
    progress = Progress()
    progress.total, progress.waiting = 2, {str(number): 600.0 for number in range(100)}
    progress.start(1, "7")
    assert progress.seconds_left() == pytest.approx(1200)
