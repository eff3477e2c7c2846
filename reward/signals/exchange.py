"""What rule functions, servers and judges are shown: a prompt and the text of one answer."""

from typing import NamedTuple

from align.data.messages import Message


class Exchange(NamedTuple):
    """A prompt and an answer."""

    prompt: list[Message]
    answer: str
