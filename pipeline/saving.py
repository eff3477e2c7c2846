"""Saving a checkpoint beside the training: a snapshot at once, the files in a thread of their own.

A step waits for the snapshot alone: this rank's share of the tensors in its memory, 12 bytes for
every trainable parameter divided by the ranks, until they are written. The thread writes, syncs
and hashes; the ranks' threads meet in a group of their own, and rank 0 publishes. Training goes on
meanwhile, and learns at the end of its next step if a save failed.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from align.data.atomic import sync
from align.data.errors import UserError
from align.pipeline import ranks
from align.pipeline.manifest import MANIFEST, Manifest, StoredFile, stored_file
from align.pipeline.run_directory import new_draft, publish_draft, write_json

T = TypeVar("T")
Shards = dict[str, dict[str, Tensor]]
"""File name -> tensors by name."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory: what the training goes on with can no longer change it."""

    manifest: Manifest
    """Of the files nothing yet."""
    shards: Shards
    """What this rank writes. Empty afterwards."""


class Saves:
    """The saves of one stage, at most one of them under way. Every rank makes the same calls."""

    def __init__(self, settle: Callable[[Path], None]) -> None:
        """`settle` gets what was published, on rank 0, in the thread."""
        self._settle = settle
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._group = ranks.second_group()
        self._under_way: Future[None] | None = None

    def begin(self, snapshot: Snapshot, final: Path) -> None:
        """Write the snapshot to a folder that gets its name only when all of it is there."""
        assert self._under_way is None  # else two snapshots would be in memory
        self._under_way = self._thread.submit(self._save, snapshot, final)

    def check(self) -> None:
        """Forget a save that is done on every rank. Raises: UserError if it failed."""
        if self._under_way and all(ranks.gather(self._under_way.done())):
            self.finish()

    def finish(self) -> None:
        """Wait for the save that is under way, if any. Raises: UserError if it failed."""
        if self._under_way:
            ended, self._under_way = self._under_way, None
            ended.result()

    def _save(self, snapshot: Snapshot, final: Path) -> None:
        draft = ranks.on_main(lambda: _writing(final, new_draft), self._group)
        try:
            stored = ranks.on_all(
                lambda: _writing(draft, lambda _: _write(draft, snapshot.shards)), self._group
            )
            files = tuple(file for shard in stored for file in shard)
            manifest = snapshot.manifest.model_copy(update={"files": files})
            ranks.on_main(
                lambda: _writing(draft, lambda _: _publish(draft, final, manifest)), self._group
            )
        except UserError:
            if ranks.is_main():
                shutil.rmtree(draft, ignore_errors=True)
            raise
        ranks.on_main(lambda: _writing(final, self._settle), self._group)


def _write(draft: Path, shards: Shards) -> list[StoredFile]:
    stored = []
    for name in list(shards):
        save_file(shards.pop(name), draft / name)  # and its memory is free
        sync(draft / name)
        stored.append(stored_file(draft / name))
    return stored


def _publish(draft: Path, final: Path, manifest: Manifest) -> None:
    write_json(draft / MANIFEST, manifest.model_dump(mode="json"))
    if final.exists():  # broken, else the stage would have gone on from there
        delete(final)
    publish_draft(draft, final)


def delete(path: Path) -> None:
    """Under another name first: a checkpoint that is half gone must not look like one."""
    doomed = path.with_name(f"{path.name}.deleting")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _writing(path: Path, work: Callable[[Path], T]) -> T:
    """A full or broken disk is the user's to mend; the checkpoint before this one still stands."""
    try:
        return work(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot save a checkpoint in {path.parent}: {reason_of(error)}; earlier ones are as "
            "they were. Free some space or mend the disk, and run the same command again"
        ) from error


def reason_of(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200]
