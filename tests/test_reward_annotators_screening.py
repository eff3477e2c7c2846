"""Screening against gold items, and the annotator table that people and models share."""

from datetime import UTC, datetime

import numpy as np
import pytest

from align.data.schemas import ANNOTATOR, table_of
from align.data.validate import validate_annotator
from align.reward.annotators.agreement import NO_PAIRS, Statistic
from align.reward.annotators.dawid_skene import fit
from align.reward.annotators.pools import Membership
from align.reward.annotators.screening import Screening, ranked, screen
from align.reward.annotators.table import annotator_rows
from align.reward.annotators.votes import LARGER, SMALLER, TIE, UNKNOWN, Votes, votes_of


def panel(records: dict[str, tuple[int, int]], kinds: dict[str, str] | None = None) -> Votes:
    """Annotators by how many gold items they judged as gold says (LARGER), out of how many."""
    rows = [
        (f"item-{item:04}", name, LARGER if item < right else SMALLER)
        for name, (right, n) in records.items()
        for item in range(n)
    ]
    items, annotators, labels = zip(*rows, strict=True)
    return votes_of(items, annotators, [(kinds or {}).get(a, "human") for a in annotators], labels)


def screened(records: dict[str, tuple[int, int]], **kinds: str) -> dict[str, Screening]:
    votes = panel(records, kinds)
    gold_I = np.full(len(votes.items), LARGER)
    return {one.annotator_id: one for one in screen(votes, gold_I)}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # statsmodels.stats.proportion.proportion_confint(right, n, 0.05, method="wilson"), 0.15.0
        (3, 3, 0.43850296824495444, 1.0),
        (190, 200, 0.9104218518612239, 0.972617354399236),
        (0, 7, 0.0, 0.3543304350666875),
        (17, 20, 0.639581135259243, 0.9476312541037833),
        (1, 29, 0.006113214292762667, 0.17175521879320294),
    ],
)
def test_the_interval_is_that_of_statsmodels(right: int, n: int, low: float, high: float) -> None:
    share = screened({"ann": (right, n)})["ann"].agreement
    assert share and (share.n, share.accuracy) == (n, right / n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-7)


def test_three_of_three_do_not_outrank_190_of_200() -> None:
    found = screened({"lucky": (3, 3), "steady": (190, 200), "poor": (120, 200)})
    order = [one.annotator_id for one in ranked(list(found.values()))]
    assert order == ["steady", "poor", "lucky"]


def test_gold_items_that_nobody_showed_them_are_no_disagreement() -> None:
    alone, beside = screened({"ann": (9, 10)}), screened({"ann": (9, 10), "bob": (150, 400)})
    assert alone["ann"] == beside["ann"]


def test_items_that_are_not_gold_do_not_count() -> None:
    votes = panel({"ann": (8, 10), "bob": (2, 10)})
    gold_I = np.full(10, UNKNOWN)
    gold_I[[0, 9]] = LARGER
    assert [one.agreement and one.agreement.accuracy for one in screen(votes, gold_I)] == [0.5, 0.5]


def test_a_tie_against_a_side_counts_half_unless_told_otherwise() -> None:
    votes = votes_of(["p", "q", "r", "s"], ["ann"] * 4, ["human"] * 4, [TIE, SMALLER, TIE, SMALLER])
    gold_I = votes.known({"p": LARGER, "q": TIE, "r": TIE, "s": LARGER})
    (half,), (whole,) = screen(votes, gold_I), screen(votes, gold_I, tie=None)
    assert half.agreement and half.agreement.accuracy == 0.5
    assert whole.agreement and whole.agreement.accuracy == 0.25


def test_kappa_against_gold_is_that_of_sklearn() -> None:
    gold = [0, 0, 1, 2, 2, 1, 0, 2, 0, 1, 2, 2, 0, 1, 2, 0]
    said = [0, 1, 1, 2, 0, 1, 0, 2, 2, 1, 2, 1, 0, 0, 2, 0]
    items = [f"{i:02}" for i in range(16)]
    votes = votes_of(items, ["ann"] * 16, ["human"] * 16, said)
    (found,) = screen(votes, votes.known(dict(zip(items, gold, strict=True))))
    # sklearn.metrics.cohen_kappa_score(gold, said) of scikit-learn 1.9.1
    assert found.kappa.value == pytest.approx(0.5294117647058824, abs=1e-12)


def test_who_met_no_gold_is_unknown_and_last() -> None:
    votes = votes_of(["p", "q", "q"], ["new", "ann", "bob"], ["human"] * 3, [0, 0, 2])
    found = screen(votes, votes.known({"q": SMALLER}))
    new = found[votes.annotators.index("new")]
    assert new.agreement is None and new.kappa == Statistic(None, 0, NO_PAIRS) and new.low == 0
    assert ranked(found)[-1] is new or ranked(found)[-1].low == 0


def test_people_of_one_bound_are_in_the_order_of_their_names() -> None:
    found = list(screened({"zoe": (9, 10), "ann": (9, 10)}).values())
    assert [one.annotator_id for one in ranked(found[::-1])] == ["ann", "zoe"]


def test_a_model_is_measured_like_a_person_and_never_counted_as_one() -> None:
    found = screened({"ann": (90, 100), "bot": (99, 100)}, bot="model")
    as_person = screened({"ann": (90, 100), "bot": (99, 100)})
    assert found["bot"].agreement == as_person["bot"].agreement
    both = list(found.values())
    assert [one.annotator_id for one in ranked(both)] == ["bot", "ann"]
    rows = annotator_rows(both)
    assert [row["annotator_id"] for row in rows if row["kind"] == "human"] == ["ann"]
    assert {row["annotator_id"]: row["gold_n"] for row in rows} == {"ann": 100, "bot": 100}


def test_the_table_has_the_schema_and_every_stay_in_a_pool() -> None:
    votes = panel({"ann": (9, 10), "bot": (10, 10), "cal": (1, 10)}, {"bot": "programmatic"})
    gold_I = np.full(10, UNKNOWN)
    gold_I[:5] = LARGER
    day = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 5)]
    stays = [
        Membership("ann", "super", day[2]),
        Membership("ann", "super", day[0], day[1]),
        Membership("gone", "super", day[0]),
    ]
    fitted = fit(votes, gold_I)
    rows = annotator_rows(screen(votes, gold_I), stays, fitted)
    assert [problem for row in rows for problem in validate_annotator(row)] == []
    assert [(row["annotator_id"], row["qualified_from"], row["qualified_to"]) for row in rows] == [
        ("ann", day[0], day[1]),
        ("ann", day[2], None),
        ("bot", None, None),
        ("cal", None, None),
    ]
    assert rows[3]["ds_confusion"] == fitted.confusion_ALL[2].tolist()
    assert rows[0]["wilson_lb"] == pytest.approx(0.5655, abs=1e-4)
    assert table_of(rows, ANNOTATOR).num_rows == 4


def test_the_table_says_nothing_of_who_met_no_gold() -> None:
    votes = panel({"ann": (1, 2)})
    (row,) = annotator_rows(screen(votes, np.full(2, UNKNOWN)))
    assert row["gold_n"] == 0
    for name in ("gold_agree", "wilson_lb", "kappa", "ds_confusion", "pool"):
        assert row[name] is None
