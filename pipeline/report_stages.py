"""The stages on the page of the report: which plots, which sample answers, which command next.

A file that is missing or broken becomes a note in its section.
"""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from align.data.errors import UserError
from align.pipeline import plots, reward_plots
from align.pipeline.metrics import FILE_NAME, read_metrics
from align.pipeline.plots import Curve
from align.pipeline.results import (
    PolicyEvaluation,
    RewardEvaluation,
    SampleAnswer,
    read_result,
    read_samples,
)
from align.pipeline.svg import SERIES, Plot

SAMPLES = 6
"""Sample answers of the last evaluation that are shown for each stage."""
Rows = list[dict[str, float]]


class LinePlot(NamedTuple):
    """A plot of metrics over steps; the title follows the first metric that is there."""

    what: str
    unit: str
    metrics: dict[str, str]
    """Metric name -> label in the legend."""


LINE_PLOTS: dict[str, list[LinePlot]] = {
    "sft": [
        LinePlot("Loss", "nats per answer token", {"loss": "training", "eval/loss": "held-out"}),
        LinePlot(
            "Token accuracy",
            "share of answer tokens",
            {"token_accuracy": "training", "eval/token_accuracy": "held-out"},
        ),
    ],
    "rm": [
        LinePlot(
            "Loss",
            "nats per pair",
            {"loss": "training", "eval/loss": "held-out", "eval/log_loss": "held-out log loss"},
        ),
        LinePlot(
            "Accuracy", "share of pairs", {"accuracy": "training", "eval/accuracy": "held-out"}
        ),
    ],
    "ppo": [
        LinePlot(
            "Reward",
            "reward",
            {
                "objective/scores": "score",
                "objective/rlhf_reward": "score minus KL penalty",
                "eval/reward": "held-out score",
            },
        ),
        LinePlot("KL from the reference", "nats per answer", {"objective/kl": "KL"}),
        LinePlot("Answer length", "tokens", {"answer/length": "length"}),
        LinePlot("Entropy", "nats per token", {"objective/entropy": "entropy"}),
        LinePlot(
            "Clipped share",
            "share of answer tokens",
            {"policy/clipfrac": "policy", "val/clipfrac": "value"},
        ),
        LinePlot(
            "Explained variance of the critic",
            "share of variance",
            {"val/explained_variance": "explained variance"},
        ),
        LinePlot(
            "Share of answers that end",
            "share",
            {"answer/eos_rate": "answers that end", "answer/distinct2": "distinct token pairs"},
        ),
    ],
}
TITLES = {"sft": "Instruction tuning", "rm": "Reward model", "ppo": "PPO"}


@dataclass
class Section:
    """A stage on the page. `notes` say what cannot be shown, and why."""

    stage: str
    title: str
    plots: list[Plot] = field(default_factory=list)
    samples: list[SampleAnswer] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def instruction_section(run_dir: Path) -> Section:
    """SFT: curves over its steps, and the held-out loss of each source where there are several."""
    section, rows = _section_and_rows(run_dir, "sft")
    prefix = "eval/loss/"
    names = sorted({name for row in rows for name in row if name.startswith(prefix)})
    labels = {name: name.removeprefix(prefix) for name in names[: len(SERIES)]}
    section.plots += _drawn(LinePlot("Held-out loss", "nats per answer token", labels), rows)
    return section


def reward_section(run_dir: Path) -> Section:
    """The reward model: curves, accuracy by slices of the feedback, calibration, abstention."""
    section, rows = _section_and_rows(run_dir, "rm")
    seen = [row for row in rows if "eval/pairs" in row and _any_finite([row], "eval/accuracy")]
    if len(seen) > 1:
        curve = reward_plots.learning_curve(
            _column(seen, "eval/pairs"), _column(seen, "eval/accuracy")
        )
        section.plots.append(curve)
    path = run_dir / "rm" / "evaluation.json"
    if not path.is_file() and (run_dir / "rm" / "final").is_dir():
        section.notes.append(
            f"Not evaluated yet: `{command_for_evaluation(run_dir, 'rm')}` does it."
        )
    evaluation = read_or_note(
        path, section.notes, partial(read_result, model=RewardEvaluation), None
    )
    if evaluation is None:
        return section
    section.facts = _reward_facts(evaluation)
    section.plots += reward_plots.plots_of(evaluation)
    return section


