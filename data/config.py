"""What the user says about data. No torch here: `--help` and `--dry-run` read this."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from align.data.instruction_config import InstructionSource
from align.data.section import Section as Section

FeedbackFormat = Literal[
    "records",
    "llmfao",
    "pandalm",
    "oasst",
    "truthfulqa_judge",
    "rbr",
    "ultrafeedback",
    "hh",
    "trl",
    "arena",
    "label_studio",
    "argilla",
    "simulated",
]
Criterion = Literal["overall", "helpful", "honest", "harmless"]

ANNOTATION_TOOLS = ("label_studio", "argilla")
BARE_EXPORTS = ("hh", "trl", "arena")  # they do not say by which criterion people judged


class TaskFields(Section):
    """Where a task of an annotation tool keeps what people saw."""

    prompt: str = "prompt"
    """The field that holds the prompt: a text, or a list of messages."""
    completions: tuple[str, ...] = ()
    """The fields that hold the answers, the left one first; a field may hold a list of them. If
    empty, all fields whose names begin with answer, completion, response or item."""


class AskedQuestion(Section):
    """A question of an annotation project: by which criterion, and what the replies are worth."""

    name: str
    """The question's name in the tool: in Label Studio, that of the control tag."""
    criterion: Criterion = "overall"
    """What people were asked to judge."""
    about: str | None = None
    """The field of the one answer that it asks about; not needed where the export says it."""
    scale: tuple[float, ...] = ()
    """The worst and the best rating, such as [1, 5]; [5, 1] where a low rating is good."""
    choices: tuple[str, ...] = ()
    """Labels of one answer (or buckets of a ranking) from worst to best: worth 0 to 1, evenly."""
    picks: tuple[str, ...] = ()
    """Labels that pick the best answer, in the order of `fields.completions`; one more is a tie, or
    says of three and more answers that none is good. If empty, the names of the answers' fields,
    and `tie`."""

    @model_validator(mode="after")
    def _has_one_way_to_be_read(self) -> "AskedQuestion":
        if sum(map(bool, (self.scale, self.choices, self.picks))) > 1:
            raise ValueError(f"question {self.name}: give one of scale, choices and picks")
        if self.scale and (len(self.scale) != 2 or self.scale[0] == self.scale[1]):
            raise ValueError(
                f"question {self.name}: scale is two different numbers, worst and best"
            )
        if len(self.choices) == 1 or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"question {self.name}: choices are two or more different labels")
        return self


class FeedbackSource(Section):
    """Raw human feedback in the form it was collected."""

    format: FeedbackFormat
    """`records` is our own schema; `simulated` asks the demo's annotators about SFT samples; each
    other one has a module in `data/importers` that says which files it reads."""
    path: Path | None = None
    """A file, or the folder of one of the known exports."""
    rows: int | None = Field(default=None, gt=0)
    """Take so many records, spread evenly over the file; for `simulated`, so many prompts."""
    criterion: Criterion | None = None
    """What people judged by, for hh, trl and arena; overall if not given."""
    guideline_version: str = Field(default="unknown", min_length=1)
    """What people were told, where the export cannot say it (see `criterion` and `fields`)."""
    license: str | None = None
    """Of the export, where it cannot say it (see `criterion` and `fields`)."""
    fields: TaskFields | None = None
    """For label_studio and argilla: where a task keeps the prompt and the answers."""
    questions: tuple[AskedQuestion, ...] = ()
    """For label_studio and argilla: what was asked. Replies to other questions are left out,
    except rankings and labels that name an answer, which explain themselves."""

    @model_validator(mode="after")
    def _has_no_option_that_its_format_ignores(self) -> "FeedbackSource":
        for name, formats in (
            ("criterion", BARE_EXPORTS),
            ("guideline_version", BARE_EXPORTS + ANNOTATION_TOOLS),
            ("license", BARE_EXPORTS + ANNOTATION_TOOLS),
            ("fields", ANNOTATION_TOOLS),
            ("questions", ANNOTATION_TOOLS),
        ):
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and self.format not in formats:
                raise ValueError(f"format: {self.format} takes no `{name}`")
        names = [question.name for question in self.questions]
        if len(set(names)) != len(names):
            raise ValueError("`questions` names a question twice")
        return self

    @model_validator(mode="after")
    def _names_a_file_or_generates(self) -> "FeedbackSource":
        if self.format == "simulated" and (self.path is not None or self.rows is None):
            raise ValueError("format: simulated asks its own annotators: give `rows` and no `path`")
        if self.format != "simulated" and self.path is None:
            raise ValueError(f"format: {self.format} reads a file: give `path`")
        return self


class DataConfig(Section):
    """Where instructions, prompts and feedback come from, and how long a text may be."""

    instructions: tuple[InstructionSource, ...] = ()
    """What SFT learns from."""
    prompts: tuple[InstructionSource, ...] = ()
    """What PPO answers."""
    feedback: tuple[FeedbackSource, ...] = ()
    """What the reward model learns from."""
    evaluation: tuple[InstructionSource, ...] = ()
    """What a model will be measured on: never learnt; `align data inspect` says what of it stands
    in the other sources."""
    max_length: int = Field(default=512, gt=1)
    """Tokens of prompt and answer together."""
    max_prompt_length: int = Field(default=256, gt=0)
    """Tokens of a prompt; a longer one is rejected, never cut."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of prompts kept from training, for evaluation."""
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Share of bad rows (at least one row) above which the command fails."""

    @model_validator(mode="after")
    def _leaves_room_for_an_answer(self) -> "DataConfig":
        if self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"data.max_prompt_length ({self.max_prompt_length}) leaves no room for an answer "
                f"in data.max_length ({self.max_length})"
            )
        return self

    @model_validator(mode="after")
    def _prompts_can_be_answered(self) -> "DataConfig":
        if any(source.format == "text" for source in self.prompts):
            raise ValueError("data.prompts: format: text has no prompts: it is learnt as it is")
        return self
