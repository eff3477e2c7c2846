"""Instruction-formatted instances: a task description, demonstrations, an input and its output.

An instance is written into one user turn and can be read back from it:

    DESCRIPTION

    ### Input
    the input of a demonstration

    ### Output
    its output

    ### Input
    the input

A line of a text that looks like such a heading, or like one behind backslashes, gets a backslash
more. The output is the assistant's turn.
"""

import re
from dataclasses import dataclass

from align.data.messages import Message, assistant, user

HEADING = re.compile(r"^### (Input|Output)$", re.MULTILINE)
LIKE_A_HEADING = re.compile(r"^(\\*)(### (?:Input|Output))$", re.MULTILINE)
ESCAPED = re.compile(r"^\\(\\*### (?:Input|Output))$", re.MULTILINE)


@dataclass(frozen=True)
class Demonstration:
    """A solved case."""

    input: str
    output: str


@dataclass(frozen=True)
class Instance:
    """One case of a task; description, input and demonstrations may be empty."""

    description: str
    input: str
    output: str
    demonstrations: tuple[Demonstration, ...] = ()


def to_messages(
    instance: Instance, system: str | None = None, described: bool = True
) -> tuple[list[Message], list[Message]]:
    """Prompt and completion; without `described`, the ablation that omits the description."""
    description = instance.description if described else ""
    sections = [_escaped(description)] if description else []
    for one in instance.demonstrations:
        sections += [f"### Input\n{_escaped(one.input)}", f"### Output\n{_escaped(one.output)}"]
    if instance.input or instance.demonstrations:
        sections.append(f"### Input\n{_escaped(instance.input)}")
    prompt = user("\n\n".join(sections))
    if system is not None:
        prompt = [{"role": "system", "content": system}, *prompt]
    return prompt, assistant(instance.output)


def from_messages(prompt: list[Message], completion: list[Message]) -> Instance:
    """The instance that `to_messages` wrote, without its system prompt."""
    text = prompt[-1]["content"]
    parts = HEADING.split(f"\n\n{text}")  # before the first heading, then heading and text in turn
    texts = [_unescaped(part.removeprefix("\n").removesuffix("\n\n")) for part in parts[2:-1:2]]
    last = _unescaped(parts[-1].removeprefix("\n")) if len(parts) > 1 else ""
    description = parts[0].removeprefix("\n\n")
    if len(parts) > 1:
        description = description.removesuffix("\n\n")
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return Instance(
        _unescaped(description),
        last,
        completion[0]["content"],
        tuple(Demonstration(given, answer) for given, answer in pairs),
    )


def _escaped(text: str) -> str:
    return LIKE_A_HEADING.sub(r"\\\1\2", text)


def _unescaped(text: str) -> str:
    return ESCAPED.sub(r"\1", text)
