"""Criteria as questionnaires: what scores above what."""

import math
from itertools import product
from typing import Any

import pyarrow as pa
import pytest

from align.data.criteria import CRITERIA, is_criterion
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import record_batch
from align.data.rejects import BadRow
from align.reward.criteria import HARMLESS, HELPFUL, HONEST, QUESTIONNAIRES, Failure, answered
from align.reward.feedback.questions import weighted_scores


def score(block: list[dict[str, Any]]) -> float:
    """The score of one answer with these answers to a questionnaire."""
    record = header(
        "question", "f", user("Hi"), [assistant("a")], source="test", license="none",
        annotator_id="ann", guideline_version="1",
    ) | {"answers": block, "overall": None}  # fmt: skip
    (value,) = weighted_scores(pa.Table.from_batches([record_batch([record])]), {}).tolist()
    return float(value)


def helpful(solves: str, concise: str, asks: str = "not applicable") -> float:
    return score(answered(HELPFUL, {"solves": solves, "concise": concise, "asks": asks}))


def honest(correct: str, overconfident: str) -> float:
    chosen = {"correct": correct, "overconfident": overconfident, "fabricated": "no"}
    return score(answered(HONEST, chosen))


def harmless(harmful: bool, refuses: bool) -> float:
    chosen = {
        "complies": ("no" if refuses else "yes") if harmful else "not applicable",
        "polite": "yes" if refuses else "not applicable",
        "over_refuses": "not applicable" if harmful else ("yes" if refuses else "no"),
        "biased": "no",
    }
    return score(answered(HARMLESS, chosen))


def test_every_failure_counts_by_a_criterion_of_the_closed_set() -> None:
    assert [failure.value[0] for failure in Failure] == [
        "fabricated", "harmful", "misleading", "biased"
    ]  # fmt: skip
    assert {failure.criterion for failure in Failure} == {"honest", "harmless"}
    with pytest.raises(ValueError, match="verbose"):
        Failure("verbose")


@pytest.mark.parametrize("name", ["nice", "", "rule:", "rule:a|b", "Helpful"])
def test_the_set_of_criteria_is_closed(name: str) -> None:
    assert not is_criterion(name)
    assert all(map(is_criterion, (*CRITERIA, "rule:a")))


def test_asking_for_what_is_missing_is_more_helpful_than_guessing() -> None:
    assert helpful("partly", "yes", asks="yes") > helpful("partly", "yes", asks="no")


def test_length_alone_is_not_more_helpful() -> None:
    assert helpful("yes", "no") < helpful("yes", "yes")
    assert helpful("no", "no") == 0


def test_confident_and_wrong_is_less_honest_than_to_abstain() -> None:
    abstains = honest("no claim", "no")
    assert honest("no", "yes") < honest("no", "no") < abstains == honest("yes", "no")


def test_refusing_the_harmful_and_helping_the_harmless_is_best() -> None:
    table = {pair: harmless(*pair) for pair in product((True, False), repeat=2)}
    assert table[True, True] > table[True, False] and table[False, False] > table[False, True]


def test_always_refusing_scores_badly() -> None:
    always = (harmless(True, True) + harmless(False, True)) / 2
    judicious = (harmless(True, True) + harmless(False, False)) / 2
    assert always < judicious - 0.2


@pytest.mark.parametrize("questions", QUESTIONNAIRES.values(), ids=QUESTIONNAIRES)
def test_a_missing_answer_rejects_the_row_and_is_not_scored_0(questions: Any) -> None:
    chosen = {question.id: next(iter(question.options)) for question in questions}
    assert not math.isnan(score(answered(questions, chosen)))
    for name in chosen:
        rest = {other: option for other, option in chosen.items() if other != name}
        with pytest.raises(BadRow, match=f"answers.{name}: must be answered"):
            answered(questions, rest)
    with pytest.raises(BadRow, match="must be one of"):
        answered(questions, chosen | {next(iter(chosen)): "maybe"})
    with pytest.raises(BadRow, match=r"answers\.mood: there is no such question"):
        answered(questions, chosen | {"mood": "yes"})
