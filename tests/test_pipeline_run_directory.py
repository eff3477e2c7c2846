"""The run directory: locks, publishing whole folders, the summary."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align.data.errors import UserError
from align.pipeline import run_directory
from align.pipeline.run_directory import (
    RunDirectory,
    folder_for,
    held_by_ranks,
    locked,
    read_summary,
    update_summary,
    write_json,
)

HOLDER = """
import sys, time
from pathlib import Path
from typing import Any
from align.pipeline.run_directory import RunDirectory, locked
with locked(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A live process that holds the run directory."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_live_process_is_refused_and_the_holder_is_named(tmp_path: Path) -> None:
    with another_holder(tmp_path / "run") as holder:
        with pytest.raises(UserError) as caught, locked(RunDirectory(tmp_path / "run")):
            pass
        message = str(caught.value)
        assert f"process {holder.pid} on " in message and str(tmp_path / "run") in message
        assert "\n" not in message


def test_a_killed_holder_leaves_the_directory_free(tmp_path: Path) -> None:
    with another_holder(tmp_path / "run") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with locked(RunDirectory(tmp_path / "run")):
            holder_text = (tmp_path / "run" / ".lock").read_text(encoding="utf-8")
    assert holder_text.startswith(f"process {os.getpid()} on ")


def test_ranks_that_outlive_their_driver_are_waited_for(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    released: list[str] = []
    with ThreadPoolExecutor() as pool:
        with held_by_ranks(directory):
            waiting = pool.submit(_lock_and, lambda: list(released), directory)
            time.sleep(0.5)
            released.append("ranks")
        assert waiting.result(timeout=30) == ["ranks"]


def test_ranks_that_never_end_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "ORPHAN_SECONDS", 1)
    directory = RunDirectory(tmp_path)
    with held_by_ranks(directory), pytest.raises(UserError, match="whose driver is gone"):
        _lock_and(lambda: None, directory)


def _lock_and(work: Callable[[], Any], directory: RunDirectory) -> Any:
    with locked(directory):
        return work()


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for _ in range(2):
        with locked(directory):
            pass
    with pytest.raises(RuntimeError), locked(directory):
        raise RuntimeError
    with locked(directory):
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below_a_file = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write to") as caught, locked(below_a_file):
        pass
    assert "\n" not in str(caught.value)


def test_a_published_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "sft" / "final"
    with folder_for(final) as draft:
        (draft / "adapter").mkdir()
        (draft / "adapter" / "weights").write_text("w")
        assert not final.exists()
    assert (final / "adapter" / "weights").read_text() == "w"
    assert [path.name for path in final.parent.iterdir()] == ["final"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with pytest.raises(RuntimeError, match="disk full"), folder_for(final) as draft:
        (draft / "weights").write_text("half")
        raise RuntimeError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "final.writing").mkdir()
    (tmp_path / "final.writing" / "old").write_text("half")
    with folder_for(tmp_path / "final") as draft:
        (draft / "weights").write_text("w")
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["weights"]


def test_a_stage_is_finished_once_its_model_is_published(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with pytest.raises(UserError, match="run `align run --stage sft`"):
        directory.need("sft")
    with folder_for(directory.final("sft")) as draft:
        (draft / "config.json").touch()
        assert not directory.is_finished("sft")
    assert directory.is_finished("sft")
    assert directory.need("sft") == tmp_path / "sft" / "final"


def test_the_summary_is_merged(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    update_summary(directory, seconds={"sft": 1.0})
    update_summary(directory, rm_accuracy=0.7, seconds={"rm": 2.0})
    update_summary(directory, win_rate=0.6, kl=1.5)
    update_summary(directory, rm_accuracy=0.8, seconds={"sft": 3.0})
    assert json.loads(directory.summary.read_text(encoding="utf-8")) == {
        "rm_accuracy": 0.8,
        "win_rate": 0.6,
        "kl": 1.5,
        "seconds": {"sft": 3.0, "rm": 2.0},
    }


def test_json_keeps_its_language_and_replaces_the_file(tmp_path: Path) -> None:
    for value in ({"a": "old and longer than the new one"}, {"a": "静夜思"}):
        write_json(tmp_path / "x.json", value)
    assert "静夜思" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_run_without_a_summary_has_an_empty_one(tmp_path: Path) -> None:
    """As when finished stages were copied into a new run directory."""
    assert read_summary(RunDirectory(tmp_path)) == {"seconds": {}}
