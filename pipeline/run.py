"""`align run`: the stages of a run, one after the other, on every rank."""

import importlib
import time
from pathlib import Path

from align.data.config import Section
from align.data.errors import UserError
from align.pipeline import ranks, stopping
from align.pipeline.config import RunConfig
from align.pipeline.launch import Shares, launch
from align.pipeline.loading import dump_config, load_config
from align.pipeline.progress import note, section
from align.pipeline.report import write_report
from align.pipeline.run_directory import RunDirectory, locked, read_summary, update_summary

TITLES = {
    "sft": "1 SFT: the base model learns to answer",
    "rm": "2 Reward model: what people prefer",
    "ppo": "3 PPO: answers that people prefer",
}


def run_stages(config: RunConfig, stages: tuple[str, ...], run_dir: Path, resume: str) -> int:
    """Run the stages that are not finished yet; the exit code."""
    directory = RunDirectory(run_dir)
    began = time.monotonic()
    with locked(directory):
        _claim(directory, config, resume)
        left = tuple(stage for stage in stages if not directory.is_finished(stage))
        for stage in stages:
            if stage not in left:
                note(f"{stage} is finished: {directory.final(stage)}")
        if left:
            code = launch(
                lambda shares: _run_on_rank(config, directory, left, shares, resume),
                config,
                run_dir,
                ray_needed="ppo" in left,
            )
            if code:
                note("stopped after a checkpoint: the same command goes on from there")
                return code
            update_summary(directory, seconds={"total": round(time.monotonic() - began, 1)})
        _tell(directory)
    return 0


def _run_on_rank(
    config: RunConfig, directory: RunDirectory, stages: tuple[str, ...], shares: Shares, resume: str
) -> int:
    for stage in stages:
        began = time.monotonic()
        if ranks.is_main():
            section(TITLES[stage])
        # Imported one by one: trl alone takes eight seconds.
        module = importlib.import_module(f"align.pipeline.{stage}")
        try:
            module.run(config, directory, shares, resume)
        except stopping.Stop:
            return stopping.STOPPED
        if ranks.is_main():
            update_summary(directory, seconds={stage: round(time.monotonic() - began, 1)})
    return 0


def _claim(directory: RunDirectory, config: RunConfig, resume: str) -> None:
    """Store the config, or see that it is the one the directory was used with."""
    if not directory.config.exists():
        directory.config.write_text(dump_config(config), encoding="utf-8")
        return
    if resume == "never":
        raise UserError(f"{directory.path} holds a run: choose another --run-dir, or drop --resume")
    earlier = load_config(directory.config)
    changed = _changed(earlier, config)
    if changed:
        raise UserError(
            f"{directory.path} was made with other settings: {changed}. Choose another --run-dir, "
            "or the old setting"
        )


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


def _changed(earlier: RunConfig, config: RunConfig) -> str | None:
    """The first setting that is not what it was; where the run happens may change."""
    for part in sorted(RunConfig.model_fields.keys() - {"name", "cluster"}):
        old, new = getattr(earlier, part), getattr(config, part)
        for name in type(old).model_fields if isinstance(old, Section) else ():
            then, now = getattr(old, name), getattr(new, name)
            if then != now:
                return f"{part}.{name}: {then} then, {now} now"
        if old != new:
            return f"{part}: {old} then, {new} now"
    return None
