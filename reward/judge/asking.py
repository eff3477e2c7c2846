"""What a judge is: something with a name that says how likely it is to reply each letter."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from align.data.messages import Message
from align.reward.judge.letters import Floats


class Replies(NamedTuple):
    """What a judge said to N questions with K letters each."""

    logprobs_NK: Floats
    """log p(letter | question) in nats, A first; NaN in the rows of questions without a reply."""
    problems: dict[int, str]
    """Why a question has no reply, by its place."""
    floored: int = 0
    """Letters whose log-probability was not told, so that an upper bound stands for it."""


class Judge(Protocol):
    """A language model, here (`causal_lm.py`) or elsewhere (`endpoint.py`)."""

    @property
    def id(self) -> str:
        """Its name as an annotator."""

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        """A question that cannot be asked has a problem; UserError if none can, or no more."""
