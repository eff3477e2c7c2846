"""Checkpoints: whole or not there, checked before use, and exactly what was saved."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from align.data.errors import UserError
from align.pipeline import saving, training_state
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.manifest import MANIFEST, make_newest, stored_file, verified
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stopping import Stop

TinyCausal = Callable[[str], PreTrainedModel]
pytestmark = pytest.mark.usefixtures("one_rank")


def config_with(**train: object) -> RunConfig:
    return RunConfig.model_validate({"name": "x", "train": {"micro_batch_tokens": 512, **train}})


class Training:
    """A linear model that learns on noise; its steps depend on the step's number alone."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.engine = Engine(model, 0.05, 20, config.train)

    def step(self, number: int) -> dict[str, float]:
        noise = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        dtype = next(self.engine.module.parameters()).dtype
        self.engine.backward(self.engine(noise.to(dtype)).float().square().mean())
        return self.engine.step(number)

    @property
    def engines(self) -> dict[str, object]:
        return {"model": self.engine.deepspeed}

    @property
    def weights(self) -> torch.Tensor:
        whole = [p.clone().flatten() for _, p in self.engine.parameters(trainable_only=True)]
        return torch.cat(whole)


def checkpoints_in(path: Path, config: RunConfig) -> Checkpoints:
    return Checkpoints(RunDirectory(path), "sft", config, "data", steps=20)


def saved_run(path: Path, config: RunConfig, steps: int, *, restore: bool = False) -> Training:
    """Train up to so many steps with checkpoints as the config says."""
    training = Training(config)
    checkpoints = checkpoints_in(path, config)
    if restore:
        checkpoints.restore(training.engines)
    for step in range(checkpoints.steps_done if restore else 0, steps):
        training.step(step)
        checkpoints.after(step + 1, training.engines)
    checkpoints.finish()
    return training


def steps_on_disk(path: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (path / "sft" / "checkpoints").iterdir())


STATES = [
    {"zero_stage": stage, "precision": precision}
    for stage in (0, 1, 2, 3)
    for precision in ("fp32", "bf16")
]


@pytest.mark.parametrize("settings", STATES, ids=str)
def test_training_goes_on_bit_by_bit(tmp_path: Path, settings: dict[str, object]) -> None:
    config = config_with(save_every=3, **settings)
    through = saved_run(tmp_path / "through", config, 6)
    saved_run(tmp_path / "stopped", config, 3)
    again = Training(config)
    checkpoints = Checkpoints(RunDirectory(tmp_path / "stopped"), "sft", config, "data", 20)
    checkpoints.restore(again.engines)
    for step in range(checkpoints.steps_done, 6):
        again.step(step)
    assert checkpoints.steps_done == 3
    assert torch.equal(again.weights, through.weights)


@pytest.mark.parametrize("before", (0, 1, 2, 3))
@pytest.mark.parametrize("after", (0, 1, 2, 3))
def test_any_zero_stage_reads_what_any_other_wrote(tmp_path: Path, before: int, after: int) -> None:
    through = saved_run(tmp_path / "through", config_with(save_every=3, zero_stage=before), 6)
    saved_run(tmp_path / "moved", config_with(save_every=3, zero_stage=before), 3)
    config = config_with(save_every=3, zero_stage=after)
    again = Training(config)
    checkpoints = Checkpoints(RunDirectory(tmp_path / "moved"), "sft", config, "data", 20)
    checkpoints.restore(again.engines)
    for step in range(checkpoints.steps_done, 6):
        again.step(step)
    assert torch.allclose(again.weights, through.weights, atol=1e-6)


