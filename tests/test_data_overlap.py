"""Overlap of prompts, contamination of evaluation sets, and rows that are nearly the same."""

import random
import tracemalloc

from align.data.exchanges import Instruction
from align.data.messages import assistant, user
from align.data.mixture.near import near
from align.data.overlap import RUN, Contamination, Overlap, contamination, overlaps
from align.data.text_hashes import content_hash, prompt_hash

CHANCE = random.Random(0)
WORDS = [f"word{i}" for i in range(500)]
CHARACTERS = [chr(0x4E00 + i) for i in range(1500)]


def english(count: int = 60) -> str:
    return " ".join(CHANCE.choices(WORDS, k=count))


def chinese(count: int = 90) -> str:
    return "".join(CHANCE.choices(CHARACTERS, k=count))


def changed(text: str) -> str:
    """One word of many, or one character."""
    if " " not in text:
        return text[:40] + "改" + text[41:]
    words = text.split()
    return " ".join([*words[:30], "changed", *words[31:]])


def test_what_two_sets_share_is_counted_as_the_same_and_as_near() -> None:
    ours = [english() for _ in range(10)] + [chinese() for _ in range(10)]
    theirs = [ours[0].upper(), changed(ours[1]), changed(ours[10]), f" {ours[11]}  ", english()]
    held_out = {"x": [english(), ours[2]], "y": [english(), ours[2]]}
    assert overlaps({"SFT": ours, "PPO": theirs}, held_out) == [
        Overlap("SFT", "PPO", 20, 2, 4),
        Overlap("SFT", "x", 20, 1, 1),
        Overlap("SFT", "y", 20, 1, 1),
        Overlap("PPO", "x", 5, 0, 0),
        Overlap("PPO", "y", 5, 0, 0),
    ]


def test_copies_within_a_set_count_once_and_an_empty_set_shares_nothing() -> None:
    text = english()
    assert overlaps({"a": [text, text.title()]}, {"b": [text]}) == [Overlap("a", "b", 1, 1, 1)]
    assert overlaps({"a": [], "b": [text]}, {}) == [Overlap("a", "b", 0, 0, 0)]


def test_thirteen_words_in_a_row_are_contamination_and_twelve_are_not() -> None:
    questions = [english(), chinese(), english(), chinese(), "It is too short, really."]
    words = questions[0].split()
    learnt = [
        english(),
        " ".join(["before", *words[20 : 20 + RUN], "after"]),
        "前" + questions[1][30 : 30 + RUN] + "后",
        " ".join(questions[2].split()[: RUN - 1]),
        questions[3][: RUN - 1],
        questions[4],
        *(english() for _ in range(20)),
    ]
    assert contamination(iter(learnt), {"a": questions, "b": questions[2:], "c": []}) == {
        "a": Contamination(texts=5, long=4, found=2),
        "b": Contamination(texts=3, long=2, found=0),
        "c": Contamination(0, 0, 0),
    }
    assert contamination([], {"a": questions}) == {"a": Contamination(5, 4, 0)}


def test_contamination_looks_at_no_case_and_no_punctuation() -> None:
    learnt = "So: THE quick, brown-fox jumps over the lazy dog; while seven wizards boil!"
    held_out = {"a": ["the quick brown fox jumps over the lazy dog while seven wizards boil soup"]}
    assert contamination([learnt], held_out)["a"].found == 1
    assert contamination([learnt.replace("dog", "cat")], held_out)["a"].found == 0


def test_held_out_texts_are_read_once_and_not_held() -> None:
    texts = [english(200) for _ in range(500)]
    tracemalloc.start()
    found = contamination(iter(texts[:50]), {"a": iter(texts)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"a": Contamination(500, 500, 50)}
    assert peak < 500 * 200 * 8 * 5, "a hash for each word, and room to sort them"


def row(prompt: str, answer: str, group: str = "") -> Instruction:
    asked = user(prompt)
    group = group or prompt[:60]
    return Instruction(asked, assistant(answer), "s", "t", "MIT", "x", group, asked=asked)


def test_rows_that_are_nearly_the_same_are_one_row_in_one_split() -> None:
    prompts = [english() for _ in range(40)] + [chinese() for _ in range(40)]
    rows = [row(text, text[::-1]) for text in prompts]
    copies = [row(changed(text), text[::-1]) for text in prompts]
    other = [row(changed(text), english()) for text in prompts]
    found = near([*rows, *copies, *other], {}, held_out=0.3)
    assert set(found.splits.values()) == {"train", "test"} and not found.leaks
    for first, copy, answer in zip(rows, copies, other, strict=True):
        assert found.splits[first.group] == found.splits[copy.group] == found.splits[answer.group]
        assert found.content[content_hash(copy)] == content_hash(first)
        assert found.content[content_hash(answer)] == content_hash(answer)


def test_an_old_row_keeps_its_split_when_rows_are_added() -> None:
    rows = [row(chinese(), "a") for _ in range(60)]
    before = near(rows[:40], {}, held_out=0.4)
    more = [row(changed(one.asked[0]["content"]), "b") for one in rows[:40]]
    after = near([*rows, *more], before.assigned, held_out=0.4)
    assert before.splits.items() <= after.splits.items()
    assert len(after.assigned) == 100


def test_a_row_is_its_prompt_and_its_answer_and_not_their_joined_text() -> None:
    one, other = row("Continue:", "one two"), row("Continue: one", "two")
    assert content_hash(one) != content_hash(other)
    assert content_hash(one) == content_hash(row(" CONTINUE:", "One  two"))
    assert prompt_hash(one) == prompt_hash(row("continue:", "three")) != prompt_hash(other)


def test_a_conversation_that_grows_stays_where_it_was_whatever_its_new_turn_is_near_to() -> None:
    """Its first turn is near to another one, whose cluster it was put into."""
    for i in range(20):
        first, other = english(), english()
        rows = [
            row(first, "a", f"A{i}"),
            row(changed(first), "b", f"B{i}"),
            row(other, "c", f"C{i}"),
        ]
        before = near(rows, {}, held_out=0.5)
        for turn in (english(), changed(other)):
            after = near([*rows, row(turn, "d", f"B{i}")], before.assigned, held_out=0.5)
            assert before.splits == after.splits
            splits = {one.split for one in after.assigned.values() if one.text == turn}
            assert splits == {before.splits[f"B{i}"]}


def test_two_groups_that_share_a_prompt_are_both_in_its_split() -> None:
    text = english()
    found = near([row(text, "a", "A"), row(text, "b", "B")], {}, held_out=0.5)
    assert found.splits["A"] == found.splits["B"]
