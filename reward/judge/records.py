"""What all raw records by a judge model share."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from align.data.importers.header import header
from align.data.messages import Message, sha256_of
from align.data.schemas import Record


@dataclass(frozen=True)
class Origin:
    """Where the judged answers come from, and when they were judged."""

    source: str
    license: str
    created_at: datetime
    """With a time zone."""


def judged(
    kind: str,
    prompt: list[Message],
    completions: list[list[Message]],
    origin: Origin,
    *,
    judge_id: str,
    criterion: str,
    guideline_version: str,
    gold: bool,
    asked: Any,
) -> Record:
    """The fields that every kind of feedback has, by an annotator of kind `model`.

    `feedback_id` follows from who was asked what (`asked` is plain data with the rest of it) and
    not from the reply: log-probabilities differ in their last bits between machines, and one
    judgement made twice must be seen to be the same.
    """
    about = [judge_id, kind, criterion, guideline_version, prompt, completions, asked]
    return header(
        kind,
        sha256_of(about),
        prompt,
        completions,
        source=origin.source,
        license=origin.license,
        annotator_id=judge_id,
        annotator_kind="model",
        guideline_version=guideline_version,
        criterion=criterion,
    ) | {"created_at": origin.created_at, "gold": gold}
