"""What people see on a terminal: tables, and a bar for long work."""

import sys
from contextlib import contextmanager


def table(rows) -> str:
    """Return rows of strings in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


@contextmanager
def progress(run: str, shown: bool = True):
    """Yield a function report(step, steps) that moves a bar on a terminal, and None elsewhere: logs stay quiet."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(run, total=None)
        yield lambda step, steps: progress.update(bar, completed=step, total=steps)
