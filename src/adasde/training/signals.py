"""Signals that ask a run to stop. The run saves itself first; an exception could come in the middle of anything."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from adasde.common import Stopped


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal has asked to stop; restore the earlier handlers at the end.

    Slurm and other schedulers send SIGTERM some time before SIGKILL. After Ctrl-C the run's Stopped becomes
    KeyboardInterrupt. A second Ctrl-C does not wait for the run.
    """
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    except Stopped as error:
        if signal.SIGINT in asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
