"""One text under several ids is one prompt, one cluster and one answer."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, cluster_id_of, user
from align.data.rejects import Rejects
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.strengths import strengths

WRITINGS = ["Straße  ist", "STRASSE ist", " strasse\tist ", "Stras\u017fe ist"]


def ranked(name: str, prompt: str, ids: str, texts: str, **fields: Any) -> Record:
    """The first of two answers is better; a letter each for their ids and texts."""
    made = header(
        "ranking",
        name,
        user(prompt),
        [assistant(text) for text in texts],
        source="test",
        license="none",
        annotator_id=f"annotator of {name}",
        guideline_version="1",
        completion_ids=list(ids),
    )
    return made | {"cluster_id": None, "ranks": list(range(1, len(ids) + 1))} | fields


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def pairs(records: Iterable[Record], **options: Any) -> list[Preference]:
    more = {name: options.pop(name) for name in ("run_bytes", "fit", "rejects") if name in options}
    parts = convert(records, FeedbackConfig.model_validate(options), 0.5, **more)
    return [row for part in parts for row in part.pairs.to_pylist()]


def under_every_writing(tail: str) -> list[Record]:
    return [
        ranked(f"{tail}{place}", f"{text} {tail}", "ab", "xy", prompt_id=f"{tail}-{place}")
        for place, text in enumerate(WRITINGS)
    ]


def test_a_prompt_under_several_ids_is_never_in_both_splits() -> None:
    for tail in range(20):
        rows = pairs(under_every_writing(str(tail)))
        assert {row["prompt_id"] for row in rows} == {f"{tail}-0"} and len(rows) == 1


def test_more_rows_of_a_text_never_move_the_old_ones() -> None:
    for tail in range(20):
        records = under_every_writing(str(tail))
        splits = {
            (row["split"], row["cluster_id"])
            for some in permutations(records, 2)
            for row in pairs(some[:1]) + pairs(some)
        }
        assert len(splits) == 1
        assert {cluster for _, cluster in splits} == {cluster_id_of(records[0]["prompt"])}


def test_later_names_of_a_text_neither_rename_nor_move_its_pairs_and_can_be_taken_away() -> None:
    """They are smaller, by the way; and `a` is another answer there."""
    old, later = [], []
    for tail in range(60):
        first, second = f"{WRITINGS[0]} {tail}", f"{WRITINGS[1]} {tail}"
        names = {"prompt_id": f"p{tail}", "cluster_id": f"p{tail}"}
        old.append(ranked(f"v{tail}", first, "ab", "xy", created_at=day(1), **names))
        old.append(ranked(f"w{tail}", first, "ba", "yx", created_at=day(3), **names))
        for number, (ids, texts) in enumerate([("AB", "xy"), ("aA", "zx")]):
            more = {"prompt_id": f"a{tail}{number}", "cluster_id": f"a{tail}"}
            one = ranked(f"{number}u{tail}", second, ids, texts, created_at=day(2), **more)
            later.append(one)
    before = {row["pair_id"]: names_of(row) for row in pairs(old)}
    assert len(before) == 60 and len({split for split, *_ in before.values()}) == 2
    for records in (old + later, later + old):
        after = {row["pair_id"]: row for row in pairs(records)}
        assert {name: names_of(after[name]) for name in before} == before
        assert {row["n_annotators"] for name, row in after.items() if name in before} == {3}
        assert len(after) == 2 * len(before)


def names_of(row: Preference) -> tuple[str, ...]:
    return (
        row["split"],
        row["cluster_id"],
        row["prompt_id"],
        *sorted((row["chosen_id"], row["rejected_id"])),
    )


def test_a_later_row_without_a_cluster_leaves_its_text_in_the_declared_one() -> None:
    for tail in range(20):
        one = ranked(
            "1", f"Hi {tail}", "ab", "xy", prompt_id="p", cluster_id="x", created_at=day(1)
        )
        two = ranked("2", f"hi {tail}", "ab", "xy", prompt_id="a", created_at=day(2))
        assert {(row["prompt_id"], row["cluster_id"]) for row in pairs([one, two])} == {("p", "x")}


def test_a_later_row_that_joins_two_clusters_moves_the_younger_one() -> None:
    """There is no other way, if no text is to be learnt from and held out at once."""
    records = [
        ranked("1", "Hi", "ab", "xy", prompt_id="p1", cluster_id="x", created_at=day(1)),
        ranked("2", "Ho", "ab", "xy", prompt_id="p2", cluster_id="a", created_at=day(2)),
        ranked("3", "hi", "ab", "xy", prompt_id="p3", cluster_id="a", created_at=day(3)),
    ]
    for few, cluster in ((2, "a"), (3, "x")):
        found = {row["prompt_id"]: row["cluster_id"] for row in pairs(records[:few])}
        assert found == {"p1": "x", "p2": cluster}


def test_clusters_that_share_a_text_are_held_out_together() -> None:
    """x and y share a prompt, y and z share another one: all three are one."""
    records = [
        ranked("1", "Hi", "ab", "xy", prompt_id="p1", cluster_id="x"),
        ranked("2", "hi", "ab", "xy", prompt_id="p2", cluster_id="y"),
        ranked("3", "Ho", "ab", "xy", prompt_id="p3", cluster_id="y"),
        ranked("4", "ho", "ab", "xy", prompt_id="p4", cluster_id="z"),
        ranked("5", "Other", "ab", "xy", prompt_id="p5", cluster_id="z"),
        ranked("6", "Apart", "ab", "xy", prompt_id="p6", cluster_id="a"),
    ]
    found = {row["prompt_id"]: row["cluster_id"] for row in pairs(records)}
    assert found == {"p1": "x", "p3": "x", "p5": "x", "p6": "a"}


def test_opposite_votes_on_two_texts_under_other_ids_are_one_even_pair() -> None:
    records = [
        ranked("1", "Hi", "ab", "xy", prompt_id="p1"),
        ranked("2", " HI", "cd", "yx", prompt_id="p2"),
    ]
    (pair,) = pairs(records)
    assert (pair["target_prob"], pair["agreement"], pair["n_annotators"]) == (0.5, 0.5, 2)
    assert (pair["prompt_id"], pair["chosen_id"], pair["rejected_id"]) == ("p1", "a", "b")
    assert pair["feedback_ids"] == ["1", "2"]
    assert pair["annotator_ids"] == ["annotator of 1", "annotator of 2"]


def test_ids_that_cross_over_do_not_mix_answers_up() -> None:
    """The id `a` is one text in one prompt and another text in its twin."""
    records = [
        ranked("1", "Hi", "ab", "xy", prompt_id="p1"),
        ranked("2", "hi", "ab", "yz", prompt_id="p2"),
    ]
    texts = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs(records)}
    assert texts == {("x", "y"), ("y", "z")}


def test_other_prompts_with_the_same_answers_stay_apart() -> None:
    records = [ranked("1", "Hi", "ab", "xy"), ranked("2", "Ho", "ab", "yx")]
    assert [row["target_prob"] for row in pairs(records)] == [1.0, 1.0]


def test_the_table_is_the_same_from_any_order_and_in_any_number_of_parts() -> None:
    chance = random.Random(1)
    records = []
    for i in range(300):
        prompt = chance.choice(WRITINGS[:2]) + f" {chance.randrange(20)}"
        texts = chance.sample("wxyz", 3)
        ids = [f"{text}{i % 3}" for text in texts]
        one = ranked(str(i), prompt, "abc", "".join(texts), prompt_id=f"{prompt} {i % 5}")
        records.append(one | {"completion_ids": ids})
    whole = pairs(records)
    assert len(whole) == 20 * 6
    for run_bytes in (2_000, 50_000):
        chance.shuffle(records)
        assert pairs(records, run_bytes=run_bytes) == whole


def test_contradictions_are_judged_by_the_ids_that_were_given(tmp_path: Any) -> None:
    records = [
        ranked("1", "Hi", "ab", "xy", prompt_id="p1"),
        ranked("2", "hi", "ab", "yx", prompt_id="p2"),  # another prompt: its ids are its own
        ranked("3", "Bye", "ab", "xy", prompt_id="p1"),
        ranked("4", "Hi", "ab", "xz", prompt_id="p1"),
    ]
    rejects = Rejects(tmp_path / "rejected.jsonl")
    (pair,) = pairs(records, rejects=rejects)
    assert pair["feedback_ids"] == ["1", "2"]
    assert [(one.line, one.field) for one in rejects.rejections] == [
        (3, "prompt_id"),
        (4, "completion_ids"),
    ]


@pytest.mark.parametrize("noise", ["none", "dawid_skene"])
def test_an_answer_that_met_itself_has_no_strength_from_it(noise: str) -> None:
    fields = {"kind": "comparison", "strength": None, "player_a": None, "player_b": None}
    records = [
        ranked(f"{i}", "Hi", ids, texts, outcome=outcome, **fields)
        for i, (ids, texts, outcome) in enumerate(
            [("ab", "xx", "a")] * 20 + [("ac", "xy", "a")] * 20 + [("bc", "xy", "b")] * 2
        )
    ]
    (pair,) = pairs(records, comparisons={"pairs": "fitted"}, noise=noise, fit=strengths)
    assert (pair["chosen_id"], pair["rejected_id"]) == ("a", "c")
    assert len(pair["feedback_ids"]) == 22
