"""What people see while a graph of jobs runs: `snakemake --logger adasde`, which `make figures` uses.

A terminal shows one line that is kept up to date: jobs done of all, minutes left, what runs. A file or pipe gets such a
line every half minute. A failed job's cause is written at once. Snakemake writes its full log to a file in any case.
"""

import io
import logging
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from itertools import takewhile
from pathlib import Path

from snakemake.cli import parse_args
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from adasde.common import InputError, one_line
from adasde.scaling.documents import read_document

# What Snakemake says without a warning's level, but a reader should know; and what this handler says better.
_SHOWN = ("Nothing to be done", "Trying to restart job", "Complete log", "Terminating processes", "Will exit after")
_HIDDEN = ("CalledProcessError in file", "Exiting because a job execution failed", "At least one job did not complete")
_SHORT_JOB = 2.0  # seconds of a job that is not in the plan, for example a figure


class Progress:
    """Which jobs are done, run and wait, and how long the rest will take."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.total = self.done = self.width = 0
        self.waiting: dict[str, float] = {}  # planned seconds by the name of the job
        self.running: dict[int, tuple[str, float, float]] = {}  # name, planned seconds, begun
        self.planned = self.spent = 60.0  # seconds of the finished jobs; the first minute counts as planned

    def start(self, job: int, name: str) -> None:
        """Note that a job runs now."""
        self.running[job] = (name, self.waiting.pop(name, _SHORT_JOB), time.monotonic())
        self.width = max(self.width, len(self.running))

    def end(self, job: int, failed: bool = False) -> str:
        """Note that a job has ended, and return its name; a failed one may be tried again."""
        name, planned, begun = self.running.pop(job)
        if failed:
            self.waiting[name] = planned
        else:
            self.planned += planned
            self.spent += time.monotonic() - begun
        return name

    def seconds_left(self) -> float:
        """Estimate the rest from the plan, corrected by how long the finished jobs took."""
        pace, now = self.spent / self.planned, time.monotonic()
        left = [max(0.0, planned * pace - now + begun) for _, planned, begun in list(self.running.values())]
        jobs, costs = max(0, self.total - self.done - len(left)), list(self.waiting.values())
        planned_jobs = min(jobs, len(costs))  # fewer than the plan has where only some targets are built
        waiting = pace * planned_jobs * sum(costs) / max(1, len(costs)) + _SHORT_JOB * (jobs - planned_jobs)
        return max([*left, (sum(left) + waiting) / max(1, self.width)])

    def line(self) -> str:
        """Say it in one line."""
        minutes = self.seconds_left() / 60
        left = "less than a minute left" if minutes < 1 else f"about {minutes:.0f} min left"
        names = ", ".join(name for name, *_ in list(self.running.values()))
        elapsed = (time.monotonic() - self.begun) / 60
        return f"{elapsed:.0f} min: {self.done} of {self.total} jobs done, {left}; running: {names}"


class LogHandler(LogHandlerBase):
    """Snakemake's events as a reader wants them."""

    writes_to_stream = True
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        """Prepare; nothing is shown before jobs start, unless a config is refused."""
        _refuse_configs(sys.argv)
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        if self.stream is None:  # closed
            self.stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115, as long as the process
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.progress, self.ended, self.writing = Progress(), threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._repeat, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep count of an event, or show a message."""
        event, fields, text = getattr(record, "event", None), record.__dict__, record.getMessage()
        if record.levelno >= logging.ERROR and event != LogEvent.JOB_ERROR:
            self._show_error(text)
        elif self.common_settings.dryrun:
            self._write(self.format(record))
        elif event == LogEvent.RUN_INFO:
            self.progress.total = fields["stats"]["total"]
            self.thread.start()
        elif "planned_seconds" in fields:  # from the Snakefile
            self.progress.waiting = dict(fields["planned_seconds"])
        elif event == LogEvent.JOB_INFO:
            self.progress.start(fields["jobid"], " ".join(fields["wildcards"].values()) or fields["rule_name"])
        elif event == LogEvent.JOB_FINISHED:
            self.progress.end(fields["job_id"])
        elif event == LogEvent.PROGRESS:
            self.progress.done, self.progress.total = fields["done"], fields["total"]
        elif event == LogEvent.JOB_ERROR:
            name = self.progress.end(fields["jobid"], failed=True)
            self._write(f"failed: {fields['rule_name']} {name}: {_cause(fields['log'], fields['rule_msg'])}")
        elif text.startswith(_SHOWN) or record.levelno >= logging.WARNING:
            self._write(text)

    def close(self) -> None:
        """Stop, and leave the last state as a line of its own."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
            self._write(f"{self.progress.done} of {self.progress.total} jobs done")
            # Snakemake's, which would look for new jobs; it need not wait for them.
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer):
                    thread.cancel()
        super().close()

    def _show_error(self, text: str) -> None:
        """Show an error in one line; of a traceback, such as on a full disk, the last."""
        lines = [line.strip() for line in text.strip().splitlines()]
        if not any(words in text for words in _HIDDEN):
            self._write(one_line(lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)))

    def _repeat(self) -> None:
        while not self.ended.wait(1 if self.live else 30):
            self._write(self.progress.line(), passing=self.live)

    def _write(self, text: str, passing: bool = False) -> None:
        """Write a line; on a terminal a passing one is overwritten by the next."""
        with self.writing:
            self.stream.write("\r\x1b[2K" if self.live else "")
            self.stream.write(text[: shutil.get_terminal_size().columns - 1] if passing else f"{text}\n")
            self.stream.flush()


