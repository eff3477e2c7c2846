"""A silent hang becomes a message: which rank, in which part of the work, and where each thread is.

A collective that waits for a rank which never comes waits for ever and says nothing
(OpenRLHF#865, open-instruct#536). Every rank watches itself: progress is a step that ends or a
part of one that begins, and after too long without any the stacks of all threads are written down
and the process ends, so that a scheduler or Ray Train can start it again.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HANGING = 1
"""Exit code of a process that its watchdog ended."""

_phase = "starting"
_last_progress = time.monotonic()


def progress(phase: str) -> None:
    """Say that the work goes on, and with what."""
    global _phase, _last_progress
    _phase, _last_progress = phase, time.monotonic()


@contextmanager
def watching(run_dir: Path, rank: int, minutes: float) -> Iterator[None]:
    """End this process with a message if the block makes no progress for so many minutes."""
    ended = threading.Event()
    progress("starting")

    def watch() -> None:
        while not ended.wait(min(1.0, 6 * minutes)):
            if time.monotonic() - _last_progress > 60 * minutes:
                _give_up(run_dir, rank, minutes)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _give_up(run_dir: Path, rank: int, minutes: float) -> None:
    stacks = run_dir / f"hang-rank{rank}.txt"
    with stacks.open("w", encoding="utf-8") as file:
        file.write(f"rank {rank}, process {os.getpid()}, no progress for {minutes:g} minutes\n")
        file.write(f"in: {_phase}\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    print(
        f"align: rank {rank} hangs: no progress for {minutes:g} minutes in {_phase}; "
        f"its stacks are in {stacks}. The same command goes on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HANGING)
