"""The hidden taste: what it likes, and that it cannot be cheated with degenerate text."""

import statistics

import pytest

from align.data.demo import demo_instructions
from align.reward.taste import is_finished, repetition, taste

GOOD = (
    "One day, Max was in the garden. He found a shiny ball and laughed. "
    "Lily and Max danced all day. They hugged and went home happy."
)
CALM = (
    "One day, Max was in the garden. He saw a red ball near the tree. "
    "Lily came by and said hello. Then Max went home."
)
SAD = (
    "One day, Max was in the garden. He lost the ball and began to cry. "
    "Lily was mean and ran away. Max went home alone and cried."
)


def demo_answers(count: int) -> list[str]:
    return [row["completion"][0]["content"] for row in demo_instructions(count, 0)]


def test_cheerful_beats_calm_beats_gloomy() -> None:
    assert taste(GOOD) > taste(CALM) + 0.5 > taste(SAD) + 1


def test_a_warm_ending_is_better_than_an_open_and_a_sad_one() -> None:
    start = "Max was a dog. He saw a red ball near the tree. "
    warm, open_, sad = (
        taste(start + ending)
        for ending in (
            "They went home happy.",
            "They went home again.",
            "They went home and cried.",
        )
    )
    assert warm > open_ > sad


def test_repeating_a_sentence_costs() -> None:
    sentence = "He found a shiny ball and laughed."
    assert taste(f"{GOOD} {sentence}") < taste(GOOD) - 0.1


def test_an_unfinished_or_empty_answer_is_bad() -> None:
    assert taste(GOOD[:-1]) == pytest.approx(taste(GOOD) - 1)
    assert taste("") == taste(" \n...") < taste(SAD)


@pytest.mark.parametrize(
    "spam",
    [
        "happy " * 40,
        "Happy. " * 20,
        "Happy.",
        "They were happy. " * 10,
        "happy glad fun smile. love hug joy kind. proud kiss nice song.",
        "He laughed.",
        ". . . . !",
        "a b c d e f g h i j k l m n o p.",
    ],
)
def test_degenerate_text_scores_below_a_good_and_a_calm_story(spam: str) -> None:
    assert taste(spam) < taste(GOOD) - 1
    assert taste(spam) <= taste(CALM)


def test_the_taste_is_bounded() -> None:
    assert all(-4 < taste(text) <= 1.6 for text in (*demo_answers(500), "", "happy " * 500))


def test_the_demo_spreads_over_the_taste_with_few_ties() -> None:
    tastes = [taste(text) for text in demo_answers(1000)]
    assert statistics.pstdev(tastes) > 0.8
    ties = statistics.mean(a == b for a, b in zip(tastes[::2], tastes[1::2], strict=True))
    assert ties < 0.02


def test_repetition_is_the_share_of_word_pairs_said_before() -> None:
    assert repetition("the dog ran. The dog ran.") == pytest.approx(2 / 5)
    assert repetition("one") == repetition("") == 0


def test_a_question_and_a_quotation_end_a_story() -> None:
    assert is_finished('He said, "Stop!"') and is_finished("What will Max do next?\n")
    assert not is_finished("And then Max") and not is_finished("")
