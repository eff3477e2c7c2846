"""Pools: who was a member when, and the sequential test that ends a membership."""

import random
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from align.data.schemas import TIME
from align.reward.annotators.pools import (
    SUPER_RATERS,
    DropTest,
    Membership,
    by_members,
    drop_test,
    requalified,
    stays,
    super_raters,
)
from align.reward.annotators.votes import LARGER, SMALLER, TIE, UNKNOWN, times_of, votes_of


def day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)


POOL = [
    Membership("ann", "super", day(10), day(20)),
    Membership("ann", "super", day(30)),
    Membership("bob", "super", day(0)),
    Membership("cal", "other", day(0)),
]


def test_rows_by_non_members_are_excluded() -> None:
    names = ["bob", "cal", "dan", "bob"]
    assert by_members(POOL, "super", names, [day(1)] * 4).tolist() == [True, False, False, True]
    assert by_members(POOL, "other", names, [day(1)] * 4).tolist() == [False, True, False, False]


def test_membership_is_judged_when_the_annotation_was_made() -> None:
    times = [9, 10, 19, 20, 25, 30, 400]
    found = by_members(POOL, "super", ["ann"] * 7, [day(number) for number in times])
    # ann is a member today; what she said before, and between her two stays, stays out
    assert found.tolist() == [False, True, True, False, False, True, True]


def test_a_judgement_of_a_former_member_counts_after_they_left() -> None:
    left = [Membership("ann", "super", day(0), day(5))]
    assert by_members(left, "super", ["ann", "ann"], [day(4), day(6)]).tolist() == [True, False]


def test_membership_is_what_a_loop_over_records_gives() -> None:
    chance = random.Random(0)
    names = [chance.choice(["ann", "bob", "cal", "dan", "李"]) for _ in range(500)]
    times = [day(chance.randrange(-5, 40)) for _ in names]
    expected = [
        any(
            one.annotator_id == name
            and one.pool == "super"
            and one.qualified_from <= time
            and (one.qualified_to is None or time < one.qualified_to)
            for one in POOL
        )
        for name, time in zip(names, times, strict=True)
    ]
    assert by_members(POOL, "super", names, times).tolist() == expected
    columns = pa.array(names), pa.array(times, TIME)
    assert by_members(POOL, "super", *columns).tolist() == expected


def test_the_zone_in_which_a_time_is_written_does_not_matter() -> None:
    there = timezone(timedelta(hours=8))
    just_before = (day(10) - timedelta(microseconds=1)).astimezone(there)
    times = [day(10).astimezone(there), just_before]
    assert by_members(POOL, "super", ["ann", "ann"], times).tolist() == [True, False]


def test_an_empty_pool_and_no_records_are_defined() -> None:
    assert by_members([], "super", ["ann"], [day(1)]).tolist() == [False]
    assert by_members(POOL, "super", [], []).tolist() == []


def answers(*agreed: float, first: int = 0) -> list[tuple[datetime, float]]:
    return [(day(first + place), share) for place, share in enumerate(agreed)]


def test_three_right_answers_are_no_membership_and_22_are_one_from_the_last_on() -> None:
    assert stays("ann", answers(1, 1, 1)) == []
    assert stays("ann", answers(*[1] * 21)) == []
    assert stays("ann", answers(*[1] * 22)[::-1]) == [Membership("ann", SUPER_RATERS, day(21))]


def test_who_fails_leaves_and_comes_back_by_later_answers_alone() -> None:
    gold = answers(*[1] * 22, *[0] * 5, *[1] * 21)
    assert stays("ann", gold) == [Membership("ann", SUPER_RATERS, day(21), day(26))]
    again = stays("ann", [*gold, (day(48), 1.0)])
    assert again[1:] == [Membership("ann", SUPER_RATERS, day(48))]
    counts = by_members(again, SUPER_RATERS, ["ann"] * 4, [day(20), day(21), day(30), day(50)])
    assert counts.tolist() == [False, True, False, True]


def test_the_pool_is_of_people_who_met_gold() -> None:
    items = [f"{place:02}" for place in range(30)]
    who = {"ann": LARGER, "bot": LARGER, "cal": SMALLER, "tie": TIE}
    votes = votes_of(
        items * 4,
        [name for name in who for _ in items],
        ["model" if name == "bot" else "human" for name in who for _ in items],
        [label for label in who.values() for _ in items],
        times=times_of([day(place) for place in range(30)] * 4),
    )
    gold_I = np.full(30, LARGER)
    assert super_raters(votes, gold_I) == [Membership("ann", SUPER_RATERS, day(21))]
    gold_I[:9] = UNKNOWN
    assert super_raters(votes, gold_I) == []


