"""Criteria as questionnaires: what scores above what."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align.data.config import FeedbackSource
from align.data.criteria import CRITERIA, is_criterion
from align.data.feedback import feedback_batches
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.questionnaires import (
    HARMLESS,
    HELPFUL,
    HONEST,
    QUESTIONNAIRES,
    Failure,
    Question,
    questionnaire_problems,
)
from align.data.record_batches import record_batch
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, Record, completed
from align.data.screen import surely_valid
from align.data.validate import validate_record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.questions import weighted_scores


def answered(questions: Sequence[Question], options: dict[str, str]) -> list[dict[str, Any]]:
    return [question.given(options[question.id]) for question in questions]


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


def test_every_failure_is_asked_about_by_a_criterion_of_the_closed_set() -> None:
    criteria = {
        question.failure.value: question.criterion
        for question in QUESTIONNAIRES["hhh-1"]
        if question.failure
    }
    assert criteria == {
        "fabricated": "honest",
        "misleading": "honest",
        "harmful": "harmless",
        "biased": "harmless",
    }
    assert {failure.value for failure in Failure} == set(criteria)
    with pytest.raises(ValueError, match="verbose"):
        Failure("verbose")


@pytest.mark.parametrize("name", ["nice", "", "rule:", "rule:a|b", "Helpful"])
def test_the_set_of_criteria_is_closed(name: str) -> None:
    assert not is_criterion(name)
    assert all(map(is_criterion, (*CRITERIA, "rule:a")))


def test_asking_for_what_is_missing_is_more_helpful_than_guessing() -> None:
    assert helpful("partly", "yes", asks="yes") > helpful("partly", "yes", asks="no")


AMBIGUOUS = {
    "Can you fix the bug in my script?": (
        "I would like to. Please paste the script, and what it prints when it fails.",
        "Sure! The bug is most likely an index that runs past the end of a list. Change the range "
        "of your loop to stop one earlier, save the file and run it again. That will fix it.",
    ),
    "How long does it take to get there by train?": (
        "From which station, and where do you want to go?",
        "It takes about two hours and forty minutes, with one change. Trains leave every hour at "
        "half past, and the first one in the morning is usually the emptiest of the day.",
    ),
    "Translate this for my grandmother.": (
        "Which text, and which language does she read?",
        "Querida abuela, espero que est\u00e9s bien. Te mando muchos saludos y un fuerte abrazo, y "
        "te cuento que por aqu\u00ed todo sigue como siempre, con mucho trabajo y poco sol.",
    ),
    "\u8fd9\u4e2a\u836f\u53ef\u4ee5\u5403\u51e0\u7c92\uff1f": (
        "\u8bf7\u95ee\u662f\u54ea\u79cd\u836f\uff1f",
        "\u4e00\u822c\u6765\u8bf4\u4e00\u6b21\u4e24\u7c92\uff0c\u4e00\u5929\u4e09\u6b21\uff0c\u996d\u540e\u670d\u7528\u3002",
    ),
}
"""Requests that lack something; an answer that asks for it, and a longer one that guesses."""


def questioned(prompt: str, texts: tuple[str, str], *options: tuple[str, str, str]) -> Record:
    """What somebody says of two answers: does it solve, is it concise, does it ask."""
    names = ("solves", "concise", "asks")
    made = header(
        "question", f"f-{prompt}", user(prompt), [assistant(text) for text in texts],
        source="test", license=None, annotator_id="ann", guideline_version="1",
    ) | {"questionnaire_version": "helpful-1", "criterion": "helpful"}  # fmt: skip
    answers = [
        one for about in options for one in answered(HELPFUL, dict(zip(names, about, strict=True)))
    ]
    return completed(made | {"answers": answers}, FEEDBACK["question"])


def pairs_of(records: list[Record]) -> list[Record]:
    assert [problem for record in records for problem in validate_record(record)] == []
    return [
        row for part in convert(records, FeedbackConfig(), 0.1) for row in part.pairs.to_pylist()
    ]


def test_who_asks_for_what_is_missing_is_chosen_over_a_longer_guess() -> None:
    records = [
        questioned(prompt, texts, ("no", "yes", "yes"), ("partly", "yes", "no"))
        for prompt, texts in AMBIGUOUS.items()
    ]
    chosen = {row["prompt"][0]["content"]: row["chosen"][0]["content"] for row in pairs_of(records)}
    assert chosen == {prompt: asks for prompt, (asks, _) in AMBIGUOUS.items()}


def test_length_alone_makes_no_answer_better() -> None:
    """The same answer, said at length: nothing that people were asked about is better in it."""
    for prompt, (_, guess) in AMBIGUOUS.items():
        padded = f"{guess} {guess} I hope that this helps! {guess}"
        alike = questioned(prompt, (guess, padded), *[("partly", "yes", "no")] * 2)
        (pair,) = pairs_of([alike])
        assert (pair["target_prob"], pair["margin"]) == (0.5, 0.0)
        longer = questioned(
            prompt, (padded, guess), ("partly", "no", "no"), ("partly", "yes", "no")
        )
        assert [row["chosen"] for row in pairs_of([longer])] == [assistant(guess)]


def test_length_alone_moves_no_pair_of_real_answers(shared: Path) -> None:
    """Replies of OpenAssistant, all judged alike: the longest is as good as the shortest."""
    source = FeedbackSource(format="oasst", path=shared / "data" / "feedback" / "oasst", rows=40)
    batches = feedback_batches([source], Rejects(None, 0.01))
    records = [row for batch in batches for row in batch.to_pylist()]
    made, gaps = [], []
    for place, one in enumerate(records):
        texts = sorted((turns[0]["content"] for turns in one["completions"]), key=len)
        gaps.append(len(texts[-1]) - len(texts[0]))
        prompt = f"{place}: {one['prompt'][-1]['content']}"
        made.append(questioned(prompt, (texts[-1], texts[0]), *[("yes", "partly", "no")] * 2))
    assert max(gaps) > 500
    pairs = pairs_of(made)
    assert len(pairs) == len([gap for gap in gaps if gap])
    assert {(row["target_prob"], row["score_chosen"] - row["score_rejected"]) for row in pairs} == {
        (0.5, 0.0)
    }


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


@pytest.mark.parametrize("version", QUESTIONNAIRES)
def test_a_missing_answer_rejects_the_row_and_is_not_scored_0(version: str) -> None:
    questions = QUESTIONNAIRES[version]
    block = answered(questions, {one.id: next(iter(one.options)) for one in questions})
    assert not math.isnan(score(block)) and list(questionnaire_problems(version, block)) == []
    for place, one in enumerate(block):
        rest = block[:place] + block[place + 1 :]
        (problem,) = questionnaire_problems(version, rest)
        assert problem == (one["question_id"], f"{version} asks this: must be answered")
    assert list(questionnaire_problems("somebody's", block[:1])) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"option": "maybe"}, 'must be one of yes, partly, no, found "maybe"'),
        ({"question_id": "mood"}, "helpful-1 asks no such question"),
        ({"value": 0.25}, "value must be 1.0, found 0.25"),
        ({"weight": 9.0}, "weight must be 2, found 9.0"),
        ({"criterion": "honest"}, "criterion must be helpful, found honest"),
    ],
)
def test_records_are_held_to_the_questionnaire_that_they_name(
    changes: dict[str, Any], reason: str
) -> None:
    texts = ("a", "b")
    record = questioned("Hi", texts, ("yes", "yes", "yes"), ("no", "no", "no"))
    assert list(validate_record(record)) == []
    bad = record | {"answers": [record["answers"][0] | changes, *record["answers"][1:]]}
    found = dict(validate_record(bad))
    name = changes.get("question_id", "solves")
    assert found[f"answers.{name}"] == reason
    table = pa.Table.from_batches([record_batch([record, bad | {"feedback_id": "g"}])])
    assert not surely_valid(table, "question").any()  # which leaves both to `validate`
