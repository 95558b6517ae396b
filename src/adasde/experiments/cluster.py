"""What a Slurm cluster lets its user do, asked of Slurm's commands before any job."""

import getpass
import subprocess
from functools import cache


@cache
def accounts() -> list[str]:
    """Return the accounts that this user may charge; none where the cluster keeps no accounts."""
    show = ("show", "associations", f"user={getpass.getuser()}", "format=account")
    return list(dict.fromkeys(_printed("sacctmgr", "--noheader", "--parsable2", *show)))


@cache
def partitions() -> dict[str, float]:
    """Return the minutes that each partition allows, infinity if all; none where Slurm does not answer."""
    lines = _printed("sinfo", "--all", "--noheader", "--format", "%R %l")
    return {name: _minutes(most) for name, most in map(str.split, lines)}


def _printed(*command: str) -> list[str]:
    """The lines that a command prints; none where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _minutes(time: str) -> float:
    """Minutes of a time as Slurm writes it: [days-][hours:]minutes:seconds, or a word if there is no limit."""
    days, _, clock = time.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return float("inf")
    return 1440 * int(days or 0) + sum(int(part) * 60.0**place for place, part in enumerate(parts[::-1], -1))
