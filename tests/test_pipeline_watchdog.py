"""A hang: real processes that wait for one another, and what they say before they end."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

RANK = """
import sys, time
from pathlib import Path
from align.pipeline import watchdog
run_dir, rank, ranks, minutes, phase = sys.argv[1:]
watchdog.ANSWER_SECONDS = 3
def stuck_in_a_collective():
    time.sleep(600)
with watchdog.watching(Path(run_dir), int(rank), int(ranks), float(minutes)):
    watchdog.progress(phase)
    print("works", flush=True)
    stuck_in_a_collective()
"""
SOON, NEVER = "0.05", "60"  # minutes until a rank calls it a hang


@contextmanager
def a_rank(run_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, "-c", RANK, str(run_dir), *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "works\n"
            yield process
        finally:
            process.kill()


def test_a_hang_says_who_hangs_where_and_ends(tmp_path: Path) -> None:
    with a_rank(tmp_path, "0", "1", SOON, "ppo, step 7, update") as process:
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    where, how = complaints.splitlines()
    assert where.startswith("align: hang: rank 0 has been in ppo, step 7, update for 0.")
    assert where.endswith("stuck_in_a_collective")
    assert "The same command goes on" in how
    stacks = (tmp_path / "hang-rank0.txt").read_text(encoding="utf-8")
    assert stacks.count("in stuck_in_a_collective") == 1 and "watch" in stacks


def test_one_rank_speaks_for_all_and_one_that_cannot_answer_is_named(tmp_path: Path) -> None:
    """Rank 2 is stopped; rank 1 only waits for it, and has not waited long enough to say so."""
    (tmp_path / "hang-rank2.txt").write_text("of an earlier hang\n")
    (tmp_path / ".hanging").touch()  # likewise
    with ExitStack() as stack:
        waiting = stack.enter_context(a_rank(tmp_path, "1", "3", NEVER, "sft, step 3, evaluation"))
        first = stack.enter_context(a_rank(tmp_path, "0", "3", SOON, "sft, step 3"))
        _, complaints = first.communicate(timeout=60)
        assert waiting.poll() is None  # whoever started the group ends it
    zero, one, two, _ = complaints.splitlines()
    assert "rank 0 has been in sft, step 3 for" in zero
    assert "rank 1 has been in sft, step 3, evaluation for" in one
    assert two == "align: hang: rank 2 is silent"
    stacks = (tmp_path / "hang-rank1.txt").read_text(encoding="utf-8")
    assert "in stuck_in_a_collective" in stacks


def test_ranks_that_hang_alike_speak_once_and_both_end(tmp_path: Path) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(a_rank(tmp_path, str(n), "2", SOON, "rm")) for n in range(2)]
        said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert sorted(map(len, map(str.splitlines, said))) == [0, 3]
