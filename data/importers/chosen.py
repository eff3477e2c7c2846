"""Rows that only say which of two answers was chosen: who chose, when and how is not recorded."""

from align.data.config import FeedbackSource
from align.data.importers.header import header
from align.data.messages import Message, sha256_of
from align.data.schemas import Record


def chosen_over_rejected(
    prompt: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    source: FeedbackSource,
) -> Record:
    """A comparison that the first answer won. The same row again has the same id."""
    name = sha256_of([prompt, chosen, rejected])[:32]
    return header(
        "comparison",
        f"{source.format}-{name}",
        prompt,
        [chosen, rejected],
        source=source.format,
        license=source.license,
        annotator_id=f"{source.format}-annotators",
        guideline_version=source.guideline_version,
        criterion=source.criterion or "overall",
    ) | {"outcome": "a", "strength": None, "player_a": None, "player_b": None}
