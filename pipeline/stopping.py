"""A polite end: SIGTERM lets the step finish, a checkpoint follows, the command exits with 75."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""Exit code: stopped after a checkpoint, run me again (EX_TEMPFAIL of sysexits.h)."""


class Stop(Exception):
    """Raised after the checkpoint; ends the run with exit code 75."""


_requested = False


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGTERM for the length of the block; a second one ends the process at once."""
    earlier = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def requested() -> bool:
    """Whether SIGTERM has come."""
    return _requested


def _note(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
