"""Simulated annotators: valid raw records, repeatable, as accurate as they claim."""

from collections import defaultdict
from itertools import combinations

import pytest

from align.data.by_prompt import by_prompt
from align.data.demo import demo_instructions, demo_prompts
from align.data.invariants import consistent
from align.data.record_batches import record_batch
from align.data.schemas import FEEDBACK, Record, completed
from align.data.validate import validate_record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.simulated import JUDGES, PANEL, TIE, simulate_feedback
from align.reward.taste import taste

PROMPTS = [row["prompt"] for row in demo_prompts(240, 0, "feedback")]
TEXTS = [row["completion"][0]["content"] for row in demo_instructions(960, 0)]
ANSWERS = [TEXTS[4 * i : 4 * i + 4] for i in range(240)]


@pytest.fixture(scope="module")
def feedback() -> dict[str, list[Record]]:
    return simulate_feedback(PROMPTS, ANSWERS, seed=0)


def texts_of(record: Record) -> list[str]:
    return [completion[-1]["content"] for completion in record["completions"]]


def test_every_record_is_valid(feedback: dict[str, list[Record]]) -> None:
    records = [
        completed(record, FEEDBACK[kind]) for kind, rows in feedback.items() for record in rows
    ]
    assert [problem for record in records for problem in validate_record(record)] == []
    kinds = [[one for one in records if one["kind"] == kind] for kind in feedback]
    with by_prompt(map(record_batch, kinds), None) as slices:
        assert [consistent(part, slices.repeated)[1] for part in slices] == [[]]


def test_prompts_take_the_four_forms_in_turn_and_several_people_judge_each(
    feedback: dict[str, list[Record]],
) -> None:
    assert tuple(feedback) == ("ranking", "comparison", "question", "rule")
    for rows in feedback.values():
        judges = defaultdict(set)
        for row in rows:
            judges[row["prompt_id"]].add(row["annotator_id"])
        assert len(judges) == len(PROMPTS) / 4
        assert {len(people) for people in judges.values()} == {JUDGES}
        assert set().union(*judges.values()) == {annotator.id for annotator in PANEL}


def test_the_same_seed_gives_the_same_records_and_more_prompts_only_add_some(
    feedback: dict[str, list[Record]],
) -> None:
    fewer = simulate_feedback(PROMPTS[:20], ANSWERS[:20], seed=0)
    assert all(feedback[kind][: len(rows)] == rows for kind, rows in fewer.items())
    other = simulate_feedback(PROMPTS[:20], ANSWERS[:20], seed=1)
    assert other["ranking"] != fewer["ranking"]


def test_annotators_are_as_accurate_in_battles_as_they_claim() -> None:
    feedback = simulate_feedback(PROMPTS * 4, ANSWERS * 4, seed=2)
    right: dict[str, list[bool]] = defaultdict(list)
    for record in feedback["comparison"]:
        first, second = map(taste, texts_of(record))
        if abs(first - second) >= TIE and record["outcome"] != "skip":
            right[record["annotator_id"]].append(record["outcome"] == ("ab"[first < second]))
    for annotator in PANEL:
        votes = right[annotator.id]
        assert sum(votes) / len(votes) == pytest.approx(annotator.accuracy, abs=0.07)


def test_rankings_follow_the_taste_better_the_more_accurate_their_author() -> None:
    feedback = simulate_feedback(PROMPTS * 4, ANSWERS * 4, seed=2)
    right: dict[str, list[bool]] = defaultdict(list)
    for record in feedback["ranking"]:
        tastes = [taste(text) for text in texts_of(record)]
        for (i, ours), (j, theirs) in combinations(enumerate(tastes), 2):
            if record["ranks"][i] != record["ranks"][j]:
                agrees = (record["ranks"][i] < record["ranks"][j]) == (ours > theirs)
                right[record["annotator_id"]].append(agrees)
    shares = [sum(right[annotator.id]) / len(right[annotator.id]) for annotator in PANEL]
    assert all(
        share > annotator.accuracy - 0.03 for share, annotator in zip(shares, PANEL, strict=True)
    )
    assert shares[0] > shares[-1] + 0.15


def test_near_equal_answers_give_ties(feedback: dict[str, list[Record]]) -> None:
    assert any(len(set(record["ranks"])) < 4 for record in feedback["ranking"])
    outcomes = [record["outcome"] for record in feedback["comparison"]]
    assert {"a", "b", "tie", "skip"} == set(outcomes)
    assert outcomes.count("skip") < 0.05 * len(outcomes)


def test_every_answer_meets_two_others(feedback: dict[str, list[Record]]) -> None:
    met: dict[str, int] = defaultdict(int)
    for record in feedback["comparison"][:4]:
        for name in record["completion_ids"]:
            met[name] += 1
    assert sorted(met.values()) == [2, 2, 2, 2]


def test_an_unfinished_story_fails_the_gate_and_has_no_ending() -> None:
    answers = [["Max went", "Max went home happy.", "Max cried.", "Max saw a ball."]]
    record, *_ = simulate_feedback(PROMPTS[:3], answers * 3, seed=0)["question"]
    gate, _, ending, _ = record["answers"][:4]
    assert gate["gate"] and gate["value"] == 0
    assert ending["value"] is None and ending["option"] == "not applicable"


def test_equal_answers_are_judged_once_and_one_answer_is_not_judged() -> None:
    assert simulate_feedback(PROMPTS[:1], [["Max ran.", "Max ran."]], seed=0) == {}
    records = simulate_feedback(PROMPTS[:2], [["Max ran.", "Max hid.", "Max ran."]] * 2, seed=0)
    assert [len(record["completions"]) for record in records["ranking"]] == [2] * JUDGES
    assert len(records["comparison"]) == JUDGES


def test_the_pairs_agree_with_the_taste(feedback: dict[str, list[Record]]) -> None:
    records = [
        completed(record, FEEDBACK[kind]) for kind, rows in feedback.items() for record in rows
    ]
    (part,) = convert(records, FeedbackConfig(), 0.1)
    pairs, counts = part.pairs.to_pylist(), part.counts
    assert all(counts[kind].pairs > 100 for kind in feedback)
    right = [
        taste(pair["chosen"][-1]["content"]) > taste(pair["rejected"][-1]["content"])
        for pair in pairs
        if pair["target_prob"] > 0.5
    ]
    assert sum(right) / len(right) > 0.7