def policy_section(run_dir: Path) -> Section:
    """PPO: its path in reward and KL, curves, and where the time goes."""
    section, rows = _section_and_rows(run_dir, "ppo")
    both = [row for row in rows if "objective/kl" in row and "objective/scores" in row]
    if _any_finite(both, "objective/kl") and _any_finite(both, "objective/scores"):
        path = plots.reward_against_kl(
            _column(both, "step"), _column(both, "objective/kl"), _column(both, "objective/scores")
        )
        section.plots.insert(0, path)
    names = sorted({name for row in rows for name in row if name.startswith("time/")})
    parts = [
        Curve(name.removeprefix("time/"), _column(rows, "step"), _column(rows, name))
        for name in names
        if _any_finite(rows, name)
    ]
    if parts:
        section.plots.append(plots.stacked_time(parts))
    evaluation = read_or_note(
        run_dir / "ppo" / "evaluation.json", [], partial(read_result, model=PolicyEvaluation), None
    )
    if evaluation and evaluation.reward_before is not None and evaluation.reward_after is not None:
        section.facts.append(
            f"Mean reward on held-out prompts: {evaluation.reward_before:.2f} before PPO, "
            f"{evaluation.reward_after:.2f} after it."
        )
    return section


Content = TypeVar("Content")
Default = TypeVar("Default")


def read_or_note(
    path: Path, notes: list[str], read: Callable[[Path], Content], default: Default
) -> Content | Default:
    """What `read` makes of the file; the default when it is missing, and a note when broken."""
    if not path.is_file():
        return default
    try:
        return read(path)
    except (UserError, OSError) as error:
        notes.append(f"Cannot be shown: {error}")
        return default


def command_for_stage(run_dir: Path, stage: str) -> str:
    """The command that runs a stage in this directory."""
    config = run_dir / "config.yaml"
    source = str(config) if config.is_file() else "FILE"
    return shlex.join(
        ["align", "run", "--stage", stage, "--config", source, "--run-dir", str(run_dir)]
    )


def command_for_evaluation(run_dir: Path, stage: str) -> str:
    """What makes a stage's evaluation: the stage itself while there is no model yet."""
    if (run_dir / stage / "final").is_dir():
        return shlex.join(["align", "eval", "--stage", stage, str(run_dir)])
    return command_for_stage(run_dir, stage)


def _section_and_rows(run_dir: Path, stage: str) -> tuple[Section, Rows]:
    section = Section(stage, TITLES[stage])
    path = run_dir / stage / FILE_NAME
    if not path.is_file():
        section.notes.append(f"Not run yet: `{command_for_stage(run_dir, stage)}` runs it.")
        return section, []
    rows = read_or_note(path, section.notes, read_metrics, None)
    if rows == []:
        section.notes.append(f"{path} has no complete line yet.")
    rows = rows or []
    section.plots = [plot for line_plot in LINE_PLOTS[stage] for plot in _drawn(line_plot, rows)]
    section.notes.extend(_never_silent(rows))
    samples = read_or_note(run_dir / stage / "samples.jsonl", section.notes, read_samples, [])
    last_step = max((sample.step for sample in samples), default=0)
    section.samples = [sample for sample in samples if sample.step == last_step][:SAMPLES]
    return section, rows


def _drawn(line_plot: LinePlot, rows: Rows) -> list[Plot]:
    """The plot, or nothing when none of its metrics was logged."""
    curves = []
    for name, label in line_plot.metrics.items():
        logged = [row for row in rows if name in row]
        if _any_finite(logged, name):
            curves.append(Curve(label, _column(logged, "step"), _column(logged, name)))
    return [plots.over_steps(line_plot.what, line_plot.unit, curves)] if curves else []


def _never_silent(rows: Rows) -> list[str]:
    """One line for each metric that was not finite somewhere."""
    names = sorted({name for row in rows for name in row})
    counts = {name: sum(not math.isfinite(row.get(name, 0.0)) for row in rows) for name in names}
    return [
        f"{name} was not finite at {count} of {len(rows)} steps."
        for name, count in counts.items()
        if count
    ]


def _any_finite(rows: Rows, name: str) -> bool:
    return any(math.isfinite(row.get(name, math.nan)) for row in rows)


def _column(rows: Rows, name: str) -> list[float]:
    return [row.get(name, math.nan) for row in rows]


def _reward_facts(evaluation: RewardEvaluation) -> list[str]:
    facts = [f"Right on {evaluation.accuracy:.1%} of the held-out pairs of feedback."]
    bias = evaluation.length_bias
    if bias is not None:
        facts.append(
            f"Scores the longer answer higher in {bias.longer_scored:.1%} of {bias.n} pairs; "
            f"people preferred it in {bias.longer_chosen:.1%}."
        )
    taste = evaluation.against_taste
    if taste is not None:
        facts.append(
            f"Right on {taste.accuracy:.1%} of {taste.n} pairs by the taste that the simulated "
            f"annotators tried to follow (95 % interval {taste.low:.1%} to {taste.high:.1%})."
        )
    return facts
