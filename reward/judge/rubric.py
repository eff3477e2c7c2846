"""Rubrics: what a judge is asked about one answer, and what each option is worth.

A rubric is a YAML file; those that ship are in `rubrics/`. R[prompt class, option] turns what an
answer is into a reward: the same refusal is worth +1 after a request that is known to be harmful
and -1 after one that is known to be safe (OpenAI 2023, arXiv:2303.08774, rule-based reward models).
"""

import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError, field_validator

from align.data import core_yaml
from align.data.config import Section
from align.data.config_problems import explain
from align.data.criteria import CRITERIA
from align.data.errors import ConfigError
from align.reward.judge.letters import LETTERS

PromptClass = Literal["harmful", "benign", "unknown"]
PROMPT_CLASSES: tuple[PromptClass, ...] = get_args(PromptClass)
SHIPPED = Path(__file__).parent / "rubrics"


class Option(Section):
    """One thing that an answer may be."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    text: str = Field(min_length=1)
    rewards: dict[PromptClass, float]
    """R[prompt class, this option]."""

    @field_validator("rewards")
    @classmethod
    def _every_class_has_one(cls, rewards: dict[PromptClass, float]) -> dict[PromptClass, float]:
        missing = [name for name in PROMPT_CLASSES if name not in rewards]
        if missing:
            raise ValueError(f"no reward for {', '.join(missing)}: give a number, 0 for no opinion")
        return rewards


class Rubric(Section):
    """A multiple-choice question about an answer."""

    id: str = Field(min_length=1)
    version: str = Field(min_length=1)
    """Text; change it whenever another field changes."""
    criterion: str
    """`overall`, `helpful`, `honest` or `harmless`."""
    instruction: str = Field(min_length=1)
    """What the judge is told first."""
    shows_prompt: bool
    """Whether the judge sees what was answered, or the answer alone."""
    options: tuple[Option, ...]

    @field_validator("criterion")
    @classmethod
    def _criterion_is_known(cls, criterion: str) -> str:
        if criterion not in CRITERIA:
            raise ValueError(f"must be one of {', '.join(CRITERIA)}, not {criterion}")
        return criterion

    @field_validator("options")
    @classmethod
    def _options_differ(cls, options: tuple[Option, ...]) -> tuple[Option, ...]:
        if not 2 <= len(options) <= len(LETTERS):
            raise ValueError(f"must be 2 to {len(LETTERS)} options, found {len(options)}")
        for name in ("id", "text"):
            values = [option.model_dump()[name] for option in options]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two options have the {name} {twice!r}: an answer is only one")
        return options

    @property
    def by_id(self) -> list[Option]:
        """The options in the order of their ids: in which order a file lists them changes nothing,
        also where only some letter orders are asked."""
        return sorted(self.options, key=lambda option: option.id)


def load_rubric(path: Path | str) -> Rubric:
    """A rubric that ships, by name, or a YAML file. Raises ConfigError, one line a problem."""
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    file = shipped.get(str(path), Path(path))
    if not file.exists():
        raise ConfigError(f"{file}: no such rubric; those that ship are {', '.join(shipped)}")
    tree, lines = core_yaml.read(file)
    try:
        return Rubric.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        places = {key: f"{file}:{line}" for key, line in ({(): 1} | lines).items()}
        raise ConfigError("\n".join(explain(error, tree, places, Rubric))) from None
