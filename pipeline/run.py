"""`align run`: the stages of a run, one after the other, on every rank."""

import importlib
import time
from pathlib import Path

from align.data.atomic import written_whole
from align.data.errors import UserError
from align.pipeline import ranks, stopping
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.engine import check_precision
from align.pipeline.frozen import changed_settings, is_frozen
from align.pipeline.launch import Shares, launch
from align.pipeline.loading import dump_config, load_config
from align.pipeline.manifest import make_newest
from align.pipeline.progress import note, section
from align.pipeline.report import write_report
from align.pipeline.run_directory import RunDirectory, locked, read_summary, update_summary
from align.policy.adapters import peft_config

TITLES = {
    "sft": "1 SFT: the base model learns to answer",
    "rm": "2 Reward model: what people prefer",
    "ppo": "3 PPO: answers that people prefer",
}


def run_stages(config: RunConfig, stages: tuple[str, ...], run_dir: Path, resume: str) -> int:
    """Run the stages that are not finished yet; the exit code."""
    directory = RunDirectory(run_dir)
    if config.train.ranks == 1:  # several may run on other machines than this one
        check_precision(config.train)
    if config.model.adapter:
        peft_config(config.model.adapter, scalar=False)
    began = time.monotonic()
    with locked(directory):
        _claim(directory, config, resume)
        left = tuple(stage for stage in stages if not directory.is_finished(stage))
        for stage in stages:
            if stage not in left:
                note(f"{stage} is finished: {directory.final(stage)}")
        if left:
            code = launch(
                lambda shares: _run_on_rank(config, directory, left, shares),
                config,
                directory,
                ray_needed="ppo" in left,
            )
            _add_seconds(directory, "total", time.monotonic() - began)
            if code:
                note("stopped after a checkpoint: the same command goes on from there")
                return code
        _tell(directory)
    return 0


def _run_on_rank(
    config: RunConfig, directory: RunDirectory, stages: tuple[str, ...], shares: Shares
) -> int:
    for stage in stages:
        began = time.monotonic()
        if ranks.is_main():
            section(TITLES[stage])
        # Imported one by one: trl alone takes eight seconds.
        module = importlib.import_module(f"align.pipeline.{stage}")
        try:
            module.run(config, directory, shares)
        except stopping.Stop:
            return stopping.STOPPED
        finally:
            if ranks.is_main():
                _add_seconds(directory, stage, time.monotonic() - began)
    return 0


def _add_seconds(directory: RunDirectory, part: str, seconds: float) -> None:
    """A part's seconds over all sessions that ended in order."""
    before = read_summary(directory)["seconds"].get(part, 0.0)
    update_summary(directory, seconds={part: round(before + seconds, 1)})


def _claim(directory: RunDirectory, config: RunConfig, resume: str) -> None:
    """Store the config, or see that it goes on with what the directory was used for."""
    begun = tuple(stage for stage in STAGES if directory.has_begun(stage))
    if begun and resume == "never":
        raise UserError(f"{directory.path} holds a run: choose another --run-dir, or drop --resume")
    if directory.config.exists():
        _compare(directory, begun, load_config(directory.config), config)
    if resume not in ("auto", "never"):
        go_on_from(Path(resume), directory)
    with written_whole(directory.config) as file:
        file.write(dump_config(config).encode())


def _compare(
    directory: RunDirectory, begun: tuple[str, ...], earlier: RunConfig, now: RunConfig
) -> None:
    """Say what changed; refuse what would make the stages that have begun another run."""
    for key, (then, new) in changed_settings(earlier, now).items():
        if is_frozen(key, begun):
            raise UserError(
                f"{directory.path} was made with other settings: {key}: {then} then, {new} now. "
                "Choose another --run-dir, or the old setting"
            )
        note(f"{key}: {then} then, {new} now")


def go_on_from(path: Path, directory: RunDirectory) -> None:
    """Make a checkpoint the newest of its run, and put later stages aside."""
    for stage in STAGES:
        if path.parent == directory.stage(stage) / "checkpoints":
            if directory.is_finished(stage):
                raise UserError(
                    f"--resume {path}: {stage} is finished; for another end of it copy the run "
                    "directory without its final/ folders"
                )
            make_newest(path)
            for later in STAGES[STAGES.index(stage) + 1 :]:
                _put_aside(directory.stage(later))
            with written_whole(directory.resumed) as file:
                file.write(str(path).encode())
            return
    raise UserError(f"--resume {path}: not in {directory.path}/STAGE/checkpoints")


def _put_aside(stage: Path) -> None:
    """A later stage that began from another end of this one; it is kept under another name."""
    if stage.exists():
        number = sum(1 for _ in stage.parent.glob(f"{stage.name}.superseded-*"))
        aside = stage.with_name(f"{stage.name}.superseded-{number + 1}")
        stage.rename(aside)
        note(f"{stage.name} began from what is now put aside: it is in {aside}")


def _tell(directory: RunDirectory) -> None:
    """The run in a few numbers, and where to read more."""
    section("The run")
    summary = read_summary(directory)
    for name, value in summary.items():
        if isinstance(value, float):
            note(f"{name}: {value:.3f}")
    seconds = ", ".join(f"{part} {value:.0f}" for part, value in summary["seconds"].items())
    note(f"seconds: {seconds}")
    note(f"report: {write_report(directory.path)}")