def test_nemo_rl_3171_and_prime_rl_1311_no_optimiser_is_fresh_after_a_resume(
    tmp_path: Path,
) -> None:
    """Of two engines, as in PPO: both moments, Adam's count of steps, and the learning rate."""
    config = config_with(save_every=3)
    two = {"policy": Training(config), "critic": Training(config)}
    again = {"policy": Training(config), "critic": Training(config)}
    for step in range(3):
        for place, training in enumerate(two.values()):
            training.step(step + 100 * place)
    checkpoints = checkpoints_in(tmp_path, config)
    checkpoints.after(3, {name: one.engine.deepspeed for name, one in two.items()})
    checkpoints.finish()
    found = checkpoints_in(tmp_path, config)
    found.restore({name: one.engine.deepspeed for name, one in again.items()})
    for name in two:
        saved, restored = (adam_state(one[name]) for one in (two, again))
        assert saved.keys() == restored.keys() and saved["step"] == 3
        for key, value in saved.items():
            assert torch.equal(value, restored[key]) and value.abs().sum() > 0, (name, key)
    assert again["policy"].step(3)["lr"] == two["policy"].step(3)["lr"] < 0.05


def adam_state(training: Training) -> dict[str, torch.Tensor]:
    states = training.engine.deepspeed.optimizer.state.values()
    assert len(states) == 4  # two layers, each with weights and biases
    moments = {
        f"{i} {name}": s[name] for i, s in enumerate(states) for name in training_state.MOMENTS
    }
    return moments | {"step": next(iter(states))["step"]}


def test_verl_agent_237_nothing_is_trusted_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker file that was not synced named a checkpoint that a power cut had emptied.

    The name is the tracker here: every file is synced before the folder gets it, the folder above
    after that, and only then the checkpoint before it goes.
    """
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_sync(number: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def noted_rename(source: Path, target: Path) -> None:
        done.append(f"rename {Path(source).name} {Path(target).name}")
        rename(source, target)

    config = config_with(save_every=1, keep_last=1)
    saved_run(tmp_path, config, 1)
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    saved_run(tmp_path, config, 2, restore=True)
    shard, draft = "model-00000-of-00001.safetensors", "step-00000002.writing"
    published = done.index(f"rename {draft} step-00000002")
    for what in (shard, MANIFEST, draft):
        assert f"sync {what}" in done[:published], what
    assert done.index(f"sync {shard}") < done.index(f"sync {MANIFEST}")
    after = done[published + 1 :]
    gone = after.index("rename step-00000001 step-00000001.deleting")
    assert "sync checkpoints" in after[:gone]


def test_a_fresh_optimiser_would_be_noticed(tmp_path: Path) -> None:
    """What the tests above would see of the bug: with weights alone, training goes elsewhere."""
    config = config_with(save_every=3)
    through = saved_run(tmp_path / "through", config, 6)
    stopped = saved_run(tmp_path / "stopped", config, 3)
    fresh = Training(config)
    with torch.no_grad():
        for mine, theirs in zip(
            fresh.engine.module.parameters(), stopped.engine.module.parameters(), strict=True
        ):
            mine.copy_(theirs)
    for step in range(3, 6):
        fresh.step(step)
    assert not torch.allclose(fresh.weights, through.weights, atol=1e-4)


def test_what_the_stage_itself_carries_comes_back_exactly(tmp_path: Path) -> None:
    """verl#2653: the adaptive KL coefficient began again from its first value."""
    config = config_with(save_every=1)
    training = Training(config)
    checkpoints = checkpoints_in(tmp_path, config)
    assert checkpoints.numbers == {}
    training.step(0)
    numbers = {"kl_coef": 0.1 + 0.2, "count": 64.0}
    checkpoints.after(1, training.engines, numbers)
    checkpoints.finish()
    assert checkpoints_in(tmp_path, config).numbers == numbers


