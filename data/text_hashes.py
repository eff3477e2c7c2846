"""What a row says and asks, as text and as a 64-bit name that ignores case, spaces and form.

Demonstrations are left aside: a row is the same row whatever is shown with it.
"""

from align.data.exchanges import Instruction
from align.data.messages import folded, sha256_of


def content_text(row: Instruction) -> str:
    """Prompt and answer."""
    messages = [*row.asked, *(row.completion or [])]
    return "\n".join(message["content"] for message in messages)


def prompt_text(row: Instruction) -> str:
    """The prompt; of text that asks nothing, the text."""
    return "\n".join(message["content"] for message in row.asked or row.completion or [])


def content_hash(row: Instruction) -> int:
    """Equal for rows that say the same."""
    return _word(content_text(row))


def prompt_hash(row: Instruction) -> int:
    """Equal for rows that ask the same."""
    return _word(prompt_text(row))


def _word(text: str) -> int:
    return int(sha256_of(folded(text))[:16], 16)
