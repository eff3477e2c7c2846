"""A polite end: a signal lets the step finish, a checkpoint follows, the command exits with 75.

The signal reaches the command's own process, while training ranks may be other processes on other
machines. So the request is a file in the run directory, which rank 0 looks at once a step.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPED = 75
"""Exit code: stopped after a checkpoint, run me again (EX_TEMPFAIL of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they end a job."""


class Stop(Exception):
    """Raised after the checkpoint; ends the run with exit code 75."""


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that start in the block do not hear the signals.

    `timeout`, systemd and Slurm send them to all processes of a job, but the step can only end, and
    the checkpoint follow, while Ray is alive.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def listening(flag: Path) -> Iterator[None]:
    """Make the flag file at a signal, for the length of the block; a second one ends at once."""
    flag.unlink(missing_ok=True)

    seen = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        seen = True
        flag.touch()
        # Not print: the signal may have come in the middle of one.
        name = signal.Signals(number).name
        os.write(
            2, f"align: {name}: the step ends, then a checkpoint; again ends at once\n".encode()
        )

    earlier = {one: signal.signal(one, request) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in earlier.items():
            signal.signal(one, handler)
        flag.unlink(missing_ok=True)
