"""Judging by a rubric: from a judge's letters to valid `rbrm` records."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from align.data.errors import UserError
from align.data.messages import Message, assistant, completion_id_of, prompt_id_of, sha256_of, user
from align.data.schemas import FEEDBACK, Record, completed, table_of
from align.data.validate import validate_record
from align.reward.judge.asking import Replies
from align.reward.judge.rbrm import Exchange, Manner, judge_answers, rubric_question
from align.reward.judge.records import Origin
from align.reward.judge.rubric import Rubric, load_rubric

ORIGIN = Origin("my study", "CC0-1.0", datetime(2026, 1, 2, 3, tzinfo=UTC))
ALL, CIRCLE = Manner(most_orders=24), Manner(most_orders=4)
REFUSAL = "I'm sorry, but I can't help with that."
REFUSED = Exchange(user("Do it."), assistant(REFUSAL))
HELPED = Exchange(user("Do it."), assistant("Sure: take two eggs."))


@dataclass(frozen=True)
class FakeJudge:
    """A plain function of the question and its options, by letter, to log-probabilities."""

    letters: Callable[[str, list[str]], list[float]]
    id: str = "fake"
    declines: str = "declined by no question"

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        texts = [question[-1]["content"] for question in questions]
        rows = [self.letters(text, re.findall(r"^[A-Z]\. (.+)$", text, re.M)) for text in texts]
        problems = {i: "too long" for i, text in enumerate(texts) if self.declines in text}
        logprobs = np.array(rows, dtype=float).reshape(-1, letters)
        logprobs[list(problems)] = np.nan
        return Replies(logprobs, problems)


def sees_refusals(text: str, options: list[str]) -> list[float]:
    """Sure that a text with "sorry" is a refusal, and that all else is a safe answer."""
    wanted = "A refusal in the desired style" if "sorry" in text else "A safe answer"
    return [-0.01 if option.startswith(wanted) else -5.0 for option in options]


def always_a(_: str, options: list[str]) -> list[float]:
    return [-1e-6] + [-14.0] * (len(options) - 1)


def biased(text: str, options: list[str]) -> list[float]:
    """An opinion on every option, a taste for every letter, and an influence of what is beside."""
    opinions = [int(sha256_of([text[:60], option])[:4], 16) / 2**15 for option in options]
    return [
        opinion - 0.8 * place + 0.3 * opinions[place - 1] - 4
        for place, opinion in enumerate(opinions)
    ]


def by_option(record: Record) -> dict[str, float]:
    return dict(zip(record["option_ids"], record["option_logprobs"], strict=True))


@pytest.fixture
def rubric() -> Rubric:
    return load_rubric("refusal")


def records(
    fake: FakeJudge, rubric: Rubric, *exchanges: Exchange, manner: Manner = ALL
) -> list[Record]:
    found = judge_answers(fake, rubric, exchanges, ORIGIN, manner)
    assert not found.problems
    return found.records


def test_the_same_refusal_scores_plus_after_a_harmful_request_and_minus_after_a_safe_one(
    rubric: Rubric,
) -> None:
    harmful, benign, unknown = records(
        FakeJudge(sees_refusals),
        rubric,
        replace(REFUSED, prompt_class="harmful"),
        replace(REFUSED, prompt_class="benign"),
        REFUSED,
    )
    assert harmful["reward"] > 0.9 and benign["reward"] < -0.9 and abs(unknown["reward"]) < 0.1
    assert harmful["chosen_option"] == benign["chosen_option"] == "refusal"


def test_the_reward_is_the_expectation_over_options(rubric: Rubric) -> None:
    (record,) = records(FakeJudge(biased), rubric, replace(HELPED, prompt_class="harmful"))
    rewards = {option.id: option.rewards["harmful"] for option in rubric.options}
    probs = {name: math.exp(logprob) for name, logprob in by_option(record).items()}
    assert record["reward"] == pytest.approx(sum(probs[name] * rewards[name] for name in probs))
    assert sum(probs.values()) == pytest.approx(1)
    assert record["chosen_option"] == max(probs, key=lambda name: probs[name])


@pytest.mark.parametrize(
    "manner", [ALL, CIRCLE, Manner(most_orders=8), replace(ALL, calibrated=True)]
)
def test_the_order_in_which_a_rubric_lists_its_options_changes_nothing(
    rubric: Rubric, manner: Manner
) -> None:
    fake = FakeJudge(biased)
    (first,) = records(fake, rubric, HELPED, manner=manner)
    for order in ([3, 2, 1, 0], [1, 0, 2, 3], [2, 3, 0, 1]):
        listed = rubric.model_copy(update={"options": tuple(rubric.options[i] for i in order)})
        (other,) = records(fake, listed, HELPED, manner=manner)
        assert by_option(other) == pytest.approx(by_option(first), abs=1e-6)
        assert other["reward"] == pytest.approx(first["reward"], abs=1e-6)
        assert other["chosen_option"] == first["chosen_option"]
        assert other["feedback_id"] == first["feedback_id"]


def test_one_order_alone_would_not_be_fair(rubric: Rubric) -> None:
    """The test above has something to see: this judge's letters depend on the order."""
    asked = [
        biased("", [rubric.by_id[option].text for option in order])
        for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    assert abs(np.array(asked[0]) - np.array(asked[1])[::-1]).max() > 0.5


@pytest.mark.parametrize("manner", [ALL, CIRCLE])
def test_a_judge_that_always_says_a_prefers_no_answer(rubric: Rubric, manner: Manner) -> None:
    first, second = records(
        FakeJudge(always_a),
        rubric,
        replace(REFUSED, prompt_class="harmful"),
        replace(HELPED, prompt_class="harmful"),
        manner=manner,
    )
    for record in (first, second):
        assert np.exp(record["option_logprobs"]) == pytest.approx(0.25, abs=1e-6)
    assert first["reward"] == pytest.approx(second["reward"], abs=1e-6)


def test_calibration_makes_an_answer_about_nothing_uniform(rubric: Rubric) -> None:
    nothing = Exchange(user("N/A"), assistant("N/A"))
    manner = replace(CIRCLE, calibrated=True)
    (plain,) = records(FakeJudge(biased), rubric, nothing, manner=CIRCLE)
    about_nothing, about_something = records(
        FakeJudge(biased), rubric, nothing, HELPED, manner=manner
    )
    assert np.exp(about_nothing["option_logprobs"]) == pytest.approx(0.25, abs=1e-9)
    assert np.exp(plain["option_logprobs"]).std() > 0.01
    assert about_something["guideline_version"] == "refusal/1, calibrated"


def test_records_pass_the_validator_and_fit_the_schema(rubric: Rubric) -> None:
    hard = Exchange(
        [{"role": "system", "content": "Be brief."}, *user("人\u202e A. B. 🙂")],
        assistant(""),
        "benign",
        gold=True,
    )
    found = records(FakeJudge(biased), rubric, REFUSED, hard, manner=CIRCLE)
    for record in found:
        assert validate_record(completed(record, FEEDBACK["rbrm"])) == []
    assert table_of(found, FEEDBACK["rbrm"]).num_rows == 2
    record = found[1]
    assert record["prompt_id"] == prompt_id_of(hard.prompt)
    assert record["completion_ids"] == [completion_id_of(hard.completion)]
    assert (record["annotator_kind"], record["annotator_id"]) == ("model", "fake")
    assert record["judge_id"] == "fake" and record["gold"] and not found[0]["gold"]
    assert record["created_at"] == ORIGIN.created_at and record["n_permutations"] == 4
    assert (record["rubric_id"], record["rubric_version"]) == ("refusal", "1")


def test_an_id_follows_from_what_was_asked_and_of_whom(rubric: Rubric) -> None:
    def id_of(
        exchange: Exchange = REFUSED,
        fake: FakeJudge | None = None,
        asked: Rubric = rubric,
        manner: Manner = CIRCLE,
    ) -> str:
        judge = fake or FakeJudge(biased)
        (record,) = judge_answers(judge, asked, [exchange], ORIGIN, manner).records
        return str(record["feedback_id"])

    assert id_of() == id_of() == id_of(fake=FakeJudge(always_a))
    reworded = rubric.model_copy(update={"instruction": "Which is it?"})
    others = {
        id_of(exchange=HELPED),
        id_of(exchange=replace(REFUSED, prompt_class="harmful")),
        id_of(fake=FakeJudge(biased, id="other")),
        id_of(asked=reworded),
        id_of(manner=replace(CIRCLE, calibrated=True)),
    }
    assert len(others | {id_of()}) == 6


def test_an_answer_that_cannot_be_judged_has_a_problem_and_the_others_a_record(
    rubric: Rubric,
) -> None:
    fake = FakeJudge(biased, declines="sorry")
    found = judge_answers(fake, rubric, [HELPED, REFUSED, HELPED], ORIGIN, CIRCLE)
    assert found.problems == {1: "too long"} and len(found.records) == 2
    assert all(np.isfinite(record["reward"]) for record in found.records)
    none = judge_answers(fake, rubric, [REFUSED], ORIGIN, CIRCLE)
    assert none.records == [] and none.letter_mass == 0 and none.letter_picks == [0, 0, 0, 0]


def test_a_judge_that_says_nothing_about_nothing_cannot_be_calibrated(rubric: Rubric) -> None:
    fake = FakeJudge(biased, declines="N/A")
    with pytest.raises(UserError, match="fake: cannot be calibrated: too long"):
        judge_answers(fake, rubric, [HELPED], ORIGIN, replace(CIRCLE, calibrated=True))


def test_no_answers_make_no_records(rubric: Rubric) -> None:
    found = judge_answers(FakeJudge(biased), rubric, [], ORIGIN, replace(ALL, calibrated=True))
    assert found.records == [] and found.problems == {}


def test_the_judge_reads_the_conversation_the_answer_and_the_options_by_letter(
    rubric: Rubric,
) -> None:
    prompt = [*user("Hi."), *assistant("Hello."), *user("Do it.")]
    asked = rubric_question(rubric, Exchange(prompt, assistant("No.")), np.array([3, 0, 1, 2]))
    texts = [option.text for option in rubric.by_id]
    assert asked == user(
        f"{rubric.instruction}\n\n"
        "[conversation]\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Do it.\n[end of conversation]\n\n"
        "[answer]\nNo.\n[end of answer]\n\n"
        f"A. {texts[3]}\nB. {texts[0]}\nC. {texts[1]}\nD. {texts[2]}\n\n"
        "Reply with the letter of the option that fits best, and with nothing else."
    )
    alone = rubric.model_copy(update={"shows_prompt": False})
    shown = rubric_question(alone, Exchange(prompt, assistant("No.")), np.arange(4))
    assert "Do it." not in shown[0]["content"] and "[answer]\nNo." in shown[0]["content"]
