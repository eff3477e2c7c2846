"""Saving beside the training: what is saved, when it is there, and who hears of a failure."""

import errno
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.data.errors import UserError
from align.pipeline import saving
from align.pipeline.manifest import Manifest, verified
from align.pipeline.saving import Saves, Snapshot

one_rank = pytest.mark.usefixtures("one_rank")


def snapshot(step: int, **tensors: Tensor) -> Snapshot:
    manifest = Manifest(
        stage="sft",
        step=step,
        created_at=0.0,
        ranks=1,
        zero_stage=0,
        config_sha256="",
        data_sha256="",
        scalars={},
        files=(),
    )
    rank = dist.get_rank()
    return Snapshot(manifest, {f"model-{rank}.safetensors": {**tensors}})


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that writes only once the event is set."""
    free = threading.Event()

    def waiting(tensors: Mapping[str, Tensor], file: Path) -> None:
        assert free.wait(timeout=60)
        save_file(dict(tensors), file)

    monkeypatch.setattr(saving, "save_file", waiting)
    yield free
    free.set()


@one_rank
def test_nobody_waits_for_the_disk_and_nothing_shows_before_it_is_whole(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    settled: list[Path] = []
    saves, final = Saves(settled.append), tmp_path / "step-00000001"
    saves.begin(snapshot(1, weight=torch.ones(3)), final)
    saves.check()  # of the next step, which would be here
    assert not final.exists() and not settled
    slow_disk.set()
    saves.finish()
    assert settled == [final]
    (file,) = verified(final).files
    assert torch.equal(load_file(file)["weight"], torch.ones(3))


@one_rank
def test_memory_is_free_once_it_is_written(tmp_path: Path) -> None:
    taken = snapshot(1, weight=torch.ones(3))
    saves = Saves(lambda _: None)
    saves.begin(taken, tmp_path / "step-00000001")
    saves.finish()
    assert not taken.shards


@one_rank
def test_a_save_that_fails_is_said_at_the_end_of_a_later_step(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("a file, where a folder should be")
    saves = Saves(lambda _: None)
    saves.begin(snapshot(1, weight=torch.ones(3)), folder / "step-00000001")
    with pytest.raises(UserError, match="cannot save a checkpoint in") as caught:
        for _ in range(600):
            saves.check()
            threading.Event().wait(0.1)
    assert "\n" not in str(caught.value)
    saves.finish()  # it was said


@one_rank
def test_what_cannot_be_deleted_is_said(tmp_path: Path) -> None:
    def settle(_: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    saves = Saves(settle)
    saves.begin(snapshot(1, weight=torch.ones(3)), tmp_path / "step-00000001")
    with pytest.raises(UserError, match="Permission denied"):
        saves.finish()
    verified(tmp_path / "step-00000001")


def full_disk(tensors: Any, file: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def on_one_of_two(rank: int, folder: Path, broken: int | None, said: Any) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(0, 60))
    if rank == broken:
        saving.save_file = full_disk  # type: ignore[assignment, attr-defined]
    saves = Saves(lambda _: None)
    saves.begin(snapshot(1, weight=torch.full((3,), rank)), folder / "step-00000001")
    try:
        saves.finish()
        said.put((rank, "published"))
    except UserError as error:
        said.put((rank, str(error)))
    dist.barrier()  # nobody waits for somebody who left
    dist.destroy_process_group()


def two_ranks(folder: Path, broken: int | None) -> dict[int, str]:
    said = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(on_one_of_two, (folder, broken, said), nprocs=2)
    return dict(said.get() for _ in range(2))


def test_the_files_of_all_ranks_become_one_checkpoint(tmp_path: Path) -> None:
    assert two_ranks(tmp_path, broken=None) == {0: "published", 1: "published"}
    values = [float(load_file(f)["weight"][0]) for f in verified(tmp_path / "step-00000001").files]
    assert values == [0, 1]


def test_a_disk_that_is_full_on_one_rank_is_said_on_all_and_leaves_nothing(tmp_path: Path) -> None:
    said = two_ranks(tmp_path, broken=1)
    assert "No space left" in said[1] and said[0] == said[1]
    assert not list(tmp_path.glob("step-*"))
