"""What a stage tells while it works: a metrics line, a progress bar, its seconds by part."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from align.data.atomic import write_jsonl
from align.pipeline import ranks, watchdog
from align.pipeline.metrics import MetricsLog
from align.pipeline.progress import Progress
from align.pipeline.results import read_json_lines


class StageLog:
    """Writes on the main rank and is silent on the others, so stage code never asks."""

    def __init__(self, directory: Path, stage: str, total: int, start: int = 0) -> None:
        self.directory = directory
        self._samples = directory / "samples.jsonl"
        self._stage, self._step = stage, start
        self._main = ranks.is_main()
        self._progress = Progress(stage, total, start=start, quiet=not self._main)
        self._metrics = MetricsLog(directory) if self._main else None
        self._open = ExitStack()
        self._seconds: dict[str, float] = defaultdict(float)
        self._step_began = time.monotonic()
        if self._metrics:
            self._metrics.truncate_after(start)
            self._keep_samples(until=start)

    def __enter__(self) -> Self:
        if self._metrics:
            self._open.enter_context(self._metrics)
        self._open.enter_context(self._progress)
        self._step_began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the seconds of the block under `time/<part>` of the current step."""
        began = time.monotonic()
        watchdog.progress(f"{self._stage}, step {self._step + 1}, {part}")
        yield
        self._seconds[part] += time.monotonic() - began

    def step(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Record one finished step, counted from 1; `tokens` went through training in it."""
        seconds = self.seconds
        timed = {f"time/{part}": value for part, value in self._seconds.items()}
        complete = {**metrics, "tokens_per_second": tokens / seconds, **timed}
        if self._metrics:
            self._metrics.log(step, complete)
        self._progress.update(step, complete)
        self._seconds.clear()
        self._step = step
        watchdog.progress(f"{self._stage}, step {step + 1}")
        self._step_began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the last step was recorded."""
        return time.monotonic() - self._step_began

    def samples(self, step: int, rows: Sequence[tuple[str, str, float | None]]) -> None:
        """Keep (prompt, answer, score) of an evaluation in `samples.jsonl`."""
        if self._main:
            with self._samples.open("a", encoding="utf-8") as file:
                for prompt, answer, score in rows:
                    known = score if score is not None and math.isfinite(score) else None
                    row = {"step": step, "prompt": prompt, "answer": answer, "score": known}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _keep_samples(self, until: int) -> None:
        """Forget the answers of steps that are to be done again."""
        if self._samples.exists():
            rows = [row for _, row in read_json_lines(self._samples)]
            write_jsonl(self._samples, [row for row in rows if row["step"] <= until])
