"""Progress as people see it: a live bar on a terminal, plain lines in a log file."""

import os
import pty
import subprocess
import sys

import pytest

from align.pipeline.progress import Progress, duration, note, section, tracked

DEMO = """
import time
from align.pipeline.progress import Progress, note, section
section("Stage 1: instruction tuning")
note("100 examples [not markup]")
with Progress("sft", 5) as progress:
    for step in range(1, 6):
        time.sleep(0.05)
        progress.update(step, {"loss": 2.0 / step, "lr": 1e-5})
"""


def run_on_a_terminal(code: str) -> str:
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stdout=terminal, env=environment
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not chunk:
            break
        output += chunk
    os.close(main)
    assert process.wait() == 0
    return output.decode()


def test_a_log_file_gets_plain_lines_with_steps_rate_time_left_and_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("rm", 100) as progress:
        for step in range(1, 101):
            progress.update(step, {"loss": 0.5, "accuracy": 0.75, "lr": 1e-5})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10  # one for each tenth
    assert lines[4].startswith("rm 50/100 ")
    assert lines[4].endswith("/s 0:00 left  loss 0.5  accuracy 0.75")
    assert lines[-1] == "rm 100/100 done in 0:00  loss 0.5  accuracy 0.75"


def test_a_short_stage_gets_a_line_for_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ppo", 3) as progress:
        for step in (1, 2, 3):
            progress.update(step)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        "1/3",
        "2/3",
        "3/3",
    ]


def test_a_resumed_stage_does_not_count_the_steps_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("align.pipeline.progress.time.monotonic", lambda: next(clock))
    with Progress("sft", 100, start=48) as progress:
        progress.update(50)
    assert capsys.readouterr().out == "sft 50/100 2.0 s/step 1:40 left\n"


def test_slow_steps_are_shown_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 8.0, 12.0, 16.0])
    monkeypatch.setattr("align.pipeline.progress.time.monotonic", lambda: next(clock))
    with Progress("sft", 1000) as progress:
        for step in (1, 2, 3, 4):
            progress.update(step)
    assert capsys.readouterr().out == "sft 3/1000 4.0 s/step 1:06:28 left\n"


def test_a_quiet_rank_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sft", 2, quiet=True) as progress:
        progress.update(1)
        progress.update(2)
    assert capsys.readouterr().out == ""


def test_headings_and_notes_print_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    section("Stage [bold]2")
    note("reads [/data] " + "x" * 200)
    assert capsys.readouterr().out == "\nStage [bold]2\n  reads [/data] " + "x" * 200 + "\n"


def test_a_terminal_gets_a_live_bar() -> None:
    shown = run_on_a_terminal(DEMO)
    assert "━" in shown
    assert "[not markup]" in shown
    assert "5/5" in shown
    assert "done in 0:00" in shown
    assert "loss 0.4" in shown


def test_durations_read_like_a_clock() -> None:
    assert [duration(seconds) for seconds in (0.4, 67, 3599.6, 7389)] == [
        "0:00",
        "1:07",
        "1:00:00",
        "2:03:09",
    ]


TRACKED = """
import time
from align.pipeline.progress import tracked
def records():
    for _ in range(4):
        time.sleep(0.1)
        yield [0] * 500
def pairs():
    yield sum(tracked("records", records(), len), start=[])
assert [len(part) for part in tracked("pairs", pairs(), len)] == [2000]
"""


def test_rows_that_nobody_counted_before_are_counted_with_their_rate() -> None:
    printed = run_on_a_terminal(TRACKED)
    assert "2000 " in printed and "/s" in printed
    assert 0 <= printed.index("records") < printed.index("pairs")


def test_few_rows_leave_no_line_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked("records", [[1], [2, 3]], len)) == [[1], [2, 3]]
    assert list(tracked("records", [], len)) == []
    assert capsys.readouterr().out == ""


def test_many_rows_are_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 1000, 6))
    monkeypatch.setattr("align.pipeline.progress.time.monotonic", lambda: float(next(times)))
    list(tracked("records", [range(600)] * 5, len))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("records 1200 ") and lines[0].endswith("/s")
