"""Questionnaires as pairs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import record_batch
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.pairs import Ties
from align.reward.feedback.questions import FAILED, weighted_scores


def to_pairs(records: Iterable[Record], ties: Ties = "soft", **options: Any) -> list[Preference]:
    """The rows of the preference table."""
    parts = convert(records, FeedbackConfig(ties=ties, **options), 0.1)
    return [row for part in parts for row in part.pairs.to_pylist()]


Given = dict[str, Any]  # one answer to one question
LEAST_GAP = FeedbackConfig().questions.least_gap


def given(value: float | None, weight: float = 1.0, gate: bool = False, name: str = "q") -> Given:
    return {
        "question_id": name,
        "criterion": "overall",
        "option": "",
        "value": value,
        "weight": weight,
        "gate": gate,
    }


def asked(name: str, *answers: list[Given], texts: str = "", overall: int | None = None) -> Record:
    """One questionnaire; `texts` holds one letter per answer, its text and id."""
    return header(
        "question",
        name,
        user("Hi"),
        [assistant(text) for text in texts],
        source="test",
        license="none",
        annotator_id=f"annotator of {name}",
        guideline_version="1",
        completion_ids=list(texts),
    ) | {"answers": [one for block in answers for one in block], "overall": overall}


def score_of(answers: list[Given], weights: Mapping[str, float] | None = None) -> float:
    """The score of one answer; nan if there is none."""
    table = pa.Table.from_batches([record_batch([asked("f", answers, texts="a")])])
    (score,) = weighted_scores(table, weights or {}).tolist()
    return float(score)


def test_a_score_by_hand() -> None:
    assert score_of([given(1.0, 2), given(0.5, 1), given(0.0, 1)]) == 0.625


def test_a_question_that_does_not_apply_leaves_the_denominator() -> None:
    assert score_of([given(1.0), given(None, 5)]) == 1.0
    assert math.isnan(score_of([given(None)]))
    assert math.isnan(score_of([]))


def test_a_gate_beats_any_sum() -> None:
    failed = score_of([given(1.0, 100), given(0.4, gate=True)])
    nothing = score_of([given(0.0, 100), given(0.5, weight=0, gate=True)])
    assert failed == FAILED and nothing == 0.0
    record = asked(
        "f", [given(1.0), given(0.0, 0, True)], [given(0.0), given(1.0, 0, True)], texts="ab"
    )
    (pair,) = to_pairs([record])
    assert pair["chosen_id"] == "b"


def test_a_gate_beats_any_sum_by_learned_weights_too() -> None:
    """By a negative weight, an answer can be as bad as -1."""
    record = asked(
        "f",
        [given(0.0, name="bad"), given(0.0, 0, True, "gate")],
        [given(1.0, name="bad"), given(1.0, 0, True, "gate")],
        texts="ab",
    )
    table = pa.Table.from_batches([record_batch([record])])
    failed, worst = weighted_scores(table, {}, {"bad": -1.0, "gate": 0.0}).tolist()
    assert failed < worst == -1.0


def test_answers_of_one_record_are_paired_by_their_scores() -> None:
    record = asked("f", [given(0.2)], [given(0.9)], [given(0.25)], texts="abc")
    pairs = {(p["chosen_id"], p["rejected_id"]): p for p in to_pairs([record])}
    assert set(pairs) == {("b", "a"), ("b", "c"), ("a", "c")}
    assert pairs["b", "a"]["margin"] == pytest.approx(0.7)
    assert pairs["b", "a"]["score_chosen"] == pytest.approx(0.9)
    assert (pairs["a", "c"]["target_prob"], pairs["a", "c"]["margin"]) == (0.5, 0.0)
    assert len(to_pairs([record], "drop")) == 2


def test_turning_the_values_around_turns_the_pair_around() -> None:
    values = [[0.2, 0.4], [0.9, 0.6]]
    plain = asked("f", *[[given(v) for v in block] for block in values], texts="ab")
    turned = asked("f", *[[given(1 - v) for v in block] for block in values], texts="ab")
    (ours,), (theirs,) = to_pairs([plain]), to_pairs([turned])
    assert ours["chosen_id"] == theirs["rejected_id"] == "b"
    assert ours["margin"] == pytest.approx(theirs["margin"])


def test_an_answer_to_which_nothing_applied_is_not_paired() -> None:
    record = asked("f", [given(None)], [given(0.0)], [given(1.0)], texts="abc")
    (pair,) = to_pairs([record])
    assert (pair["chosen_id"], pair["rejected_id"]) == ("c", "b")


@pytest.mark.parametrize(
    ("overall", "chosen", "target", "margin"),
    [(2, "a", 1.0, 1.0), (-1, "b", 1.0, 0.5), (0, "a", 0.5, 0.0)],
)
def test_an_overall_judgement_stands_in_for_missing_answers(
    overall: int, chosen: str, target: float, margin: float
) -> None:
    (pair,) = to_pairs([asked("f", texts="ab", overall=overall)])
    assert (pair["chosen_id"], pair["target_prob"], pair["margin"]) == (chosen, target, margin)


def test_answers_judged_alone_are_compared_by_their_mean_scores() -> None:
    records = [
        asked("f", [given(1.0)], texts="a"),
        asked("g", [given(0.0)], texts="a"),
        asked("h", [given(1.0)], texts="b"),
    ]
    (pair,) = to_pairs(records)
    assert (pair["chosen_id"], pair["rejected_id"], pair["margin"]) == ("b", "a", 0.5)
    assert pair["feedback_ids"] == ["f", "g", "h"] and pair["agreement"] is None


def test_answers_judged_alone_with_close_scores_were_never_called_equal() -> None:
    records = [asked("f", [given(0.5)], texts="a"), asked("g", [given(0.5)], texts="b")]
    assert to_pairs(records) == []


def test_gold_answers_move_no_score() -> None:
    gold = asked("g", [given(0.0)], texts="b") | {"gold": True}
    records = [asked("f", [given(0.0)], texts="a"), asked("h", [given(1.0)], texts="b"), gold]
    (pair,) = to_pairs(records)
    assert (pair["margin"], pair["feedback_ids"]) == (1.0, ["f", "h"])


def test_different_criteria_are_never_compared() -> None:
    records = [
        asked("f", [given(0.0)], texts="a"),
        asked("g", [given(1.0)], texts="b") | {"criterion": "honest"},
    ]
    assert to_pairs(records) == []


def test_two_people_who_disagree_make_a_softer_pair() -> None:
    blocks = [[given(1.0)], [given(0.0)]]
    records = [asked(name, *blocks, texts="ab") for name in "fgh"]
    records.append(asked("i", *blocks[::-1], texts="ab"))
    (pair,) = to_pairs(records)
    assert (pair["target_prob"], pair["margin"], pair["agreement"]) == (0.75, 0.5, 0.75)


def test_a_gap_of_exactly_the_least_is_a_preference() -> None:
    record = asked("f", [given(LEAST_GAP)], [given(0.0)], texts="ab")
    assert to_pairs([record], "drop")[0]["target_prob"] == 1.0
