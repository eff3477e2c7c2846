"""Whose run a directory is, and what may change when it goes on."""

import shutil
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.loading import load_config
from align.pipeline.manifest import Manifest, step_of
from align.pipeline.run import _claim
from align.pipeline.run_directory import RunDirectory, resume_point


def config(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"name": "x", **sections})


def test_a_run_that_failed_before_its_first_checkpoint_may_be_corrected(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    _claim(directory, config(sft={"batch_size": 8}), "never")
    directory.stage("sft").mkdir()  # with what was rejected, and no checkpoint
    _claim(directory, config(sft={"batch_size": 4}), "never")
    assert load_config(directory.config).sft.batch_size == 4


def test_a_stage_that_has_begun_refuses_other_settings_with_both_values(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    _claim(directory, config(seed=1), "auto")
    (directory.stage("sft") / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UserError, match="seed: 1 then, 2 now") as caught:
        _claim(directory, config(seed=2), "auto")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds a run"):
        _claim(directory, config(seed=1), "never")
    assert load_config(directory.config).seed == 1


def test_what_may_change_is_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    _claim(directory, config(), "auto")
    (directory.stage("sft") / "checkpoints" / "step-00000001").mkdir(parents=True)
    _claim(directory, config(sft={"epochs": 2}, ppo={"kl_coef": 0.2}), "auto")
    printed = capsys.readouterr().out
    assert "sft.epochs: 1 then, 2 now" in printed and "ppo.kl_coef: 0.05 then, 0.2 now" in printed
    assert load_config(directory.config).sft.epochs == 2


def test_going_on_from_an_earlier_end_puts_the_later_stages_aside(tmp_path: Path) -> None:
    """They began from the other end: their checkpoints would go on with a mixture of both."""
    directory = RunDirectory(tmp_path)
    steps = [directory.stage("rm") / "checkpoints" / f"step-0000000{n}" for n in (1, 2)]
    for path in steps:
        path.mkdir(parents=True)
        _write_manifest(path)
    (directory.stage("ppo") / "checkpoints").mkdir(parents=True)
    (directory.stage("sft") / "final").mkdir(parents=True)
    _claim(directory, config(), str(steps[0]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".resumed",
        "config.yaml",
        "ppo.superseded-1",
        "rm",
        "sft",
    ]


def test_a_scheduler_that_repeats_resume_path_goes_back_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    old, new = (directory.stage("rm") / "checkpoints" / f"step-0000000{n}" for n in (1, 2))

    def command(path: Path) -> str:
        point = resume_point(str(path), directory)
        _claim(directory, config(), point)
        return point

    for path in (old, new):
        path.mkdir(parents=True)
        _write_manifest(path)
    assert command(old) == str(old) and not new.exists()
    new.mkdir()  # what the command did before it was stopped
    _write_manifest(new)
    shutil.rmtree(old)  # superfluous by then
    assert command(old) == "auto" and new.exists()
    assert f"delete {directory.resumed} to go back once more" in capsys.readouterr().out
    assert command(new) == str(new)
    directory.resumed.unlink()
    with pytest.raises(UserError, match="no such checkpoint"):
        command(old)


def _write_manifest(path: Path) -> None:
    manifest = Manifest(
        stage="rm",
        step=step_of(path),
        created_at=0,
        ranks=1,
        zero_stage=0,
        config_sha256="",
        data_sha256="",
        scalars={},
        files=(),
    )
    (path / "MANIFEST.json").write_text(manifest.model_dump_json())


def test_a_finished_stage_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.final("rm").mkdir(parents=True)
    (directory.final("rm") / "config.json").touch()
    path = directory.stage("rm") / "checkpoints" / "step-00000001"
    with pytest.raises(UserError, match="rm is finished"):
        _claim(directory, config(), str(path))
    with pytest.raises(UserError, match="not in"):
        _claim(directory, config(), str(tmp_path / "elsewhere" / "step-00000001"))
