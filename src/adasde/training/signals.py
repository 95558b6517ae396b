"""Signals that ask a run to stop: it saves itself first, where an exception would come in the midst of anything."""

import signal
from contextlib import contextmanager

from adasde.common import Stopped


@contextmanager
def stopping():
    """Yield a function that says whether a signal has asked to stop; handle them as before at the end.

    SIGTERM is what Slurm, and whoever else ends jobs, sends some time before SIGKILL. After Ctrl-C the run's Stopped
    becomes KeyboardInterrupt; a second Ctrl-C does not wait for the run.
    """
    asked = []

    def ask(number, _):
        if asked.count(signal.SIGINT) and number == signal.SIGINT:
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
