"""What a row says and asks, as text and as a 64-bit name that ignores case, spaces and form.

Demonstrations are left aside: a row is the same row whatever is shown with it.
"""

import numpy as np

from align.data.exchanges import Instruction
from align.data.hashing import mixed
from align.data.messages import cluster_id_of


def content_text(row: Instruction) -> str:
    """Prompt and answer."""
    messages = [*row.asked, *(row.completion or [])]
    return "\n".join(message["content"] for message in messages)


def prompt_text(row: Instruction) -> str:
    """The prompt; of text that asks nothing, the text."""
    return "\n".join(message["content"] for message in row.asked or row.completion or [])


def content_hash(row: Instruction) -> int:
    """Equal for rows that say the same, each turn by itself."""
    return _word(cluster_id_of([*row.asked, *(row.completion or [])]))


def prompt_hash(row: Instruction) -> int:
    """Equal for rows that ask the same."""
    return _word(cluster_id_of(row.asked or row.completion or []))


def piece_hash(content: int, piece: int) -> int:
    """Of a piece of a long text, by its number from 0; `content` is the hash of the whole."""
    return int(mixed(np.array([content], np.uint64) + np.uint64(piece))[0]) if piece else content


def _word(digest: str) -> int:
    return int(digest[:16], 16)
