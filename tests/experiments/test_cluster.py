"""What Slurm's commands say, which are scripts here; tests/workflow/test_slurm.py asks the real ones."""

import math

import pytest

from adasde.experiments import cluster

PARTITIONS = """short 1:00
cpu infinite
day 1-00:00:00
long 2-12:30:30
hours 8:30:00
unset n/a
"""
LIMITS = {"short": 1, "cpu": math.inf, "day": 1440, "long": 3630.5, "hours": 510, "unset": math.inf}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put a command into the only folder in which commands are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster.accounts.cache_clear()
    cluster.partitions.cache_clear()

    def write(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)

    yield write
    cluster.accounts.cache_clear()
    cluster.partitions.cache_clear()


def test_accounts_and_partitions_are_read(command):
    command("sacctmgr", "echo paper\necho other\necho paper")
    command("sinfo", "\n".join(f"echo {line}" for line in PARTITIONS.splitlines()))
    assert cluster.accounts() == ["paper", "other"]
    assert cluster.partitions() == LIMITS


def test_without_slurm_or_accounting_there_are_none(command):
    assert (cluster.accounts(), cluster.partitions()) == ([], {})
    cluster.accounts.cache_clear()
    command("sacctmgr", "echo paper; echo 'no accounting' >&2; exit 1")
    assert cluster.accounts() == []
