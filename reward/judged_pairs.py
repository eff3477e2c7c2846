"""Which of two answers an annotator found better, whatever kind of feedback said so.

Only answers that were judged side by side: those graded one at a time were never compared by
anybody. For statistics of the feedback itself; `reward/convert.py` makes the pairs to learn from.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from align.data.schemas import Record

OUTCOMES = {"a": 1, "b": -1, "tie": 0}

Item = tuple[str, str, str, str]  # prompt, criterion, and two answers by id, the smaller one first


class Judged(NamedTuple):
    """Two answers of a record, by their places in it; `better` is 1 (first), -1 (second) or 0."""

    first: int
    second: int
    better: int


def judged_pairs(record: Record) -> Iterator[Judged]:
    """What a record says of two answers at a time; nothing where it compares none."""
    return PAIRS_OF[record["kind"]](record) if record["kind"] in PAIRS_OF else iter(())


def votes_by_item(records: Iterable[Record]) -> dict[Item, dict[str, int]]:
    """For every two answers, what each annotator said of the one with the smaller id: 1, -1 or 0.

    Somebody who judged them several times counts once, with the last judgement.
    """
    votes: dict[Item, dict[str, int]] = defaultdict(dict)
    for record in records:
        for item, better in judged_items(record):
            votes[item][record["annotator_id"]] = better
    return votes


def judged_items(record: Record) -> Iterator[tuple[Item, int]]:
    """What a record says of the answer with the smaller id of each item: 1, -1 or 0."""
    ids = record["completion_ids"]
    for first, second, better in judged_pairs(record):
        low, high = sorted((ids[first], ids[second]))
        item = (record["prompt_id"], record["criterion"], low, high)
        yield item, better if ids[first] == low else -better


def _of_comparison(record: Record) -> Iterator[Judged]:
    if record["outcome"] in OUTCOMES:  # a skip says nothing
        yield Judged(0, 1, OUTCOMES[record["outcome"]])


def _of_ranking(record: Record) -> Iterator[Judged]:
    for (first, ours), (second, theirs) in combinations(enumerate(record["ranks"]), 2):
        yield Judged(first, second, (theirs > ours) - (theirs < ours))  # rank 1 is the best


def _of_best_of(record: Record) -> Iterator[Judged]:
    best = record["best_index"]
    if best is not None:
        yield from (
            Judged(best, other, 1) for other in range(len(record["completions"])) if other != best
        )


def _of_question(record: Record) -> Iterator[Judged]:
    overall = record["overall"]
    if overall is not None:
        yield Judged(0, 1, (overall > 0) - (overall < 0))


PAIRS_OF: dict[str, Callable[[Record], Iterator[Judged]]] = {
    "comparison": _of_comparison,
    "ranking": _of_ranking,
    "best_of": _of_best_of,
    "question": _of_question,
}
