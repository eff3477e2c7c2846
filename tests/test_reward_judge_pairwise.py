"""Two answers side by side, in both orders: valid `comparison` records by a model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from align.data.messages import Message, assistant, user
from align.data.schemas import FEEDBACK, completed, table_of
from align.data.validate import validate_record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.judge.asking import Replies
from align.reward.judge.pairwise import (
    CRITERIA,
    Battle,
    Comparisons,
    Criterion,
    battle_question,
    judge_battles,
    outcome,
    position_bias,
)
from align.reward.judge.records import Origin

ORIGIN = Origin("my study", "CC0-1.0", datetime(2026, 1, 2, tzinfo=UTC))
SHORT_FIRST = Battle(user("How?"), assistant("So."), assistant("So and so, or so."))
LONG_FIRST = Battle(user("How?"), SHORT_FIRST.b, SHORT_FIRST.a)
EQUAL = Battle(user("How?"), assistant("Yes"), assistant("No!"))


@dataclass(frozen=True)
class FakeJudge:
    """A plain function of the two answers as shown to letter probabilities."""

    letters: Callable[[str, str], list[float]]
    declines: str = "declined by no question"
    id: str = "fake"

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        texts = [question[-1]["content"] for question in questions]
        pattern = r"\[(?:first|second) answer\]\n(.*)\n"
        rows = [self.letters(*re.findall(pattern, text)) for text in texts]
        problems = {i: "too long" for i, text in enumerate(texts) if self.declines in text}
        return Replies(np.log(np.array(rows)).reshape(-1, letters), problems)


def longer(first: str, second: str) -> list[float]:
    if len(first) == len(second):
        return [0.1, 0.1, 0.8]
    return [0.8, 0.1, 0.1] if len(first) > len(second) else [0.1, 0.8, 0.1]


def judged(letters: Callable[[str, str], list[float]], *battles: Battle) -> Comparisons:
    return judge_battles(FakeJudge(letters), CRITERIA["helpful"], battles, ORIGIN)


def outcomes(found: Comparisons) -> list[str]:
    return [record["outcome"] for record in found.records]


def test_what_wins_in_both_orders_wins_and_trading_places_trades_the_outcome() -> None:
    found = judged(longer, SHORT_FIRST, LONG_FIRST, EQUAL)
    assert outcomes(found) == ["b", "a", "tie"]
    assert found.bias == (3, 3, 0, 0)


@pytest.mark.parametrize(
    ("letters", "first", "second"), [([0.9, 0.05, 0.05], 2, 0), ([0.05, 0.9, 0.05], 0, 2)]
)
def test_a_judge_that_looks_at_the_place_alone_makes_no_pair_and_is_found_out(
    letters: list[float], first: int, second: int
) -> None:
    found = judged(lambda *_: letters, SHORT_FIRST, EQUAL)
    assert outcomes(found) == ["skip", "skip"]
    assert found.bias == (2, 0, first, second)
    assert [len(part.pairs) for part in convert(found.records, FeedbackConfig(), 0.1)] == [0]


def test_a_judge_that_finds_answers_equal_in_both_orders_makes_ties() -> None:
    found = judged(lambda *_: [0.1, 0.1, 0.8], SHORT_FIRST, EQUAL)
    (part,) = convert(found.records, FeedbackConfig(), 0.1)
    assert part.pairs["target_prob"].to_pylist() == [0.5, 0.5]


@pytest.mark.parametrize("as_given", ["a", "b", "tie"])
@pytest.mark.parametrize("swapped", ["a", "b", "tie"])
def test_a_win_takes_both_orders(as_given: str, swapped: str) -> None:
    if "tie" in (as_given, swapped):
        assert outcome(as_given, swapped) == "tie"
    else:
        assert outcome(as_given, swapped) == (as_given if as_given == swapped else "skip")


def test_the_position_bias_counts_each_kind_once() -> None:
    verdicts = [("a", "b"), ("a", "b"), ("b", "a"), ("a", "a"), ("tie", "tie"), ("a", "tie")]
    assert position_bias(verdicts) == (6, 2, 2, 1)
    assert position_bias([]) == (0, 0, 0, 0)


def test_records_pass_the_validator_and_never_count_as_human() -> None:
    found = judged(longer, SHORT_FIRST, replace(EQUAL, gold=True))
    for record in found.records:
        assert validate_record(completed(record, FEEDBACK["comparison"])) == []
        assert (record["annotator_kind"], record["annotator_id"]) == ("model", "fake")
        assert record["criterion"] == "helpful" and record["created_at"] == ORIGIN.created_at
    assert [record["gold"] for record in found.records] == [False, True]
    assert table_of(found.records, FEEDBACK["comparison"]).num_rows == 2


def test_an_id_follows_from_the_battle_the_criterion_and_the_judge() -> None:
    def ids(criterion: Criterion, *battles: Battle) -> list[str]:
        found = judge_battles(FakeJudge(longer), criterion, battles, ORIGIN)
        return [record["feedback_id"] for record in found.records]

    helpful = CRITERIA["helpful"]
    first = ids(helpful, SHORT_FIRST, LONG_FIRST, EQUAL)
    others = ids(replace(helpful, text="which is nicer"), EQUAL) + ids(CRITERIA["overall"], EQUAL)
    assert first == ids(helpful, SHORT_FIRST, LONG_FIRST, EQUAL)
    assert len({*first, *others}) == 5


def test_a_battle_declined_in_one_order_has_a_problem_and_no_record() -> None:
    fake = FakeJudge(longer, declines="[first answer]\nYes")
    found = judge_battles(fake, CRITERIA["overall"], [SHORT_FIRST, EQUAL], ORIGIN)
    assert found.problems == {1: "too long"} and outcomes(found) == ["b"]
    assert found.bias.battles == 1


def test_no_battles_make_no_records() -> None:
    assert judged(longer) == ([], {}, (0, 0, 0, 0))


@pytest.mark.parametrize("name", CRITERIA)
def test_the_judge_reads_the_criterion_and_both_answers_in_the_order_asked(name: str) -> None:
    criterion = CRITERIA[name]
    assert criterion.name == name
    text = battle_question(criterion, EQUAL, EQUAL.b, EQUAL.a)[0]["content"]
    places = [text.index(part) for part in (criterion.text, "User: How?", "No!", "Yes", "\nA. ")]
    assert places == sorted(places)
    assert text.count("\nA. The first answer is better.\nB. The second") == 1