@pytest.mark.parametrize(
    ("label", "gold", "stays_from"),
    [(TIE, LARGER, [day(28)]), (LARGER, TIE, [day(28)]), (SMALLER, LARGER, [])],
)
def test_a_tie_against_a_side_is_half_right_which_can_let_somebody_in(
    label: int, gold: int, stays_from: list[datetime]
) -> None:
    """28.5 of 29 have a lower end of 0.854, and 28 of 29 one of 0.828."""
    items = [f"{place:02}" for place in range(29)]
    times = times_of([day(place) for place in range(29)])
    votes = votes_of(items, ["ann"] * 29, ["human"] * 29, [label, *[LARGER] * 28], times=times)
    found = super_raters(votes, np.array([gold, *[LARGER] * 28]))
    assert [one.qualified_from for one in found] == stays_from


@pytest.mark.parametrize(
    ("agreed", "dropped_at", "passed", "evidence"),
    [
        # A wrong answer is log(.3 / .15) = .6931 nats for "bad"; the limit is log(.95 / .05).
        ([0] * 4, None, 0, 4 * 0.6931),
        ([0] * 9, 4, 0, 5 * 0.6931),
        # A right one is log(.7 / .85) = -.1942; 16 of them end a round.
        ([1] * 15, None, 0, -15 * 0.1942),
        ([1] * 16, None, 1, 0.0),
        ([0.5, 0.5], None, 0, 0.6931 - 0.1942),
        ([], None, 0, 0.0),
    ],
)
def test_the_drop_test_by_hand(
    agreed: list[float], dropped_at: int | None, passed: int, evidence: float
) -> None:
    found = drop_test(agreed)
    assert (found.dropped_at, found.rounds_passed) == (dropped_at, passed)
    assert found.evidence == pytest.approx(evidence, abs=1e-3)


def dropped(accuracy: float, answers: int, seeds: int, test: DropTest) -> float:
    """The share of simulated raters whom the test drops within so many answers."""
    count = 0
    for seed in range(seeds):
        chance = random.Random(seed)
        verdict = drop_test([chance.random() < accuracy for _ in range(answers)], test)
        count += verdict.dropped_at is not None
    return count / seeds


def test_bad_raters_are_dropped_and_good_ones_seldom() -> None:
    test = DropTest()
    assert dropped(0.70, 500, 300, test) > 0.95
    assert dropped(0.95, 500, 300, test) < 0.02


def test_one_round_errs_no_more_often_than_asked() -> None:
    test = DropTest(good=0.85, bad=0.7, false_drop=0.05, false_keep=0.05)
    wrong_drop = wrong_keep = 0
    for seed in range(500):
        chance = random.Random(seed)
        for accuracy in (test.good, test.bad):
            agreed: list[float] = []
            verdict = drop_test(agreed, test)
            while verdict.dropped_at is None and not verdict.rounds_passed:
                agreed.append(chance.random() < accuracy)
                verdict = drop_test(agreed, test)
            wrong_drop += accuracy == test.good and verdict.dropped_at is not None
            wrong_keep += accuracy == test.bad and verdict.rounds_passed
    assert wrong_drop / 500 < 0.07 and wrong_keep / 500 < 0.07


def test_a_long_good_record_does_not_hide_a_decline() -> None:
    verdict = drop_test([1] * 320 + [0] * 5)
    assert verdict.dropped_at == 324 and verdict.rounds_passed == 20


def test_a_failed_test_ends_the_membership_at_the_answer_that_failed_it() -> None:
    member = Membership("ann", "super", day(0))
    gold = [(day(number), 0.0) for number in range(9)]
    ended = requalified(member, gold[::-1])  # the order of the list does not matter, time does
    assert ended == Membership("ann", "super", day(0), day(4))
    times = [day(3), day(4), day(7)]
    assert by_members([ended], "super", ["ann"] * 3, times).tolist() == [True, False, False]


def test_a_membership_stands_while_the_test_does_not_fail() -> None:
    member = Membership("ann", "super", day(0))
    assert requalified(member, [(day(number), 1.0) for number in range(50)]) is member
    assert requalified(member, []) is member


def test_answers_from_outside_the_membership_do_not_end_it() -> None:
    member = Membership("ann", "super", day(10), day(20))
    outside = [(day(number), 0.0) for number in (*range(10), *range(20, 30))]
    assert requalified(member, outside) is member


@pytest.mark.parametrize("wrong", [{"bad": 0.9}, {"good": 1.0}, {"bad": 0.0}, {"false_drop": 0.96}])
def test_a_test_that_cannot_tell_good_from_bad_is_our_bug(wrong: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        DropTest(**wrong)
