"""A hundred deaths: whatever is killed and whenever, a run ends as it would have, bit by bit."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

Start = Callable[..., subprocess.Popen[str]]
Timeless = Callable[[Path, str], list[dict[str, float]]]

STAGES = ("sft", "rm", "ppo")
DEATHS = 100
VICTIMS = ("driver", "Sampler", "raylet", "gcs_server")
LONGEST = 45.0  # seconds of an attempt, by when it is past its start and in some stage


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_deaths_change_nothing(
    tiny_run: Path, tmp_path: Path, align: Start, timeless: Timeless
) -> None:
    """The victim is the driver, a rollout worker or a part of Ray; half of them die in a save."""
    chance = random.Random(8)
    for number, deaths in enumerate(_shared_out(DEATHS)):
        run = tmp_path / str(number)
        for _ in range(deaths):
            _kill_once(run, align, chance)
        _run_to_the_end(run, align)
        for stage in STAGES:
            assert timeless(run, stage) == timeless(tiny_run, stage)
            weights = [path / stage / "final" / "model.safetensors" for path in (run, tiny_run)]
            assert weights[0].read_bytes() == weights[1].read_bytes()
        assert not list(run.rglob("*.writing"))


def _shared_out(deaths: int) -> Iterator[int]:
    """So many deaths for one run, then a new run: a finished one has nothing left to lose."""
    while deaths > 0:
        yield min(5, deaths)
        deaths -= 5


def _start(run: Path, align: Start) -> subprocess.Popen[str]:
    return align("run", "--config", "tiny", "--run-dir", str(run), "--set", "train.save_every=1")


def _kill_once(run: Path, align: Start, chance: random.Random) -> None:
    process = _start(run, align)
    in_a_save, victim = chance.random() < 0.5, chance.choice(VICTIMS)
    until = time.monotonic() + chance.uniform(1, LONGEST)
    while process.poll() is None and time.monotonic() < until:
        if in_a_save and any(run.glob("*/checkpoints/*.writing")):
            break
        time.sleep(0.005)
    for one in _victims(process, victim):
        one.kill()
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # it outlived a part of Ray and waits for it
        process.kill()
        process.communicate()


def _victims(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """The named process; the driver where there is no such process at that moment."""
    try:
        driver = psutil.Process(process.pid)
        found = [c for c in driver.children(recursive=True) if name in " ".join(c.cmdline())]
        return found[:1] or [driver]
    except psutil.Error:
        return []


def _run_to_the_end(run: Path, align: Start) -> None:
    with _start(run, align) as process:
        printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
