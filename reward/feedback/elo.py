"""Elo battles: votes on pairs of answers, used as they are.

The votes on two answers become one pair with target_prob = (wins + ties / 2) / votes, from the side
of the answer that won more often. Fitted ratings (Bradley-Terry) are not needed for that.
"""

from collections.abc import Iterable, Iterator

from align.data.schemas import Preference, Record
from align.reward.feedback.pairs import (
    Conversion,
    Opinion,
    Ties,
    answers_of,
    exportable,
    pairs_of,
)

PROBS = {"a": 1.0, "b": 0.0, "tie": 0.5}


def to_pairs(records: Iterable[Record], ties: Ties, held_out: float) -> list[Preference]:
    """One pair per two answers that met; `skip` says nothing.

    With `ties` drop, tie votes do not count, and two answers that won equally often make no pair.
    """
    opinions = (one for record in exportable(records) for one in _opinions(record))
    return pairs_of(opinions, Conversion("comparison", ties, held_out))


def _opinions(record: Record) -> Iterator[Opinion]:
    if record["outcome"] in PROBS:
        first, second = answers_of(record)
        yield Opinion((record,), first, second, PROBS[record["outcome"]])
