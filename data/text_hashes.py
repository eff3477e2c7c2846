"""64-bit names of prompts and of whole rows, whatever their case, spaces and Unicode form."""

from collections.abc import Sequence

from align.data.exchanges import Instruction
from align.data.messages import Message, folded, sha256_of


def content_hash(row: Instruction) -> int:
    """Equal for rows that say the same: prompt and answer."""
    return _word([_texts(row.prompt), _texts(row.completion or [])])


def prompt_hash(row: Instruction) -> int:
    """Equal for rows that ask the same; for text that asks nothing, that say the same."""
    return _word(_texts(row.prompt or row.completion or []))


def _texts(messages: Sequence[Message]) -> list[list[str]]:
    return [[message["role"], folded(message["content"])] for message in messages]


def _word(value: object) -> int:
    return int(sha256_of(value)[:16], 16)
