"""Copies of whole checkpoints on any file system that fsspec knows: S3 and the like.

    URL/STAGE/step-00000100/{shards, MANIFEST.json}

The manifest goes last, so a copy without one is none. A machine that comes up with an empty disk
takes the newest whole copy and goes on from there.
"""

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from align.data.errors import UserError
from align.pipeline.manifest import MANIFEST
from align.pipeline.run_directory import new_draft, publish_draft

T = TypeVar("T")


def upload(path: Path, url: str, stage: str) -> None:
    """Copy a published checkpoint. Raises: UserError if the file system says no."""
    system, root = _opened(url)
    there = posixpath.join(root, stage, path.name)

    def copy() -> None:
        system.makedirs(there, exist_ok=True)
        for file in sorted(path.iterdir(), key=lambda file: file.name == MANIFEST):
            system.put_file(str(file), posixpath.join(there, file.name))

    _tried(copy, url)


def prune(kept: set[str], url: str, stage: str) -> None:
    """Delete the copies of checkpoints that are not kept."""
    system, root = _opened(url)

    def delete() -> None:
        for there in _copies(system, root, stage):
            if posixpath.basename(there) not in kept:
                # Without its manifest it is no checkpoint, however far the rest gets.
                if system.exists(posixpath.join(there, MANIFEST)):
                    system.rm_file(posixpath.join(there, MANIFEST))
                system.rm(there, recursive=True)

    _tried(delete, url)


def fetch_newest(folder: Path, url: str, stage: str) -> Path | None:
    """Bring the newest whole copy into `folder`; None if there is none."""
    system, root = _opened(url)

    def fetch() -> Path | None:
        for there in sorted(_copies(system, root, stage), reverse=True):
            if system.exists(posixpath.join(there, MANIFEST)):
                final = folder / posixpath.basename(there)
                draft = new_draft(final)
                for file in system.ls(there, detail=False):
                    system.get_file(file, str(draft / posixpath.basename(file)))
                publish_draft(draft, final)
                return final
        return None

    return _tried(fetch, url)


def _opened(url: str) -> tuple[Any, str]:
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"train.upload: {url}: {' '.join(str(error).split())}") from error
    return system, root


def _copies(system: Any, root: str, stage: str) -> list[str]:
    folder = posixpath.join(root, stage)
    if not system.exists(folder):
        return []
    return [path.rstrip("/") for path in system.ls(folder, detail=False)]


def _tried(work: Callable[[], T], url: str) -> T:
    # Every file system has errors of its own, most of them below OSError.
    try:
        return work()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"train.upload: {url}: {reason}") from error
