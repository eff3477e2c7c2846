"""`report.html`: one self-contained page about a run, from the files in its directory.

A stage that has not run, or a file that is broken, is one line on the page, never a crash. No
torch here: `align report` answers at once, on a machine without an accelerator.
"""

import platform
from functools import partial
from importlib import metadata
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.page import UNKNOWN, Headline, percent, write_page
from align.pipeline.progress import duration
from align.pipeline.report_stages import (
    command_for_evaluation,
    command_for_stage,
    instruction_section,
    policy_section,
    read_or_note,
    reward_section,
)
from align.pipeline.results import Comparison, PolicyEvaluation, Summary, read_result

COMPARISONS = 16
PACKAGES = ("align-rlhf", "torch", "transformers", "trl", "deepspeed", "ray", "peft", "pyarrow")


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html; returns its path, for the caller to print.

    Raises UserError when there is no such directory.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no run directory: give the folder that `align run` wrote")
    path = run_dir / "report.html"
    headlines, notes = _headlines(run_dir)
    comparisons, comparison_notes = _comparisons(run_dir)
    write_page(
        path,
        "report.html.jinja",
        name=run_dir.resolve().name,
        headlines=headlines,
        notes=notes,
        comparisons=comparisons,
        comparison_notes=comparison_notes,
        sections=[
            instruction_section(run_dir),
            reward_section(run_dir),
            policy_section(run_dir),
        ],
        config=_config_text(run_dir / "config.yaml"),
        versions=_versions(),
    )
    return path


def _headlines(run_dir: Path) -> tuple[list[Headline], list[str]]:
    path = run_dir / "summary.json"
    notes: list[str] = []
    if not path.is_file():
        notes.append(f"No summary yet: `{command_for_stage(run_dir, 'all')}` makes it.")
    summary = read_or_note(path, notes, partial(read_result, model=Summary), Summary())
    by_stage = {name: value for name, value in summary.seconds.items() if name != "total"}
    # `total` includes starting Ray; a session that was killed is in neither.
    total = max(summary.seconds.get("total", 0.0), sum(by_stage.values()))
    stages = [f"{name}\N{NO-BREAK SPACE}{duration(value)}" for name, value in by_stage.items()]
    headlines = [
        Headline("Reward model accuracy", percent(summary.rm_accuracy), "on held-out pairs"),
        Headline("PPO preferred to SFT", percent(summary.win_rate), "of held-out prompts"),
        Headline("Drift from SFT", _number(summary.kl), "KL in nats per answer"),
        Headline("Variety kept", percent(summary.distinct2_ratio), "distinct-2 of SFT's"),
        Headline("Time", duration(total) if total else UNKNOWN, " · ".join(stages) or "by stage"),
    ]
    return headlines, notes


def _comparisons(run_dir: Path) -> tuple[list[Comparison], list[str]]:
    path = run_dir / "ppo" / "evaluation.json"
    notes: list[str] = []
    if not path.is_file():
        command = command_for_evaluation(run_dir, "ppo")
        notes.append(f"No answers to compare yet: `{command}` makes them.")
    evaluation = read_or_note(path, notes, partial(read_result, model=PolicyEvaluation), None)
    return list(evaluation.samples[:COMPARISONS]) if evaluation else [], notes


def _config_text(path: Path) -> str | None:
    return path.read_text("utf-8", errors="replace") if path.is_file() else None


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed
