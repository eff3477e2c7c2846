"""Votes: numbering, repeated votes, kinds of annotators."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from align.data.errors import UserError
from align.reward.annotators.votes import (
    LARGER,
    SMALLER,
    TIE,
    UNKNOWN,
    Votes,
    times_of,
    votes_of,
)

DAYS = times_of([datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 5)])


def test_items_and_annotators_are_numbered_by_their_ids() -> None:
    votes = votes_of(["q", "p", "q"], ["mia", "zoe", "ann"], ["human"] * 3, [LARGER, TIE, SMALLER])
    assert votes.items == ("p", "q") and votes.annotators == ("ann", "mia", "zoe")
    assert votes.item_N.tolist() == [0, 1, 1] and votes.annotator_N.tolist() == [2, 0, 1]
    assert votes.label_N.tolist() == [TIE, SMALLER, LARGER]


def test_the_order_of_the_rows_changes_nothing() -> None:
    items, annotators = ["p", "q", "p", "r"], ["a", "a", "b", "c"]
    kinds, labels = ["human", "human", "model", "human"], [0, 1, 2, 0]
    forth = votes_of(items, annotators, kinds, labels, times=DAYS)
    back = votes_of(items[::-1], annotators[::-1], kinds[::-1], labels[::-1], times=DAYS[::-1])
    assert (forth.items, forth.annotators, forth.kinds) == (back.items, back.annotators, back.kinds)
    for name in ("item_N", "annotator_N", "label_N", "time_N"):
        assert np.array_equal(getattr(forth, name), getattr(back, name))


def test_who_votes_again_changes_their_mind() -> None:
    votes = votes_of(["p", "q", "p"], ["ann"] * 3, ["human"] * 3, [0, 1, 2], times=DAYS[:3])
    assert votes.label_N.tolist() == [2, 1]
    assert votes.time_N is not None and votes.time_N.tolist() == DAYS[[2, 1]].tolist()


def test_arrow_columns_are_taken_as_they_are() -> None:
    votes = votes_of(
        pa.array(["p", "p"]), pa.array(["a", "b"]), pa.array(["human"] * 2), np.array([0, 2])
    )
    assert votes.counts().tolist() == [[1, 0, 1]]


def test_unicode_ids_stay_apart() -> None:
    ids = ["a", "ä", "a\u0308", "李", "", "a ", "\U0001f600"]  # two ways to write one letter
    votes = votes_of(["p"] * 7, ids, ["human"] * 7, [0] * 7)
    assert sorted(votes.annotators) == sorted(ids) and votes.counts().tolist() == [[7, 0, 0]]


def test_counts_and_majority_by_hand() -> None:
    votes = votes_of(
        ["p", "p", "p", "q", "q", "r"], list("abcabc"), ["human"] * 6, [0, 0, 2, 1, 2, 1]
    )
    assert votes.counts().tolist() == [[2, 0, 1], [0, 1, 1], [0, 1, 0]]
    assert votes.majority().tolist() == [0, UNKNOWN, 1]


def test_known_labels_are_placed_by_item_id() -> None:
    votes = votes_of(["p", "q", "r"], ["a"] * 3, ["human"] * 3, [0, 1, 2])
    assert votes.known({"r": LARGER, "p": TIE, "elsewhere": 0}).tolist() == [TIE, UNKNOWN, LARGER]


def test_one_kind_can_be_looked_at_alone() -> None:
    kinds = ["human", "model", "model"]
    votes = votes_of(["p", "p", "q"], ["ann", "bot", "bot"], kinds, [0, 2, 1], times=DAYS[:3])
    people = votes.of_kind("human")
    assert people.annotators == votes.annotators and people.items == votes.items
    assert people.counts().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert people.time_N is not None and people.time_N.tolist() == DAYS[:1].tolist()


def test_an_annotator_of_two_kinds_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"annotator ann is model .* human"):
        votes_of(["p", "q", "r"], ["bob", "ann", "ann"], ["human", "model", "human"], [0, 1, 2])


def test_no_votes_are_votes_too() -> None:
    votes = votes_of([], [], [], [])
    assert votes.counts().shape == (0, 3) and len(votes.majority()) == 0


def test_votes_made_by_hand_must_be_sorted_and_within_range() -> None:
    def made(items: list[int], labels: list[int]) -> Votes:
        one_N = np.zeros(2, np.int64)
        columns = np.array(items), one_N, np.array(labels)
        return Votes(*columns, ("p", "q"), ("a",), ("human",), 3)

    assert made([0, 1], [0, 2]).counts().sum() == 2
    for items, labels in (([1, 0], [0, 2]), ([0, 0], [0, 2]), ([0, 1], [0, 3]), ([0, 1], [-1, 2])):
        with pytest.raises(AssertionError):
            made(items, labels)
