"""A real Slurm runs what `align submit` sends: preempted, out of time, stopped, chained.

`make test-slurm` installs Slurm and runs these.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.loading import load_config
from align.pipeline.submit import jobs
from align.pipeline.submit.record import latest
from align.pipeline.submit.send import send

Finished = Callable[..., str]

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]


def tiny(folder: Path, *overrides: str) -> RunConfig:
    """SFT of fifteen steps, each with its checkpoint."""
    more = ["sft.epochs=3", "train.save_every=1", "train.keep_last=20", f"cluster.shared={folder}"]
    return load_config("tiny", [*more, *overrides])


def wait(run: Path, *, steps: int) -> None:
    """Until the run has taken so many steps."""
    metrics = run / "sft" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            return
        time.sleep(0.5)
    raise AssertionError("".join(jobs.logs(run, follow=False)))


def followed(run: Path) -> str:
    """All that the job prints until it ends."""
    return "".join(jobs.logs(run, follow=True))


def job_id(run: Path) -> str:
    return latest(run)[1].ids["sft"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> bytes:
    """The weights of the same run without Slurm."""
    run = tmp_path_factory.mktemp("plain") / "run"
    flags = ["--stage", "sft", "--set", "sft.epochs=3"]
    finished("run", "--config", "tiny", "--run-dir", str(run), *flags)
    return weights(run)


def weights(run: Path) -> bytes:
    return (run / "sft" / "final" / "model.safetensors").read_bytes()


def test_a_preempted_job_queues_again_and_ends_as_if_it_never_was(
    tmp_path: Path, uninterrupted: bytes
) -> None:
    run = tmp_path / "run"
    send(tiny(tmp_path), ("sft",), run, "slurm", "auto", dry_run=False)
    wait(run, steps=3)
    subprocess.run(["scontrol", "requeue", job_id(run)], check=True)
    printed = followed(run)
    assert jobs.states(run) == {"sft": "done"}, printed
    assert "going on after step" in printed
    assert weights(run) == uninterrupted


def test_before_its_time_is_up_a_job_saves_and_queues_itself(
    tmp_path: Path, uninterrupted: bytes
) -> None:
    """The signal is the one that `--signal=B:USR1@600` sends, to the script alone."""
    run = tmp_path / "run"
    send(tiny(tmp_path), ("sft",), run, "slurm", "auto", dry_run=False)
    wait(run, steps=2)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job_id(run)], check=True)
    printed = followed(run)
    assert "stopped after a checkpoint" in printed and "going on after step" in printed
    assert jobs.states(run) == {"sft": "done"}, printed
    assert weights(run) == uninterrupted


def test_a_stopped_job_stays_stopped_until_it_is_submitted_again_and_may_go_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uninterrupted: bytes
) -> None:
    run = tmp_path / "run"
    send(tiny(tmp_path), ("sft",), run, "slurm", "auto", dry_run=False)
    wait(run, steps=2)
    first = job_id(run)
    send(tiny(tmp_path), ("sft",), run, "slurm", "auto", dry_run=False)
    assert f"already submitted: {first}" in capsys.readouterr().out
    with pytest.raises(UserError, match="another job is live"):
        send(tiny(tmp_path, "sft.epochs=4"), ("sft",), run, "slurm", "auto", dry_run=False)
    assert jobs.stop(run, minutes=5) == {"sft": "stopped"}
    earlier = run / "sft" / "checkpoints" / "step-00000001"
    send(tiny(tmp_path), ("sft",), run, "slurm", str(earlier), dry_run=False)
    printed = followed(run)
    assert jobs.states(run) == {"sft": "done"}, printed
    assert "going on after step 1:" in printed and weights(run) == uninterrupted
    assert [line.split()[3] for line in jobs.list_jobs(run)] == ["stopped", "done"]
    jobs.fetch(run, tmp_path / "here")
    assert (tmp_path / "here" / "report.html").exists()
    assert (tmp_path / "here" / "sft" / "final" / "model.safetensors").exists()


def test_a_run_directory_may_have_any_name(tmp_path: Path) -> None:
    run, broken = tmp_path / "a run's 5%j", tmp_path / "broken.jsonl"
    broken.write_text("{}\n" * 100)
    sources = f"data.instructions=[{{format: messages, path: {broken}}}]"
    send(tiny(tmp_path, sources), ("sft",), run, "slurm", "auto", dry_run=False)
    assert "no good row is left" in followed(run)
    assert jobs.states(run) == {"sft": "failed"}


def test_a_failed_link_of_a_chain_ends_it(tmp_path: Path) -> None:
    run, broken = tmp_path / "run", tmp_path / "broken.jsonl"
    broken.write_text("{}\n" * 100)
    sources = f"data.instructions=[{{format: messages, path: {broken}}}]"
    config = tiny(tmp_path, "cluster.slurm.chain=true", sources)
    send(config, STAGES, run, "slurm", "auto", dry_run=False)
    assert "no good row is left" in followed(run)
    assert jobs.states(run) == {"sft": "failed", "rm": "stopped", "ppo": "stopped"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_chain_ends_as_the_stages_do_in_one_process(tmp_path: Path, tiny_run: Path) -> None:
    run = tmp_path / "run"
    config = load_config("tiny", [f"cluster.shared={tmp_path}", "cluster.slurm.chain=true"])
    send(config, STAGES, run, "slurm", "auto", dry_run=False)
    printed = followed(run)
    assert jobs.states(run) == dict.fromkeys(STAGES, "done"), printed
    for stage in STAGES:
        files = [path / stage / "final" / "model.safetensors" for path in (run, tiny_run)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("cluster.slurm.partition=gpu", "partition: Slurm has no gpu; it has debug"),
        ("cluster.nodes=9", "Slurm has no such machines: lower cluster.nodes"),
        ("cluster.gpus_per_node=8", "Slurm has no such machines: lower cluster.nodes"),
    ],
)
def test_what_slurm_does_not_have_is_one_line_and_leaves_nothing(
    override: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        send(tiny(tmp_path, override), ("sft",), tmp_path / "run", "slurm", "auto", dry_run=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
