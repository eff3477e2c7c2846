"""What a person sees while a stage works: a live bar on a terminal, plain lines elsewhere.

On a terminal: `sft ━━━━━━━━━━━━━━━━ 120/400 4.2/s 1:07 left  loss 1.234  accuracy 0.613`
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as LiveBar
from rich.table import Column
from rich.text import Text

from align.data.messages import printable

SHOWN: dict[str, dict[str, str]] = {
    "sft": {"loss": "loss", "token_accuracy": "accuracy"},
    "rm": {"loss": "loss", "accuracy": "accuracy", "margin": "margin"},
    "ppo": {"objective/scores": "score", "objective/kl": "kl", "answer/length": "length"},
}
"""Stage -> metrics shown beside the bar -> their label."""

SECONDS_BETWEEN_LINES = 10.0
RATE_WINDOW = 20
"""The rate is that of so many updates: it follows a change, and forgets a slow first step."""

# Soft wrap: a line of a log file is never broken at a width that nobody has.
console = Console(highlight=False, soft_wrap=True)


def section(title: str) -> None:
    """Print the heading of a stage or of a part of the work."""
    console.print()
    console.print(Text(printable(title), style="bold cyan"))


def note(text: str) -> None:
    """Print one line of fact under a heading."""
    console.print(Text(f"  {printable(text)}"))


Piece = TypeVar("Piece")


class Progress:
    """Steps done, rate, time left and a few metrics of one piece of work.

    `stage` is one of SHOWN, or any title for work without metrics. `total` is None where nobody
    knows it. `start` is the number of steps done before, for a stage that goes on from a
    checkpoint. `quiet` prints nothing: for every rank but the main one.
    """

    def __init__(
        self, stage: str, total: int | None, *, start: int = 0, quiet: bool = False
    ) -> None:
        self._stage = stage
        self._total = total
        self._quiet = quiet
        self._step = start
        self._began = time.monotonic()
        self._recent = deque([(self._began, start)], maxlen=RATE_WINDOW)
        self._last_line = self._began
        self._bar: LiveBar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if console.is_terminal and not self._quiet:
            self._bar = _live_bar()
            starting = f"{self._done()} starting"
            self._task = self._bar.add_task(
                self._stage, total=self._total, completed=self._step, status=starting
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show that `step` of `total` is done."""
        if self._quiet:
            return
        now = time.monotonic()
        previous, self._step = self._step, step
        self._recent.append((now, step))
        status = self._status(now, metrics or {})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif self._line_is_due(previous, now):
            self._last_line = now
            console.print(Text(f"{self._stage} {status}"))

    def _line_is_due(self, previous: int, now: float) -> bool:
        """Every 10 s, and at each tenth of the work."""
        if self._total is None:
            return now - self._last_line >= SECONDS_BETWEEN_LINES
        tenth_passed = 10 * self._step // self._total > 10 * previous // self._total
        return tenth_passed or now - self._last_line >= SECONDS_BETWEEN_LINES

    def _status(self, now: float, metrics: Mapping[str, float]) -> str:
        labels = SHOWN.get(self._stage, {})
        values = [f"{labels[name]} {metrics[name]:.3g}" for name in labels if name in metrics]
        return "  ".join([f"{self._done()} {self._pace(now)}", *values])

    def _done(self) -> str:
        return f"{self._step}" if self._total is None else f"{self._step}/{self._total}"

    def _pace(self, now: float) -> str:
        since, first_step = self._recent[0]
        seconds_per_step = (now - since) / max(self._step - first_step, 1)
        if self._total is None:
            return _rate(seconds_per_step)
        if self._step >= self._total:
            return f"done in {duration(now - self._began)}"
        left = duration((self._total - self._step) * seconds_per_step)
        return f"{_rate(seconds_per_step)} {left} left"


def tracked(title: str, pieces: Iterable[Piece], rows: Callable[[Piece], int]) -> Iterator[Piece]:
    """The pieces as they are, while a bar counts the rows in them. The first one starts the bar:
    what has to be done before it may have a bar of its own."""
    waiting, done = iter(pieces), 0
    for first in waiting:
        with Progress(title, None) as progress:
            yield first
            progress.update(done := rows(first))
            for piece in waiting:
                yield piece
                progress.update(done := done + rows(piece))


def duration(seconds: float) -> str:
    """1:07, or 2:03:09 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(seconds_per_step: float) -> str:
    if seconds_per_step > 1:
        return f"{seconds_per_step:.1f} s/step"
    return f"{1 / max(seconds_per_step, 1e-6):.1f}/s"


def _live_bar() -> LiveBar:
    return LiveBar(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=16),
        TextColumn(
            "{task.fields[status]}",
            markup=False,
            # A narrow terminal cuts the last metric instead of wrapping the bar.
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
    )
