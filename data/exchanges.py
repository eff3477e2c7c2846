"""What instruction data is made of: a prompt and its answer, and where they came from."""

from collections.abc import Callable
from dataclasses import dataclass, field

from align.data.messages import Message
from align.data.splits import Split
from align.data.tasks.instances import Instance


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer, which may be missing; and what the format knows of it."""

    prompt: list[Message]
    completion: list[Message] | None
    known: dict[str, str] = field(default_factory=dict)
    """Any of task_id, license, template_id, label and group; see `Instruction`."""
    instance: Instance | None = None
    """The same as a case of a task with a description, where there is one."""


@dataclass(frozen=True)
class Instruction:
    """An exchange, and where it came from."""

    prompt: list[Message]
    """Empty for text that is learnt as it is."""
    completion: list[Message] | None
    """One assistant turn; None in a prompt for PPO that has no answer."""
    source: str
    task_id: str
    license: str
    template_id: str
    """The wording: a template's name, or the format of rows that come worded."""
    group: str
    """Rows of one group are in one split."""
    label: str = ""
    """The class, where the task has classes."""
    instance: Instance | None = None
    """The same as a case of a task, where it can be shown with demonstrations."""
    asked: list[Message] = field(default_factory=list)
    """The prompt without demonstrations."""


def _all_train(_: str) -> Split:
    return "train"


@dataclass(frozen=True)
class Reading:
    """What the choices made while reading depend on."""

    seed: int = 0
    split: Callable[[str], Split] = _all_train
    """Of a group. No demonstration comes from a group that is held out."""
    prompt_tokens: Callable[[list[Message]], int] | None = None
    max_prompt_length: int = 0
    """Demonstrations that would make a prompt of more `prompt_tokens` are dropped."""
