"""A hundred deaths: whatever is killed and whenever, a run ends as it would have, bit by bit.

Twenty lives of five deaths each: sixteen runs of one rank, four of a group of two. Half of the
deaths come in the middle of a save, the others at any moment from the first import to the report.
"""

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from align.pipeline.manifest import step_of
from align.pipeline.run_directory import RunDirectory, read_summary

Start = Callable[..., subprocess.Popen[str]]
Timeless = Callable[[Path, str], list[dict[str, float]]]

STAGES = ("sft", "rm", "ppo")
SETTINGS = {
    1: ("train.save_every=1",),
    2: ("train.save_every=1", "train.ranks=2", "train.zero_stage=2", "cluster.max_restarts=9"),
}
RAY = ("raylet/raylet", "gcs_server")
ENDING = ("driver", *RAY)
WORKERS = ("Sampler", "RayTrainWorker")
VICTIMS = {1: (*ENDING, "Sampler"), 2: (*ENDING, *WORKERS)}
LIVES = [*((1, life) for life in range(16)), *((2, life) for life in range(4))]
DEATHS = 5  # in a life
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to, and how long it took."""

    path: Path
    seconds: float

    def seconds_from(self, stage: str) -> float:
        """How long a command takes that finds the stages before this one finished."""
        parts = read_summary(RunDirectory(self.path))["seconds"]
        return self.seconds - sum(float(parts[one]) for one in STAGES[: STAGES.index(stage)])


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, align: Start
) -> Callable[[int], Undisturbed]:
    """The run of so many ranks that the others are compared with."""
    known: dict[int, Undisturbed] = {}

    def run(ranks: int) -> Undisturbed:
        if ranks not in known:
            began, path = time.monotonic(), tmp_path_factory.mktemp("undisturbed") / str(ranks)
            _run_to_the_end(path, ranks, align)
            known[ranks] = Undisturbed(path, time.monotonic() - began)
        return known[ranks]

    return run


@pytest.mark.parametrize(("ranks", "life"), LIVES)
def test_five_deaths_change_nothing(
    undisturbed: Callable[[int], Undisturbed],
    tmp_path: Path,
    align: Start,
    timeless: Timeless,
    ranks: int,
    life: int,
) -> None:
    whole, run, chance = undisturbed(ranks), tmp_path / "run", random.Random(100 * ranks + life)
    begin = STAGES[life % len(STAGES)]
    deaths = 0
    while deaths < DEATHS:
        if not run.exists() or RunDirectory(run).is_finished("ppo"):
            _begin_at(begin, run, whole.path)
        deaths += _attempt(run, ranks, align, chance, whole.seconds_from(begin))
    _run_to_the_end(run, ranks, align)
    for stage in STAGES:
        assert timeless(run, stage) == timeless(whole.path, stage)
        weights = [path / stage / "final" / "model.safetensors" for path in (run, whole.path)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list(run.rglob("*.writing"))


def _begin_at(stage: str, run: Path, whole: Path) -> None:
    """A run directory whose stages before this one are finished."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for one in STAGES[: STAGES.index(stage)]:
        shutil.copytree(whole / one, run / one)


def _start(run: Path, ranks: int, align: Start) -> subprocess.Popen[str]:
    settings = [part for setting in SETTINGS[ranks] for part in ("--set", setting)]
    return align("run", "--config", "tiny", "--run-dir", str(run), *settings)


def _attempt(run: Path, ranks: int, align: Start, chance: random.Random, seconds: float) -> int:
    """Give the command and kill what it started until it ends; how often something was killed."""
    process = _start(run, ranks, align)
    workers: list[psutil.Process] = []
    deaths, name = 0, ""
    while name not in ENDING and _lives_until(_moment(run, chance, seconds), process):
        below = psutil.Process(process.pid).children(recursive=True)
        workers = [one for one in below if any(name in _command(one) for name in WORKERS)]
        name = chance.choice(VICTIMS[ranks])
        found = [one for one in below if name in _command(one)]
        name = name if found else "driver"
        (found[0] if found else process).kill()
        deaths += 1
    printed, _ = process.communicate(timeout=300)
    if name in RAY and not RunDirectory(run).is_finished("ppo"):
        # 2 where it died while it was started.
        assert process.returncode in (1, 2), printed
        assert len(re.findall("^align: .*Ray", printed, re.MULTILINE)) == 1, printed
    elif name != "driver":
        assert process.returncode == 0, printed
    assert not psutil.wait_procs(workers, timeout=60)[1], "who works on outlives the command"
    return deaths


def _moment(run: Path, chance: random.Random, seconds: float) -> Callable[[], bool]:
    """In the middle of one of the next saves, or some seconds from now."""
    saved, now = _steps_saved(run) + chance.randrange(3), time.time()
    until = time.monotonic() + chance.uniform(1, seconds)
    if chance.random() < 0.5:
        return lambda: time.monotonic() > until
    return lambda: _steps_saved(run) >= saved and _is_saving(run, now)


def _is_saving(run: Path, since: float) -> bool:
    """What an earlier death left does not count."""
    for draft in run.glob("*/checkpoints/*.writing"):
        with suppress(FileNotFoundError):
            if draft.stat().st_mtime > since:
                return True
    return False


def _steps_saved(run: Path) -> int:
    """Over all stages: of the newest checkpoint of each."""
    kept = {path.parent: step_of(path) for path in sorted(run.glob("*/checkpoints/step-*[0-9]"))}
    return sum(kept.values())


def _lives_until(moment: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    while process.poll() is None:
        if moment():
            return True
        time.sleep(0.003)
    return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # gone, or a zombie
        return ""


def _run_to_the_end(run: Path, ranks: int, align: Start) -> None:
    with _start(run, ranks, align) as process:
        printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
