"""`report.html`: one self-contained page about a run, from the files in its directory.

A stage that has not run, or a file that is broken, is one line on the page, never a crash. No
torch here: `align report` answers at once, on a machine without an accelerator.
"""

import os
import platform
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from align.data.errors import UserError
from align.pipeline.progress import duration
from align.pipeline.report_stages import (
    command_for_evaluation,
    command_for_stage,
    policy_section,
    read_or_note,
    reward_section,
    stage_section,
)
from align.pipeline.results import Comparison, PolicyEvaluation, Summary, read_result

COMPARISONS = 16
MAX_CHARACTERS = 2000
"""Longer texts are cut on the page, so that it stays small enough to mail."""

PACKAGES = ("align-rlhf", "torch", "transformers", "trl", "deepspeed", "ray", "peft", "pyarrow")
UNKNOWN = "—"


@dataclass
class Headline:
    """A number in large type."""

    label: str
    value: str
    hint: str


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html; returns its path, for the caller to print.

    Raises UserError when there is no such directory.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no run directory: give the folder that `align run` wrote")
    html = _render(run_dir)
    path = run_dir / "report.html"
    temporary = run_dir / "report.html.tmp"
    # The name of a directory may hold bytes that are not UTF-8.
    temporary.write_bytes(html.encode("utf-8", errors="replace"))
    os.replace(temporary, path)
    return path


def _render(run_dir: Path) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    source = resources.files("align.pipeline").joinpath("report.html.jinja").read_text("utf-8")
    headlines, notes = _headlines(run_dir)
    comparisons, comparison_notes = _comparisons(run_dir)
    return environment.from_string(source).render(
        name=run_dir.resolve().name,
        headlines=headlines,
        notes=notes,
        comparisons=comparisons,
        comparison_notes=comparison_notes,
        sections=[
            stage_section(run_dir, "sft"),
            reward_section(run_dir),
            policy_section(run_dir),
        ],
        config=_config_text(run_dir / "config.yaml"),
        versions=_versions(),
    )


def _headlines(run_dir: Path) -> tuple[list[Headline], list[str]]:
    path = run_dir / "summary.json"
    notes: list[str] = []
    if not path.is_file():
        notes.append(f"No summary yet: `{command_for_stage(run_dir, 'all')}` makes it.")
    summary = read_or_note(path, notes, partial(read_result, model=Summary), Summary())
    by_stage = {name: value for name, value in summary.seconds.items() if name != "total"}
    # `total` includes starting Ray, but after a resume it counts the last attempt alone.
    total = max(summary.seconds.get("total", 0.0), sum(by_stage.values()))
    stages = [f"{name}\N{NO-BREAK SPACE}{duration(value)}" for name, value in by_stage.items()]
    headlines = [
        Headline("Reward model accuracy", _percent(summary.rm_accuracy), "on held-out pairs"),
        Headline("PPO preferred to SFT", _percent(summary.win_rate), "of held-out prompts"),
        Headline("Drift from SFT", _number(summary.kl), "KL in nats per answer"),
        Headline("Variety kept", _percent(summary.distinct2_ratio), "distinct-2 of SFT's"),
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


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _shown(text: str) -> str:
    """A text as the page shows it: cut, and with its control characters visible."""
    cut = text[:MAX_CHARACTERS]
    if len(cut) < len(text):
        cut += f" … ({len(text) - len(cut)} more characters)"
    # HTML has no form for most of these; U+2400 and on are their pictures.
    return "".join(
        chr(0x2400 + ord(letter)) if ord(letter) < 32 and letter not in "\n\t" else letter
        for letter in cut
    )


def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed
