"""What a judge reads: one user turn with the text to judge, options by letter, and what to reply.

One turn, because some chat templates refuse a system role. The options come last, where the letter
that is asked for follows them at once.
"""

from collections.abc import Sequence

from align.data.messages import Message, user
from align.reward.judge.letters import LETTERS

REPLY = "Reply with the letter of the option that fits best, and with nothing else."


def question(
    instruction: str, texts: Sequence[tuple[str, str]], options: Sequence[str]
) -> list[Message]:
    """The judge's prompt; `texts` are (title, text) of what is judged."""
    quoted = [f"[{title}]\n{text}\n[end of {title}]" for title, text in texts]
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return user("\n\n".join([instruction, *quoted, "\n".join(lettered), REPLY]))


def conversation(messages: Sequence[Message]) -> str:
    """Turns as text, each after the name of its role."""
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)
