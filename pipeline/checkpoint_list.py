"""`align checkpoints`: what a run could go on from, and what is wrong with the rest."""

import time
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import STAGES
from align.pipeline.manifest import step_of, verified
from align.pipeline.progress import duration, note
from align.pipeline.run_directory import RunDirectory


def list_checkpoints(run_dir: Path) -> None:
    """Print one row for each checkpoint of each stage, newest last."""
    directory = RunDirectory(run_dir)
    found = [
        (stage, path)
        for stage in STAGES
        for path in sorted((directory.stage(stage) / "checkpoints").glob("step-*"))
        if path.suffix not in (".writing", ".deleting")  # of a save that goes on or was killed
    ]
    if not found:
        note(f"no checkpoints in {run_dir}: train.save_every and train.save_minutes make them")
        return
    note(_row("stage", "step", "size", "age", ""))
    for stage, path in found:
        note(_row(stage, *_described(path)))


def _described(path: Path) -> tuple[str, str, str, str]:
    """Step, size, age and state."""
    try:
        manifest = verified(path).manifest
    except UserError as error:
        return str(step_of(path)), "", "", f"not usable: {error}"
    size = sum(file.bytes for file in manifest.files) / 1e6
    age = duration(max(0.0, time.time() - manifest.created_at))
    state = "whole" if path.suffix == "" else f"whole, put aside: {path.name}"
    return str(manifest.step), f"{size:.1f} MB", age, state


def _row(stage: str, step: str, size: str, age: str, state: str) -> str:
    return f"{stage:<5}  {step:>8}  {size:>10}  {age:>8}  {state}".rstrip()
