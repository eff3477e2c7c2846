"""What stages share, and what training has read of held-out prompts."""

import random
from itertools import combinations

from align.data.messages import cluster_id_of, user
from align.data.overlap import WORDS, Contamination, Overlap, Use, contamination, overlaps

SENTENCE = "the quick brown fox jumps over the lazy dog while seven wizards boil their soup"
CHINESE = "请用三句话向一个七岁的孩子解释为什么天空是蓝色的"


def learnt(prompt: str, *answers: str) -> Use:
    return Use(user(prompt), answers, held_out=False)


def held_out(prompt: str) -> Use:
    return Use(user(prompt), [], held_out=True)


def test_shared_prompts_are_counted_once_whatever_their_writing() -> None:
    stages = {
        "SFT": [learnt("Hi"), learnt("hi "), learnt("Ho"), held_out("Hu")],
        "PPO": [learnt("HI"), learnt("hu"), learnt("Ha")],
        "RM": [],
    }
    assert overlaps(stages) == [
        Overlap("SFT", "PPO", shared=2, leaked=1),
        Overlap("SFT", "RM", 0, 0),
        Overlap("PPO", "RM", 0, 0),
    ]


def test_overlaps_are_those_of_a_double_loop() -> None:
    chance = random.Random(1)
    stages = {
        name: [
            Use(user(chance.choice("abcdefghABCD")), [], chance.random() < 0.3) for _ in range(12)
        ]
        for name in ("x", "y", "z")
    }
    for found, (ours, theirs) in zip(
        overlaps(stages), combinations(stages.values(), 2), strict=True
    ):
        both = {
            cluster_id_of(a.prompt)
            for a in ours
            for b in theirs
            if cluster_id_of(a.prompt) == cluster_id_of(b.prompt)
        }
        sides = [
            {use.held_out for use in [*ours, *theirs] if cluster_id_of(use.prompt) == one}
            for one in both
        ]
        assert (found.shared, found.leaked) == (len(both), sum(len(side) == 2 for side in sides))


def test_thirteen_words_in_a_row_are_contamination_and_twelve_are_not() -> None:
    words = SENTENCE.split()
    assert len(words) == 15
    stages = {
        "PPO": [held_out(SENTENCE), held_out("Another " * 20), held_out("short")],
        "SFT": [learnt("Quote.", "So: " + " ".join(words[:WORDS]).upper() + "!")],
    }
    # The mark belongs to the last word, so only twelve are the same.
    assert contamination(stages)["PPO"] == Contamination(held_out=3, long=2, contaminated=0)
    stages["SFT"] = [learnt("Quote.", "So:  " + " ".join(words[:WORDS]).upper() + " indeed")]
    assert contamination(stages) == {
        "PPO": Contamination(held_out=3, long=2, contaminated=1),
        "SFT": Contamination(0, 0, 0),
    }


def test_chinese_is_read_by_characters() -> None:
    stages = {"PPO": [held_out(CHINESE)], "SFT": [learnt("今天" + CHINESE[3 : 3 + WORDS])]}
    assert contamination(stages)["PPO"].contaminated == 1
    stages["SFT"] = [learnt(CHINESE[3 : 2 + WORDS])]
    assert contamination(stages)["PPO"].contaminated == 0


def test_what_is_held_out_everywhere_is_not_contaminated() -> None:
    assert contamination({"PPO": [held_out(SENTENCE)], "RM": [held_out(SENTENCE)]})[
        "PPO"
    ] == Contamination(1, 1, 0)
