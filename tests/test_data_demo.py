"""The demo's grammar: repeatable, varied, and no prompt in two splits."""

import re

import pytest

from align.data.demo import SPLITS, demo_instructions, demo_prompts
from align.data.messages import completion_problem, prompt_problem


def texts_of(split: str, count: int, seed: int = 0) -> list[str]:
    return [row["prompt"][0]["content"] for row in demo_prompts(count, seed, split)]


def answers_of(count: int, seed: int = 0) -> list[str]:
    return [row["completion"][0]["content"] for row in demo_instructions(count, seed)]


def test_the_same_seed_gives_the_same_rows_and_fewer_rows_are_the_first_of_more() -> None:
    assert demo_instructions(50, seed=3) == demo_instructions(80, seed=3)[:50]
    assert demo_prompts(50, 3, "ppo") == demo_prompts(80, 3, "ppo")[:50]
    assert demo_instructions(50, seed=3) != demo_instructions(50, seed=4)


def test_instructions_answer_the_prompts_of_the_split_sft() -> None:
    asked = [row["prompt"] for row in demo_prompts(40, 0, "sft")]
    assert [row["prompt"] for row in demo_instructions(40, 0)] == asked


def test_rows_are_good_conversations() -> None:
    for row in demo_instructions(200, 0):
        assert prompt_problem(row["prompt"]) is None
        assert completion_problem(row["completion"]) is None


def test_every_split_has_thousands_of_prompts_and_shares_none_with_another() -> None:
    prompts = {split: texts_of(split, 6000) for split in SPLITS}
    together = [text for texts in prompts.values() for text in texts]
    assert len(set(together)) == len(together)


def test_splits_share_no_topic_whatever_the_phrasing() -> None:
    def topic(text: str) -> tuple[str, ...]:
        words = set(re.findall(r"\w+", text))
        return tuple(sorted(words & vocabulary))

    vocabulary = set(re.findall(r"\w+", " ".join(texts_of("heldout", 200))))
    phrases = "Write a short story about named Tell me it It happens the who plays Can you called"
    vocabulary -= set(phrases.split())
    plain = [
        {topic(text) for text in texts_of(split, 6000) if text.startswith("Write a short story")}
        for split in SPLITS
    ]
    assert all(not a & b for i, a in enumerate(plain) for b in plain[:i])


def test_a_split_that_is_too_small_says_how_large_it_is() -> None:
    with pytest.raises(ValueError, match="has 6400 prompts in heldout, not 7000"):
        demo_prompts(7000, 0, "heldout")


def test_no_slot_is_left_open() -> None:
    assert not any(set("{}") & set(text) for text in answers_of(2000) + texts_of("sft", 2000))


def test_answers_vary_in_length_repetition_and_words() -> None:
    answers = answers_of(2000)
    sentences = [re.findall(r"[^.?]+[.?]", text) for text in answers]
    counts = [len(found) for found in sentences]
    assert set(counts) == {2, 3, 4, 5}
    repeating = sum(len(set(found)) < len(found) for found in sentences) / len(answers)
    assert 0.15 < repeating < 0.35
    assert len(set(answers)) > 0.99 * len(answers)


def test_answers_speak_of_whom_the_prompt_names() -> None:
    for row in demo_instructions(300, 0):
        answer = row["completion"][0]["content"].lower()
        prompt = row["prompt"][0]["content"].lower()
        assert set(re.findall(r"\w+", prompt)) & set(re.findall(r"\w+", answer)) - {"a", "the"}