def _cause(logs: list[str], said: str | None) -> str:
    """Why a job has failed: our own line in its log or else the last, and what the cluster has ``said``; and where.

    Several processes that are started together end with a report of their own after the line.
    """
    parts = [" ".join(said.split())] if said else []
    for log in (log for log in map(Path, logs) if log.exists()):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            cause = next((line for line in reversed(lines) if "adasde: error:" in line), lines[-1])
            return "; ".join([*parts, f"{cause.strip()} (log: {log})"])
    parts.append(f"no message in {', '.join(logs) or 'a log'}, as of a job that was killed, for want of memory perhaps")
    return "; ".join(parts)


def _refuse_configs(arguments: Sequence[str]) -> None:
    """End, with one line, where a config is missing, one at which Snakemake would hang, or wrong in another way.

    Snakemake reads configs before the Snakefile, which looks at them too. They may be given in many ways, and by a
    profile, all of which its own parser knows; what that prints it has printed before. Arguments that are not
    Snakemake's, of a program that calls it, name none.
    """
    configs: list[Path] = []
    with redirect_stderr(io.StringIO()), suppress(SystemExit):
        configs = parse_args(list(arguments[1:]))[1].configfile
    for config in configs:
        try:
            read_document(config)
        except (InputError, OSError) as error:
            line = str(error) if isinstance(error, InputError) else f"{config}: {error.strerror}"
            sys.exit(_right_order(arguments) or f"adasde: error: {one_line(line)}")


def _right_order(arguments: Sequence[str]) -> str | None:
    """The command with its targets before --configfile, which takes all that follows; None if that is not the cause."""
    names = ("--configfile", "--configfiles")
    place = next((n for n, argument in enumerate(arguments) if argument in names), len(arguments))
    taken = [*takewhile(lambda argument: not argument.startswith("-"), arguments[place + 1 :])]
    targets = [value for value in taken if not value.endswith((".yaml", ".yml", ".json"))]
    if not targets or len(targets) == len(taken):
        return None
    configs, rest = [value for value in taken if value not in targets], arguments[place + 1 + len(taken) :]
    command = shlex.join(["snakemake", *arguments[1:place], *targets, *rest, arguments[place], *configs])
    return f"--configfile takes what follows for configs ({', '.join(targets)}); write targets before it: {command}"
