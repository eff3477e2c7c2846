"""Guideline versions: superseded records are flagged and their items queued."""

from datetime import UTC, datetime, timedelta

import pytest

from align.data.errors import UserError
from align.reward.annotators.guidelines import Guideline, relabel_queue, review


def day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)


VERSIONS = [Guideline("v3", day(20)), Guideline("v1", day(0)), Guideline("v2", day(10))]
NOW = day(25)


def test_superseded_records_are_flagged() -> None:
    found = review(VERSIONS, ["v1", "v2", "v3"], [day(1), day(11), day(21)], NOW)
    assert found.behind_N.tolist() == [2, 1, 0]
    assert found.superseded_N.tolist() == [True, True, False]
    assert found.outdated_N.tolist() == [False, False, False] and found.rejected == []


def test_who_followed_a_version_that_had_been_replaced_is_told_apart() -> None:
    found = review(VERSIONS, ["v1", "v1", "v1", "v3"], [day(9), day(10), day(22), day(1)], NOW)
    assert found.outdated_N.tolist() == [False, True, True, False]
    assert found.behind_then_N.tolist() == [0, 1, 2, 0]


def test_only_versions_in_force_by_now_supersede() -> None:
    found = review(VERSIONS, ["v1", "v2"], [day(1), day(11)], day(19))
    assert found.superseded_N.tolist() == [True, False]
    on_the_day = review(VERSIONS, ["v2"], [day(11)], day(20))
    assert on_the_day.superseded_N.tolist() == [True]


@pytest.mark.parametrize("version", ["", None])
def test_a_record_without_a_version_is_rejected(version: str | None) -> None:
    found = review(VERSIONS, ["v3", version], [day(21)] * 2, NOW)
    assert found.rejected == [(1, "guideline_version", "must not be empty")]
    assert found.superseded_N.tolist() == found.outdated_N.tolist() == [False, False]
    assert relabel_queue(["p", "q"], found) == []


def test_a_record_with_an_unknown_version_is_rejected_by_name() -> None:
    found = review(VERSIONS, ["v9"], [day(1)], NOW)
    assert found.rejected == [(0, "guideline_version", 'no guideline has the version "v9"')]


def test_the_queue_holds_what_nobody_judged_by_the_version_in_force() -> None:
    items = ["old", "mixed", "older", "mixed", "older", "fresh", "bad"]
    versions = ["v2", "v1", "v1", "v3", "v1", "v3", ""]
    found = review(VERSIONS, versions, [day(21)] * 7, NOW)
    assert relabel_queue(items, found) == ["older", "old"]


def test_items_of_one_age_are_queued_by_id_whatever_the_order_of_the_rows() -> None:
    for items in (["c", "a", "b"], ["b", "c", "a"]):
        found = review(VERSIONS, ["v1"] * 3, [day(1)] * 3, NOW)
        assert relabel_queue(items, found) == ["a", "b", "c"]


def test_a_fresh_judgement_takes_an_item_out_of_the_queue() -> None:
    before = review(VERSIONS, ["v1"], [day(1)], NOW)
    after = review(VERSIONS, ["v1", "v3"], [day(1), day(24)], NOW)
    assert relabel_queue(["p"], before) == ["p"] and relabel_queue(["p", "p"], after) == []


def test_no_records_are_reviewed_to_nothing() -> None:
    found = review(VERSIONS, [], [], NOW)
    assert found.superseded_N.tolist() == [] and relabel_queue([], found) == []


@pytest.mark.parametrize(
    ("guidelines", "message"),
    [
        ([], "no guideline is in force on 2026-01-26"),
        ([Guideline("v1", day(30))], "no guideline is in force on 2026-01-26"),
        ([Guideline("v1", day(0)), Guideline("v1", day(2))], "listed twice"),
        ([Guideline("v1", day(0)), Guideline("", day(2))], "has no name"),
    ],
)
def test_guidelines_that_cannot_be_followed_are_refused(
    guidelines: list[Guideline], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        review(guidelines, ["v1"], [day(1)], NOW)
