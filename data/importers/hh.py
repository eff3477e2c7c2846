"""Chosen and rejected answers as text: whole transcripts (Anthropic HH), or prompt and answers.

A transcript is "\\n\\nHuman: ...\\n\\nAssistant: ..." and ends with the answer; both of a row share
all that comes before it. A row with a `prompt` has it as a transcript or as plain text, and in
`chosen` and `rejected` the answers alone, or whole transcripts that begin with it. HH is MIT,
github.com/anthropics/hh-rlhf (Bai et al. 2022).
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from align.data.config import FeedbackSource
from align.data.files import Row, text
from align.data.importers.chosen import chosen_over_rejected
from align.data.importers.header import Located, located
from align.data.importers.texts import answer_of, prompt_of, shared_prompt
from align.data.messages import Message, shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

SPEAKER = re.compile(r"(?:^|\r?\n\r?\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """One comparison per row."""
    return located(path, rejects, partial(_comparison, source=source))


def _comparison(row: Row, source: FeedbackSource) -> Iterator[Record]:
    if "prompt" in row and not transcript(text(row, "chosen")):
        parts = _prompt(row), answer_of(row, "chosen"), answer_of(row, "rejected")
    else:
        parts = shared_prompt(_answered(row, "chosen"), _answered(row, "rejected"), "rejected")
        if "prompt" in row and _prompt(row) != parts[0]:
            raise BadRow("prompt", "is not what chosen and rejected begin with")
    yield chosen_over_rejected(*parts, source)


def _prompt(row: Row) -> list[Message]:
    """Without the empty assistant turn that invites an answer."""
    turns = transcript(text(row, "prompt"))
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return prompt_of({"prompt": turns or row["prompt"]}, "prompt")


def _answered(row: Row, name: str) -> list[Message]:
    turns = transcript(text(row, name))
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise BadRow(name, f"must be Human: ... Assistant: ..., found {shown(row[name])}")
    return turns


def transcript(text: str) -> list[Message]:
    """The turns of a transcript; none if it does not begin with one."""
    before, *parts = SPEAKER.split(text)
    if before.strip():
        return []
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
