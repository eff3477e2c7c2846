"""What a checkpoint is on disk: a folder whose manifest names every file with its size and hash.

    STAGE/checkpoints/step-00000100/{ENGINE-RANK-of-RANKS.safetensors, MANIFEST.json}

The manifest is written last, so what an interrupted save leaves behind is recognised. No torch
here: `align checkpoints` answers at once.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from align.data.errors import UserError

MANIFEST = "MANIFEST.json"
SUPERSEDED = ".superseded"
"""Ending of a checkpoint that was put aside for an earlier one."""


class StoredFile(BaseModel):
    """One file of a checkpoint, as it was written."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a checkpoint is. An unknown key is one of a newer version, and refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    step: int
    """Steps that are done."""
    created_at: float
    """Seconds since 1970, for people: nothing depends on it."""
    ranks: int
    zero_stage: int
    config_sha256: str
    data_sha256: str
    scalars: dict[str, dict[str, float]]
    """Engine -> the few numbers beside its tensors; `stage` -> what the stage itself carries."""
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written."""

    path: Path
    manifest: Manifest

    @property
    def files(self) -> list[Path]:
        """Those that the manifest names; others in the folder are not the checkpoint's."""
        return [self.path / stored.name for stored in self.manifest.files]


def published(folder: Path) -> list[Path]:
    """The checkpoints of a stage by step, the oldest first, whole or not."""
    return sorted(folder.glob("step-" + "[0-9]" * 8))


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-").removesuffix(SUPERSEDED))


def stored_file(file: Path) -> StoredFile:
    """A file's line in the manifest."""
    return StoredFile(name=file.name, bytes=file.stat().st_size, sha256=_digest(file))


def verified(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises: UserError that says what is wrong with it."""
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:99]
        raise UserError(f"{path}: no whole {MANIFEST} ({reason})") from error
    if manifest.step != step_of(path):
        raise UserError(f"{path}: holds step {manifest.step}: give it back its name")
    for stored in manifest.files:
        file = path / stored.name
        # Names come from a file that anybody may have edited.
        if file.parent != path or not file.is_file():
            raise UserError(f"{file}: not there")
        if file.stat().st_size != stored.bytes:
            raise UserError(f"{file}: {file.stat().st_size} bytes, {stored.bytes} were saved")
        if _digest(file) != stored.sha256:
            raise UserError(f"{file}: its content is not what was saved")
    return Checkpoint(path, manifest)


def make_newest(path: Path) -> None:
    """Let a stage go on from this checkpoint: later ones are put aside, this one is taken back."""
    verified(path)
    for other in published(path.parent):
        if step_of(other) >= step_of(path) and other != path:
            aside = other.with_name(f"{other.name}{SUPERSEDED}")
            shutil.rmtree(aside, ignore_errors=True)
            other.rename(aside)
    path.rename(path.with_name(path.name.removesuffix(SUPERSEDED)))


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