def test_old_checkpoints_go_only_after_new_ones_came(tmp_path: Path) -> None:
    saved_run(tmp_path, config_with(save_every=1, keep_last=2), 5)
    assert steps_on_disk(tmp_path) == [4, 5]


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved is what was there at its step, and its predecessor stays until it is there."""
    config = config_with(save_every=3, keep_last=1)
    through = saved_run(tmp_path / "through", config, 9)
    written = threading.Event()

    def slow(shards: dict[str, torch.Tensor], file: Path) -> None:
        assert written.wait(timeout=60)
        save_file(shards, file)

    saved_run(tmp_path / "run", config, 3)
    monkeypatch.setattr(saving, "save_file", slow)
    going_on, checkpoints = Training(config), checkpoints_in(tmp_path / "run", config)
    checkpoints.restore(going_on.engines)
    average = torch.zeros(3)
    for step in range(3, 8):
        going_on.step(step)
        average += 1
        checkpoints.after(step + 1, going_on.engines, tensors={"average": average})
    assert "step-00000003" in {p.name for p in (tmp_path / "run" / "sft" / "checkpoints").iterdir()}
    written.set()
    checkpoints.finish()
    assert steps_on_disk(tmp_path / "run") == [6]
    again, found = Training(config), checkpoints_in(tmp_path / "run", config)
    found.restore(again.engines, {"average": average})
    for step in range(6, 9):
        again.step(step)
    assert torch.equal(again.weights, through.weights)
    assert average.tolist() == [3, 3, 3]


def test_the_last_step_waits_for_its_checkpoint(tmp_path: Path) -> None:
    config = config_with(save_every=1)
    training, checkpoints = Training(config), checkpoints_in(tmp_path, config)
    for step in range(20):
        training.step(step)
        checkpoints.after(step + 1, training.engines)
    assert steps_on_disk(tmp_path)[-1] == 20


def test_some_checkpoints_stay_for_ever(tmp_path: Path) -> None:
    saved_run(tmp_path, config_with(save_every=1, keep_last=1, keep_every=2), 5)
    assert steps_on_disk(tmp_path) == [2, 4, 5]


def test_minutes_of_work_make_a_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that does not jump: the wall clock is not asked."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -1e9)
    config = config_with(save_minutes=5)
    training = Training(config)
    checkpoints = checkpoints_in(tmp_path, config)
    for step in range(1, 7):
        training.step(step - 1)
        now[0] += 120
        checkpoints.after(step, training.engines)
    checkpoints.finish()
    assert steps_on_disk(tmp_path) == [3, 6]


def test_no_checkpoint_is_made_where_none_is_wanted(tmp_path: Path) -> None:
    config = config_with(save_minutes=0)
    training = Training(config)
    checkpoints = checkpoints_in(tmp_path, config)
    training.step(0)
    checkpoints.after(1, training.engines)
    assert not (tmp_path / "sft" / "checkpoints").exists()


def test_a_request_to_stop_ends_the_stage_after_a_checkpoint(tmp_path: Path) -> None:
    config = config_with(save_minutes=0)
    training = Training(config)
    checkpoints = checkpoints_in(tmp_path, config)
    training.step(0)
    RunDirectory(tmp_path).stop_flag.touch()
    with pytest.raises(Stop):
        checkpoints.after(1, training.engines)
    checkpoints.finish()
    assert steps_on_disk(tmp_path) == [1]


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _delete(file: Path) -> None:
    file.unlink()


def _empty_manifest(file: Path) -> None:
    (file.parent / MANIFEST).write_bytes(b"")


def _no_manifest(file: Path) -> None:
    (file.parent / MANIFEST).unlink()


def _newer_manifest(file: Path) -> None:
    manifest = json.loads((file.parent / MANIFEST).read_bytes())
    (file.parent / MANIFEST).write_text(json.dumps(manifest | {"what_is_this": 1}))


def _manifest_that_reads_elsewhere(file: Path) -> None:
    manifest = json.loads((file.parent / MANIFEST).read_bytes())
    manifest["files"][0]["name"] = "../../../../secret"
    (file.parent / MANIFEST).write_text(json.dumps(manifest))


DAMAGES = [
    (_truncate, "bytes"),
    (_flip_a_bit, "not what was saved"),
    (_delete, "not there"),
    (_empty_manifest, "no whole MANIFEST.json"),
    (_no_manifest, "no whole MANIFEST.json"),
    (_newer_manifest, "no whole MANIFEST.json"),
    (_manifest_that_reads_elsewhere, "not there"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=lambda d: getattr(d, "__name__", ""))
def test_automodel_3261_and_rlinf_1469_a_partial_checkpoint_is_skipped_and_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    """Both resumed from what an interrupted save had left, and hung or misread it."""
    config = config_with(save_every=1)
    saved_run(tmp_path, config, 2)
    newest = tmp_path / "sft" / "checkpoints" / "step-00000002"
    damage(next(newest.glob("*.safetensors")))
    checkpoints = checkpoints_in(tmp_path, config)
    assert checkpoints.steps_done == 1
    printed = capsys.readouterr().out
    assert "checkpoint skipped" in printed and reason in printed and "step-00000002" in printed


def test_a_broken_checkpoint_makes_room_for_the_same_step(tmp_path: Path) -> None:
    config = config_with(save_every=1)
    saved_run(tmp_path, config, 2)
    newest = tmp_path / "sft" / "checkpoints" / "step-00000002"
    _flip_a_bit(next(newest.glob("*.safetensors")))
    saved_run(tmp_path, config, 2)
    verified(newest)


def test_what_an_interrupted_save_left_is_cleared_away(tmp_path: Path) -> None:
    config = config_with(save_every=1)
    saved_run(tmp_path, config, 1)
    folder = tmp_path / "sft" / "checkpoints"
    for name in ("step-00000002.writing", "step-00000000.deleting"):
        shutil.copytree(folder / "step-00000001", folder / name)
    checkpoints_in(tmp_path, config)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("now", "data", "what"),
    [(config_with(warmup=0.5), "data", "settings"), (config_with(), "other data", "data")],
    ids=["settings", "data"],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, now: RunConfig, data: str, what: str
) -> None:
    saved_run(tmp_path, config_with(save_every=1), 1)
    with pytest.raises(UserError, match=f"made from other {what}") as caught:
        Checkpoints(RunDirectory(tmp_path), "sft", now, data, 20)
    assert "\n" not in str(caught.value)


def test_where_and_how_the_work_is_done_may_change(tmp_path: Path) -> None:
    saved_run(tmp_path, config_with(save_every=1), 1)
    elsewhere = config_with(ranks=2, zero_stage=2, save_every=0, keep_last=5)
    assert Checkpoints(RunDirectory(tmp_path), "sft", elsewhere, "data", 20).steps_done == 1


def test_going_on_from_an_older_one_puts_the_later_aside(tmp_path: Path) -> None:
    config = config_with(save_every=1, keep_last=3)
    saved_run(tmp_path, config, 3)
    folder = tmp_path / "sft" / "checkpoints"
    make_newest(folder / "step-00000001")
    assert checkpoints_in(tmp_path, config).steps_done == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-00000001",
        "step-00000002.superseded",
        "step-00000003.superseded",
    ]


def test_what_was_put_aside_can_be_taken_back(tmp_path: Path) -> None:
    config = config_with(save_every=1, keep_last=3)
    saved_run(tmp_path, config, 3)
    folder = tmp_path / "sft" / "checkpoints"
    make_newest(folder / "step-00000001")
    make_newest(folder / "step-00000002.superseded")
    assert checkpoints_in(tmp_path, config).steps_done == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-00000001",
        "step-00000002",
        "step-00000003.superseded",
    ]


def test_a_stage_cannot_end_before_where_it_is(tmp_path: Path) -> None:
    config = config_with(save_every=1)
    saved_run(tmp_path, config, 3)
    assert Checkpoints(RunDirectory(tmp_path), "sft", config, "data", 3).steps_done == 3
    with pytest.raises(UserError, match="sft has 3 steps behind it and is to have 2"):
        Checkpoints(RunDirectory(tmp_path), "sft", config, "data", 2)


def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path: Path) -> None:
    config = config_with(save_every=1, keep_last=3)
    saved_run(tmp_path, config, 2)
    folder = tmp_path / "sft" / "checkpoints"
    stray = next((folder / "step-00000001").glob("*.safetensors"))
    shutil.copy(stray, folder / "step-00000002" / "model-zzz.safetensors")
    again, alone = (Training(config) for _ in range(2))
    checkpoints_in(tmp_path, config).restore(again.engines)
    (folder / "step-00000002" / "model-zzz.safetensors").unlink()
    checkpoints_in(tmp_path, config).restore(alone.engines)
    assert torch.equal(again.weights, alone.weights)


def test_a_folder_under_another_step_is_refused(tmp_path: Path) -> None:
    saved_run(tmp_path, config_with(save_every=1), 1)
    folder = tmp_path / "sft" / "checkpoints"
    moved = (folder / "step-00000001").rename(folder / "step-00000007")
    with pytest.raises(UserError, match="holds step 1"):
        verified(moved)


def test_a_pickle_in_place_of_a_shard_does_not_run(tmp_path: Path) -> None:
    """Even with a manifest that vouches for it: safetensors has no code to run."""
    config = config_with(save_every=1)
    saved_run(tmp_path, config, 1)
    path = tmp_path / "sft" / "checkpoints" / "step-00000001"
    shard = next(path.glob("*.safetensors"))
    proof = tmp_path / "it-ran"
    shard.write_bytes(f"cos\nsystem\n(S'touch {proof}'\ntR.".encode())
    manifest = json.loads((path / MANIFEST).read_bytes())
    manifest["files"][0] = stored_file(shard).model_dump()
    (path / MANIFEST).write_text(json.dumps(manifest))
    checkpoints = checkpoints_in(tmp_path, config)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.restore(Training(config).engines)
    assert not proof.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {disk} 2>/dev/null"):
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    os.system(f"umount {disk}")


def fill(disk: Path) -> None:
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize))


def make_read_only(disk: Path) -> None:
    assert not os.system(f"mount -o remount,ro {disk}")


@pytest.mark.parametrize(
    ("spoil", "reason"), [(fill, "No space left"), (make_read_only, "Read-only file system")]
)
def test_a_disk_that_takes_no_more_is_one_line_and_the_last_checkpoint_stands(
    small_disk: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    config = config_with(save_every=1)
    saved_run(small_disk, config, 1)
    spoil(small_disk)
    with pytest.raises(UserError, match=f"cannot save a checkpoint in .*{reason}") as caught:
        saved_run(small_disk, config, 2)
    assert "\n" not in str(caught.value)
    assert steps_on_disk(small_disk) == [1]
    verified(small_disk / "sft" / "checkpoints" / "step-00000001")


def test_a_machine_with_an_empty_disk_goes_on_from_the_newest_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_with(save_every=1, keep_last=1, upload=f"file://{tmp_path}/copies")
    through = saved_run(tmp_path / "through", config_with(save_every=1), 4)
    saved_run(tmp_path / "lost", config, 2)
    shutil.rmtree(tmp_path / "lost")
    again = saved_run(tmp_path / "new", config, 4, restore=True)
    assert "fetched step-00000002" in capsys.readouterr().out
    assert torch.equal(again.weights, through.weights)
    assert [path.name for path in (tmp_path / "copies" / "sft").iterdir()] == ["step-00000004"]


def test_a_copy_that_fails_is_said_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copies").write_text("a file, where a folder should be")
    config = config_with(save_every=1, upload=f"file://{tmp_path}/copies")
    training = Training(config)
    checkpoints = checkpoints_in(tmp_path, config)
    training.step(0)
    checkpoints.after(1, training.engines)
    checkpoints.finish()
    assert steps_on_disk(tmp_path) == [1]
    assert "but not where copies go" in capsys.readouterr().out
