"""`align submit`: what holds for every target."""

from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.loading import load_config
from align.pipeline.run_directory import RunDirectory
from align.pipeline.submit.job import Job
from align.pipeline.submit.record import latest, next_folder, record, submissions
from align.pipeline.submit.send import send
from align.pipeline.submit.targets import MODULES

Finished = Callable[..., str]


def config(shared: Path, *overrides: str) -> RunConfig:
    more = ["kubernetes.image=align:1", "kubernetes.volume_claim=runs", "skypilot.bucket=s3://runs"]
    more += ["skypilot.accelerator=H100", f"shared={shared}"]
    return load_config("tiny", [*(f"cluster.{one}" for one in more), *overrides])


@pytest.fixture
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the PATH but a shell."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tools))


@pytest.mark.parametrize("target", MODULES)
def test_no_secret_of_the_environment_is_in_what_is_sent(
    target: str,
    tmp_path: Path,
    no_tools: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RAY_AUTH_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "open-sesame")
    send(config(tmp_path), STAGES, tmp_path / "run", target, "auto", dry_run=True)
    printed = capsys.readouterr().out
    assert printed and "open-sesame" not in printed


@pytest.mark.parametrize("target", MODULES)
def test_a_dry_run_leaves_nothing_behind(target: str, tmp_path: Path, no_tools: None) -> None:
    send(config(tmp_path), STAGES, tmp_path / "run", target, "auto", dry_run=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["ray", "slurm"])
def test_the_flags_of_run_travel(
    target: str, tmp_path: Path, no_tools: None, finished: Finished
) -> None:
    run = tmp_path / "run"
    flags = ["--config", "tiny", "--stage", "sft", "--run-dir", str(run), "--resume", "never"]
    flags += ["--set", "seed=7", "--set", f"cluster.shared={tmp_path}"]
    printed = finished("submit", "--target", target, "--dry-run", *flags)
    assert "\nseed: 7\n" in printed
    assert f"--stage sft --run-dir {run}" in printed or f"config.yaml sft {run}" in printed
    final = RunDirectory(run).final("sft")
    final.mkdir(parents=True)
    (final / "config.json").touch()
    for resume, complaint in (
        ("never", f"{run} holds a run: choose another --run-dir, or drop --resume"),
        (f"{run}/sft/checkpoints/step-1", "no such checkpoint; give auto, never or its folder"),
    ):
        told = finished(
            *["submit", "--target", target, "--dry-run", *flags, "--resume", resume], code=2
        )
        assert complaint in told and told.count("\n") == 1


@pytest.mark.parametrize("resume", ["never", "/mnt/nowhere/run/sft/checkpoints/step-00000002"])
def test_a_run_that_only_the_cluster_sees_is_resumed_there(
    resume: str, no_tools: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = Path("/mnt/nowhere")
    send(config(far), STAGES, far / "run", "ray", resume, dry_run=True)
    assert f"config.yaml all {far}/run {resume}" in capsys.readouterr().out
    for target in ("slurm", "kubernetes", "skypilot"):
        with pytest.raises(UserError, match=f"--resume {resume}: this machine does not see {far}"):
            send(config(far), STAGES, far / "run", target, resume, dry_run=True)


@pytest.mark.parametrize("target", MODULES)
def test_too_few_gpus_are_found_before_anything_is_sent(target: str, tmp_path: Path) -> None:
    few = ["cluster.gpus_per_node=2", "train.ranks=4"]
    with pytest.raises(UserError, match=r"not enough GPUs: train.ranks 4 and 1 for rollouts"):
        send(config(tmp_path, *few), STAGES, tmp_path / "run", target, "auto", dry_run=True)


def test_an_input_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    missing = config(tmp_path, "sft.model=/nowhere")
    with pytest.raises(UserError, match=r"sft.model: /nowhere does not exist"):
        send(missing, STAGES, tmp_path / "run", "slurm", "auto", dry_run=True)


def test_rubrics_and_judges_of_the_reward_are_inputs_too(tmp_path: Path, no_tools: None) -> None:
    rubric, judge = tmp_path / "mine.yaml", tmp_path / "judge"
    mix = f"reward.mix=[{{kind: judge, rubric: {rubric}, judge: {judge}}}]"
    with pytest.raises(UserError) as caught:
        send(config(tmp_path, mix), STAGES, tmp_path / "run", "slurm", "auto", dry_run=True)
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == [
        "reward.mix.0.rubric:",
        "reward.mix.0.judge:",
    ]


def test_what_lies_in_a_shared_folder_is_looked_for_where_that_is_in_sight(
    tmp_path: Path, no_tools: None
) -> None:
    model, far = tmp_path / "model", Path("/mnt/nowhere")
    with pytest.raises(UserError, match=f"sft.model: {model} does not exist"):
        near = config(tmp_path, f"sft.model={model}")
        send(near, STAGES, tmp_path / "run", "slurm", "auto", dry_run=True)
    unseen = config(far, f"sft.model={far / 'model'}")
    send(unseen, STAGES, far / "run", "ray", "auto", dry_run=True)


def test_a_used_run_directory_can_be_refused(tmp_path: Path, no_tools: None) -> None:
    final = RunDirectory(tmp_path / "run").final("sft")
    final.mkdir(parents=True)
    (final / "config.json").touch()
    with pytest.raises(UserError, match="holds a run: choose another --run-dir, or drop --resume"):
        send(config(tmp_path), STAGES, tmp_path / "run", "slurm", "never", dry_run=False)


def test_submissions_are_numbered_and_the_latest_counts(tmp_path: Path) -> None:
    job = Job(config(tmp_path), STAGES, tmp_path)
    with pytest.raises(UserError, match="no job was submitted from here"):
        latest(tmp_path)
    for number in (1, 2):
        folder = next_folder(tmp_path)
        assert folder.name == f"000{number}"
        folder.mkdir(parents=True)
        record(folder, target="slurm", ids={"all": str(number)}, job=job)
    assert [one.ids["all"] for _, one in submissions(tmp_path)] == ["1", "2"]
    assert latest(tmp_path)[1].ids == {"all": "2"}
    assert latest(tmp_path)[1].digest == job.digest


@pytest.mark.parametrize("flag", [".stop", "jobs/stop", "jobs/pause"])
def test_a_run_stops_whoever_asks(flag: str, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.jobs.mkdir()
    assert not directory.stop_requested()
    (tmp_path / flag).touch()
    assert directory.stop_requested()
