"""How a language model is asked to write; any model that can be asked so will do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Sampling:
    """How the next words are chosen."""

    max_tokens: int
    do_sample: bool = True
    """False takes the likeliest token each time."""
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""


class Written(NamedTuple):
    """What a model wrote."""

    text: str
    finished: bool
    """False if it was cut at `max_tokens`."""


Generate = Callable[[Sequence[str], Sampling], list[Written]]
"""From prompts to what the model writes after each."""
