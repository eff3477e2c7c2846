"""Rankings: K answers in order, ties allowed, become all pairs of better and worse.

Source: Ouyang et al. 2022 (InstructGPT), section 3.5: the K(K-1)/2 pairs of a prompt are one batch
element, here a group whose weights sum to 1.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations

from align.data.schemas import Preference, Record
from align.reward.feedback.pairs import (
    Conversion,
    Opinion,
    Ties,
    answers_of,
    exportable,
    pairs_of,
)


def to_pairs(records: Iterable[Record], ties: Ties, held_out: float) -> list[Preference]:
    """All pairs of each ranking; equal ranks are ties."""
    opinions = (one for record in exportable(records) for one in _opinions(record))
    return pairs_of(opinions, Conversion("ranking", ties, held_out))


def _opinions(record: Record) -> Iterator[Opinion]:
    ranked = zip(answers_of(record), record["ranks"], strict=True)
    for (first, rank), (second, other) in combinations(ranked, 2):
        prob = 0.5 if rank == other else float(rank < other)
        yield Opinion((record,), first, second, prob)
