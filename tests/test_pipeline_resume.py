"""Stopped, killed or moved to other ranks, a run ends as it would have.

Real processes, real signals.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

Start = Callable[..., subprocess.Popen[str]]
Finished = Callable[..., str]
Timeless = Callable[[Path, str], list[dict[str, float]]]

STAGES = ("sft", "rm", "ppo")
EVERY_STEP = ("--set", "train.save_every=1")
TWO_RANKS = ("--set", "train.ranks=2", "--set", "train.zero_stage=2")


def tiny(run: Path, *more: str) -> tuple[str, ...]:
    return ("run", "--config", "tiny", "--run-dir", str(run), *more)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    for _ in range(6000):
        if happened():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError(f"never {what}")


def wait_for_step(run: Path, stage: str, step: int, process: subprocess.Popen[str]) -> None:
    metrics = run / stage / "metrics.jsonl"

    def reached() -> bool:
        return metrics.exists() and len(metrics.read_text("utf-8").splitlines()) >= step

    wait_for(reached, process, f"step {step} in {metrics}")


def wait_for_saving(folder: Path, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: any(folder.glob("*.writing")), process, "saving")


def assert_same_end(run: Path, other: Path, timeless: Timeless) -> None:
    """Bit by bit: every metric of every step, and the weights."""
    for stage in STAGES:
        assert timeless(run, stage) == timeless(other, stage)
        weights = [path / stage / "final" / "model.safetensors" for path in (run, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def descendants(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Processes below this one, or below Ray, whose command line has the name in it."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if name in " ".join(child.cmdline())
    ]


def test_a_stopped_run_goes_on_bit_by_bit(
    tiny_run: Path, tmp_path: Path, align: Start, finished: Finished, timeless: Timeless
) -> None:
    """A signal during SFT and PPO, and a kill in the middle of a save of the reward model."""
    run = tmp_path / "stopped"
    for stage, step, number in (("sft", 2, signal.SIGTERM), ("ppo", 1, signal.SIGUSR1)):
        process = align(*tiny(run, *EVERY_STEP))
        if stage == "ppo":
            wait_for_saving(run / "rm" / "checkpoints", process)
            process.kill()
            process.communicate()
            process = align(*tiny(run, *EVERY_STEP))
        wait_for_step(run, stage, step, process)
        os.killpg(process.pid, number)  # as schedulers do: also what Ray started gets it
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 75, printed
        assert "the same command goes on" in printed
    finished(*tiny(run, *EVERY_STEP))
    assert not list(run.rglob("*.writing"))
    assert_same_end(run, tiny_run, timeless)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_saving_goes_on_bit_by_bit(
    tiny_run: Path, tmp_path: Path, align: Start, finished: Finished, timeless: Timeless
) -> None:
    """Once in each stage; what the dead left behind is cleared away."""
    run = tmp_path / "killed"
    for stage in STAGES:
        process = align(*tiny(run, *EVERY_STEP))
        wait_for_saving(run / stage / "checkpoints", process)
        process.kill()
        process.communicate()
    finished(*tiny(run, *EVERY_STEP))
    assert not list(run.rglob("*.writing"))
    assert_same_end(run, tiny_run, timeless)


def test_a_second_signal_ends_at_once(tmp_path: Path, align: Start) -> None:
    process = align(*tiny(tmp_path / "run", "--set", "sft.epochs=500"))
    wait_for_step(tmp_path / "run", "sft", 1, process)
    process.send_signal(signal.SIGSTOP)  # so that both signals arrive before a step ends
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGUSR1)


def test_two_ranks_stop_and_go_on_as_one(
    tmp_path: Path, align: Start, finished: Finished, timeless: Timeless
) -> None:
    """The signal reaches the driver alone. Same data order; floats differ by rounding."""
    run, alone = tmp_path / "elastic", tmp_path / "alone"
    long = ("--stage", "sft", "--set", "sft.epochs=8")
    process = align(*tiny(run, *long, *TWO_RANKS))
    wait_for_step(run, "sft", 3, process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 75, printed
    printed = finished(*tiny(run, *long, "--set", "train.zero_stage=1"))
    assert "train.ranks: 2 then, 1 now" in printed and "going on after step" in printed
    finished(*tiny(alone, *long))
    for row, other in zip(timeless(run, "sft"), timeless(alone, "sft"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)


@pytest.mark.slow
def test_a_rank_that_is_killed_starts_again_without_a_person(
    tiny_run: Path, tmp_path: Path, align: Start, timeless: Timeless
) -> None:
    run = tmp_path / "restarted"
    process = align(*tiny(run, "--stage", "sft", *TWO_RANKS, *EVERY_STEP))
    wait_for_step(run, "sft", 4, process)
    ranks = descendants(process, "RayTrainWorker")
    assert len(ranks) == 2
    ranks[1].kill()
    printed, _ = process.communicate(timeout=250)
    assert process.returncode == 0, printed
    assert re.search(r"going on after step \d", printed)
    for row, alone in zip(timeless(run, "sft"), timeless(tiny_run, "sft"), strict=True):
        assert row["loss"] == pytest.approx(alone["loss"], abs=1e-4)


def test_the_checkpoints_of_a_run_are_listed(
    tmp_path: Path, align: Start, finished: Finished
) -> None:
    run = tmp_path / "run"
    command = tiny(run, "--stage", "sft", *EVERY_STEP, "--set", "sft.epochs=500")
    process = align(*command)
    wait_for_step(run, "sft", 4, process)
    process.kill()
    process.communicate()
    newest = max((run / "sft" / "checkpoints").glob("step-*[0-9]"))
    shard = next(newest.glob("*.safetensors"))
    os.truncate(shard, 100)
    *_, older, newer = finished("checkpoints", str(run)).splitlines()
    assert older.split()[0] == "sft" and older.endswith("whole")
    assert "not usable" in newer and "100 bytes" in newer
    printed = finished(*command, "--resume", str(newest), code=2)
    assert printed.count("\n") == 1 and "100 bytes" in printed


@pytest.mark.slow
def test_a_stage_that_ended_between_its_last_step_and_its_model_publishes_it(
    tiny_run: Path, tmp_path: Path, finished: Finished, timeless: Timeless
) -> None:
    """Also verl#7401 and #5725: nothing is trained again, and nothing is skipped."""
    run = tmp_path / "run"
    finished(*tiny(run, *EVERY_STEP))
    for stage in STAGES:
        shutil.rmtree(run / stage / "final")
        finished(*tiny(run, *EVERY_STEP))
    assert_same_end(run, tiny_run, timeless)
