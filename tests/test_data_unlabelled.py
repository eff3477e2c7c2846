"""ROUGE, and unlabelled text made into instructions."""

import json
import random
from functools import cache
from pathlib import Path

import pytest

from align.data.exchanges import Reading
from align.data.instruction_config import InstructionSource
from align.data.instructions import instructions_of
from align.data.rejects import Rejects
from align.data.rouge import common_subsequence, rouge_1_of_parts, rouge_l, words
from align.data.tasks.unlabelled import (
    GAP,
    ORDERED,
    Labeller,
    gap_sentence,
    missing_name,
    sentence_order,
    sentences,
)


def slow_common_subsequence(ours: str, theirs: str) -> int:
    @cache
    def longest(i: int, j: int) -> int:
        if i == len(ours) or j == len(theirs):
            return 0
        if ours[i] == theirs[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


def test_the_common_subsequence_is_that_of_the_table() -> None:
    chance = random.Random(0)
    for _ in range(200):
        ours, theirs = ("".join(chance.choices("abcd", k=chance.randrange(12))) for _ in range(2))
        assert common_subsequence(ours, theirs) == slow_common_subsequence(ours, theirs)


def test_rouge_of_hand_counted_texts() -> None:
    ours, theirs = words("The cat sat."), words("the cat will SIT")
    assert rouge_l(ours, theirs) == pytest.approx(2 * 2 / 7)
    parts = [words(part) for part in ("a a b", "a", "b b", "c")]
    assert rouge_1_of_parts(parts) == pytest.approx([2 * 2 / 7, 2 * 1 / 7, 2 * 1 / 7, 0])
    assert rouge_l(ours, ours) == 1 and rouge_l(ours, []) == 0
    assert words("Ünïcode is 2x 好的, ok_go") == ["ünïcode", "is", "2x", "好", "的", "ok", "go"]


def planted(chance: random.Random, number: int) -> tuple[str, str]:
    """A text of five sentences, one of which names what the others are about."""
    subjects = [f"thing{number}x{i}" for i in range(4)]
    details = [
        " ".join([subject.capitalize(), "moved", *chance.sample(NOISE, 5)]) + "."
        for subject in subjects
    ]
    topic = f"We saw {' and '.join(subjects)} that moved."
    details.insert(chance.randrange(5), topic)
    return " ".join(details), topic


NOISE = [f"noise{i}" for i in range(200)]


def test_the_planted_topic_sentence_is_the_summary() -> None:
    chance = random.Random(0)
    right = 0
    for number in range(50):
        text, topic = planted(chance, number)
        made = gap_sentence(text)
        assert made is not None
        assert (
            made.fields["summary"] in text and made.fields["summary"] not in made.fields["document"]
        )
        right += made.fields["summary"] == topic
    assert right >= 45
    first = sum(sentences(planted(chance, n)[0])[0] == planted(chance, n)[1] for n in range(50))
    assert first < 30, "always the first sentence would not do"


def test_the_missing_name_is_of_the_text_and_the_wrong_ones_are_not() -> None:
    text = "One day Lily met her friend Tom. They saw Tom run. Then Lily left."
    others = ["Ben", "Tom", "Max", "Sue", "Ann"]
    golds = set()
    for seed in range(30):
        made = missing_name(text, others, seed)
        assert made is not None and len(set(made.choices)) == 4
        gold = made.fields["label"]
        assert gold in made.choices and gold in text and gold not in made.fields["text"]
        assert GAP in made.fields["text"]
        assert all(choice == gold or choice not in text for choice in made.choices)
        golds.add((gold, made.choices.index(gold)))
    assert len({gold for gold, _ in golds}) == 2 and len(golds) > 5, "no constant answer is right"
    assert missing_name(text, ["Tom", "Ben"], 0) is None
    assert missing_name("no names here at all", others, 0) is None


def test_neighbours_are_in_order_or_swapped_each_as_often() -> None:
    text = "甲先来了。乙后来了。丙没有来。丁走了。"
    labels = []
    for seed in range(200):
        made = sentence_order(text, ORDERED["zh"], seed)
        assert made is not None
        first, second = made.fields["text"].split("\n")
        assert (text.index(first) > text.index(second)) == (made.fields["label"] == "顺序颠倒")
        labels.append(made.fields["label"])
    assert 70 < labels.count("顺序颠倒") < 130


def test_sentences_of_both_languages() -> None:
    assert sentences('He came. "Why?" she asked. It is 3.5 m!') == [
        "He came.",
        '"Why?"',
        "she asked.",
        "It is 3.5 m!",
    ]
    assert sentences("春眠不觉晓。处处闻啼鸟!") == ["春眠不觉晓。", "处处闻啼鸟!"]


def test_texts_become_instructions_of_several_kinds(tmp_path: Path) -> None:
    chance = random.Random(1)
    names = ["Lily", "Tom", "Ben", "Max", "Sue", "Ann", "Joe", "Eva"]
    rows = []
    for number in range(60):
        text, _ = planted(chance, number)
        rows.append({"text": f"{text} Then came {chance.choice(names)}."})
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "Too short."}]))
    source = InstructionSource(format="unlabelled", path=path)
    rejects = Rejects(tmp_path / "rejected.jsonl", max_rejected=0.05)
    found = list(instructions_of(source, rejects, Reading(seed=2)))
    rejects.finish()
    assert {one.task_id for one in found} == {"gap-sentence", "missing-name", "sentence-order"}
    assert len({one.template_id for one in found}) > 3 and len(found) == 60
    assert "no rule makes an instruction of it" in (tmp_path / "rejected.jsonl").read_text()


def test_what_comes_later_does_not_change_what_was_made() -> None:
    texts = [planted(random.Random(i), i)[0] for i in range(20)]
    few, many = Labeller("en", 1), Labeller("en", 1)
    made = [few.label(text) for text in texts[:10]]
    assert [many.label(text) for text in texts][:10] == made
