"""The run directory: where things lie, who holds it, what is finished."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data.atomic import sync, written_whole
from align.data.errors import UserError
from align.pipeline.manifest import published

RANKS_LOCK = ".lock-ranks"
ORPHAN_SECONDS = 60


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        """The run in a few numbers."""
        return self.path / "summary.json"

    @property
    def stop_flag(self) -> Path:
        """A file that asks a run to stop after the current step; see pipeline/stopping.py."""
        return self.path / ".stop"

    @property
    def resumed(self) -> Path:
        """Names the checkpoint that `--resume PATH` went back to.

        A scheduler repeats its command: that must not put the newer progress aside each time.
        """
        return self.path / ".resumed"

    def gone_back_to(self) -> str | None:
        """The last PATH of `--resume PATH` that was carried out."""
        return self.resumed.read_text(encoding="utf-8") if self.resumed.exists() else None

    @property
    def jobs(self) -> Path:
        """What was submitted from here, and what is asked of the jobs; see pipeline/submit."""
        return self.path / "jobs"

    @property
    def stop_job(self) -> Path:
        """A file that asks a job to stop after the current step, and not to be started again."""
        return self.jobs / "stop"

    def stop_requested(self) -> bool:
        """True once a signal, or somebody on another machine, wants the run to stop."""
        flags = (self.stop_flag, self.stop_job, self.jobs / "pause")
        return any(flag.exists() for flag in flags)

    def stage(self, stage: str) -> Path:
        """Everything one stage wrote."""
        return self.path / stage

    def final(self, stage: str) -> Path:
        """The model a stage made; it exists only once the stage is finished."""
        return self.path / stage / "final"

    def is_finished(self, stage: str) -> bool:
        """True once the stage's model is published."""
        return (self.final(stage) / "config.json").is_file()

    def has_begun(self, stage: str) -> bool:
        """True once something that the stage goes on from depends on its settings."""
        return self.is_finished(stage) or bool(published(self.stage(stage) / "checkpoints"))

    def need(self, stage: str) -> Path:
        """The model of an earlier stage, or how to make it."""
        if not self.is_finished(stage):
            raise UserError(
                f"no model in {self.final(stage)}: run `align run --stage {stage}` with the same "
                "--config and --run-dir first"
            )
        return self.final(stage)


def resume_point(resume: str, directory: RunDirectory) -> str:
    """`auto`, `never`, or the absolute path of a checkpoint to go back to. Raises UserError."""
    if resume in ("auto", "never"):
        return resume
    point = str(Path(resume).absolute())
    if point == directory.gone_back_to():
        print(
            f"  --resume {resume}: done before, so the newest checkpoint it is; delete "
            f"{directory.resumed} to go back once more"
        )
        return "auto"
    if not (Path(resume) / "MANIFEST.json").is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; give auto, never or its folder")
    return point


@contextmanager
def locked(directory: RunDirectory) -> Iterator[None]:
    """Hold the run directory for this process, or name who does."""
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
        lock = (directory.path / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {directory.path}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UserError(
                f"{directory.path} is held by {holder}: wait for it, stop it, or choose another "
                "--run-dir"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        _wait_for_ranks(directory)
        yield


@contextmanager
def held_by_ranks(directory: RunDirectory) -> Iterator[None]:
    """Hold the directory for training ranks, which outlive a driver that is killed by seconds."""
    with (directory.path / RANKS_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_for_ranks(directory: RunDirectory) -> None:
    with (directory.path / RANKS_LOCK).open("a") as lock:
        for _ in range(10 * ORPHAN_SECONDS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)
    raise UserError(
        f"{directory.path} is held by ranks of a run whose driver is gone: end them, or choose "
        "another --run-dir"
    )


@contextmanager
def folder_for(final: Path) -> Iterator[Path]:
    """A folder to write a model into; it gets its name only when all of it is there."""
    draft = new_draft(final)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft)
        raise
    publish_draft(draft, final)


def new_draft(final: Path) -> Path:
    """An empty folder beside the one that it is to become."""
    draft = final.with_name(final.name + ".writing")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def publish_draft(draft: Path, final: Path) -> None:
    """Give a finished draft its name, once all of it is on the disk."""
    for path in (*draft.rglob("*"), draft):
        sync(path)
    draft.rename(final)
    sync(final.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    with written_whole(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def read_summary(directory: RunDirectory) -> dict[str, Any]:
    """What summary.json says so far; nothing but an empty `seconds` where there is none."""
    summary: dict[str, Any] = {"seconds": {}}
    if directory.summary.exists():
        summary |= json.loads(directory.summary.read_text(encoding="utf-8"))
    return summary


def update_summary(directory: RunDirectory, **numbers: Any) -> None:
    """Merge numbers into summary.json; `seconds` is merged key by key."""
    summary = read_summary(directory)
    seconds = summary["seconds"] | numbers.pop("seconds", {})
    write_json(directory.summary, summary | numbers | {"seconds": seconds})
