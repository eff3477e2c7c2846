"""A silent hang becomes a message: which rank, in which part of the work, and where each thread is.

A collective that waits for a rank which never comes waits for ever and says nothing
(OpenRLHF#865, open-instruct#536). Every rank watches itself: progress is a step that ends or a
part of one that begins. The first that goes too long without any asks all the others where they
are, by a file that each of them looks for, and speaks for all: whoever waits is told apart from
whom they wait for. Then its process ends, so that a scheduler or Ray Train can start it again.
"""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

HANGING = 1
"""Exit code of a process that its watchdog ended."""

ANSWER_SECONDS = 10.0
"""For which a rank is waited for to say where it is."""

_phase = "starting"
_last_progress = time.monotonic()


def progress(phase: str) -> None:
    """Say that the work goes on, and with what."""
    global _phase, _last_progress
    _phase, _last_progress = phase, time.monotonic()


@contextmanager
def watching(run_dir: Path, rank: int, ranks: int, minutes: float) -> Iterator[None]:
    """End this process with a message if the block makes no progress for so many minutes."""
    ended, question = threading.Event(), run_dir / ".hanging"
    worker = threading.get_ident()  # Ray Train works in another than the main thread
    if rank == 0:
        question.unlink(missing_ok=True)
    progress("starting")

    def watch() -> None:
        answered = _asked_at(question)  # by the hang of an earlier group, if at all
        while not ended.wait(min(1.0, 6 * minutes)):
            hangs = time.monotonic() - _last_progress > 60 * minutes
            first = hangs and _asked_first(question)
            if _asked_at(question) not in (0.0, answered):
                answered = _asked_at(question)
                _answer(_answer_file(run_dir, rank), worker)
            if first:
                _speak([_answer_file(run_dir, one) for one in range(ranks)], question)
            if hangs and not ended.wait(2 * ANSWER_SECONDS):  # until who speaks has spoken
                os._exit(HANGING)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _asked_at(question: Path) -> float:
    return question.stat().st_mtime if question.exists() else 0.0


def _asked_first(question: Path) -> bool:
    try:
        question.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _speak(answers: list[Path], question: Path) -> NoReturn:
    """One line for each rank, in their order, and the end."""

    def is_there(answer: Path) -> bool:
        # Not one to an earlier question.
        return answer.exists() and answer.stat().st_mtime >= _asked_at(question)

    asked = time.monotonic()
    while not all(map(is_there, answers)) and time.monotonic() - asked < ANSWER_SECONDS:
        time.sleep(0.1)
    for rank, answer in enumerate(answers):
        said = answer.read_text("utf-8").partition("\n")[0] if is_there(answer) else "is silent"
        print(f"align: hang: rank {rank} {said}", file=sys.stderr)
    print(
        f"align: hang: the stacks are in {question.parent}/hang-rank*.txt. The same command goes "
        "on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HANGING)


def _answer(answer: Path, worker: int) -> None:
    """Write down where this rank is: one line of it, then the stacks of all its threads."""
    draft = answer.with_name(f".{answer.name}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(f"{_whereabouts(worker)}\n\nprocess {os.getpid()}\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    draft.replace(answer)


def _answer_file(run_dir: Path, rank: int) -> Path:
    return run_dir / f"hang-rank{rank}.txt"


def _whereabouts(worker: int) -> str:
    minutes = (time.monotonic() - _last_progress) / 60
    at = traceback.extract_stack(sys._current_frames()[worker])[-1]
    return (
        f"has been in {_phase} for {minutes:.1f} minutes, at {at.filename}:{at.lineno}, {at.name}"
    )
