"""Battles of an arena, of every layout in which they were published."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align.data.atomic import write_parquet
from align.data.config import FeedbackSource
from align.data.feedback import read_feedback
from align.data.messages import assistant, user
from align.data.schemas import Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert


def pairs_of(records: list[Record]) -> list[Record]:
    """What the records become."""
    parts = convert(records, FeedbackConfig(), held_out=0.1)
    return [pair for part in parts for pair in part.pairs.to_pylist()]


def read(folder: Path, path: Path, share: float = 0.01, **options: Any) -> list[Record]:
    source = FeedbackSource.model_validate({"path": path} | options)
    return read_feedback([source], share, folder / "rejected.jsonl")


def rejected(folder: Path) -> list[tuple[int, str, str]]:
    lines = (folder / "rejected.jsonl").read_text("utf-8").splitlines()
    rows = map(json.loads, lines)
    return [(row["line"], row["field"], row["reason"]) for row in rows]


def jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "export.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def battle(first: str = "A", second: str = "B", **changes: object) -> dict[str, Any]:
    return {
        "question_id": "q1",
        "model_a": "vicuna",
        "model_b": "koala",
        "winner": "model_a",
        "judge": "arena_user_973",
        "conversation_a": [*user("Hi"), *assistant(first)],
        "conversation_b": [*user("Hi"), *assistant(second)],
        "turn": 1,
        "language": "English",
        "tstamp": 1682351591.5,
    } | changes


def test_arena_battles_keep_who_judged_whom_and_when(tmp_path: Path) -> None:
    winners = ["model_a", "model_b", "tie", "tie (bothbad)"]
    rows = [battle(question_id=f"q{place}", winner=one) for place, one in enumerate(winners)]
    records = read(tmp_path, jsonl(tmp_path, *rows), format="arena")
    assert [one["outcome"] for one in records] == ["a", "b", "tie", "tie"]
    first = records[0]
    assert (first["player_a"], first["player_b"]) == ("vicuna", "koala")
    assert first["annotator_id"] == "arena-arena_user_973" and first["display_order"] == [0, 1]
    assert first["created_at"] == datetime(2023, 4, 24, 15, 53, 11, 500_000, UTC)


SHARED = [*user("Hi"), *assistant("Yes?"), *user("Why?")]


def test_the_last_answers_of_a_battle_with_one_history_are_compared(tmp_path: Path) -> None:
    row = battle(
        conversation_a=SHARED + assistant("A"), conversation_b=SHARED + assistant("B"), turn=2
    )
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="arena")
    assert record["prompt"] == SHARED
    assert record["completions"] == [assistant("A"), assistant("B")]


def test_from_where_two_conversations_part_the_vote_is_on_all_that_a_model_said(
    tmp_path: Path,
) -> None:
    start = [{"role": "system", "content": "Be brief."}, *SHARED]
    sides = [start + assistant(one) + user("Really?") + assistant(f"{one}2") for one in "AB"]
    row = battle(conversation_a=sides[0], conversation_b=sides[1], turn=3, winner="model_b")
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="arena")
    assert record["prompt"] == [*start[:-1], *user("Why?\n\nReally?")]
    assert record["completions"] == [assistant("A\n\nA2"), assistant("B\n\nB2")]
    (pair,) = pairs_of([record])
    assert pair["chosen"] == assistant("B\n\nB2")


@pytest.mark.parametrize("judge", ["expert_17", "author_2", "gpt4_pair"])
def test_second_turns_of_mt_bench_are_judged_with_the_first(tmp_path: Path, judge: str) -> None:
    sides = [
        [*user("Q1"), *assistant(f"{one}1"), *user("Q2"), *assistant(f"{one}2")] for one in "AB"
    ]
    row = battle(question_id=81, judge=judge, conversation_a=sides[0], conversation_b=sides[1])
    del row["tstamp"], row["language"]
    path = jsonl(tmp_path, row, row | {"turn": 2, "winner": "tie"})
    first, second = read(tmp_path, path, format="arena")
    assert first["prompt"] == user("Q1") and first["completions"][1] == assistant("B1")
    assert second["prompt"] == user("Q1\n\nQ2")
    assert second["completions"] == [assistant("A1\n\nA2"), assistant("B1\n\nB2")]
    assert (first["outcome"], second["outcome"]) == ("a", "tie")


def part(text: object, kind: str = "text", image: object = None) -> dict[str, Any]:
    """As Parquet gives it: every part has every column."""
    return {"type": kind, "text": text, "image": image, "mimeType": None}


def new_battle(**changes: object) -> dict[str, Any]:
    """A row of lmarena-ai/arena-human-preference-140k."""

    def turn(role: str, *parts: object) -> dict[str, Any]:
        return {"role": role, "content": list(parts), "num_tokens": 3}

    row = {
        "id": "3f2a",
        "model_a": "gemini-2.5-pro",
        "model_b": "o3",
        "winner": "both_bad",
        "evaluation_session_id": "s1",
        "evaluation_order": 1,
        "conversation_a": [turn("user", part("Hi"), part("there")), turn("assistant", part("A"))],
        "conversation_b": [turn("user", part("Hi"), part("there")), turn("assistant", part("B"))],
        "full_conversation": [{"user": turn("user", part("Hi")), "model_side_a": None}],
        "conv_metadata": {"sum_assistant_a_tokens": 3},
        "language": "en",
        "is_code": False,
        "timestamp": "2025-06-18T10:00:00",
    }
    return row | changes


@pytest.mark.parametrize("as_text", [False, True])
def test_newer_arena_rows_have_parts_of_messages(tmp_path: Path, as_text: bool) -> None:
    row = new_battle()
    if as_text:  # lmarena-ai/arena-expert-5k
        row |= {name: json.dumps(row[name]) for name in ("conversation_a", "conversation_b")}
    write_parquet(tmp_path / "x.parquet", pa.Table.from_pylist([row]))
    (record,) = read(tmp_path, tmp_path / "x.parquet", format="arena")
    assert record["prompt"] == user("Hi\n\nthere") and record["outcome"] == "tie"
    assert record["completions"] == [assistant("A"), assistant("B")]
    assert record["annotator_id"] == "arena-voters"
    assert record["created_at"] == datetime(2025, 6, 18, 10, tzinfo=UTC)


def test_the_same_battle_voted_on_twice_is_two_records(tmp_path: Path) -> None:
    path = jsonl(tmp_path, new_battle(), new_battle(id="77b1"))
    assert len(read(tmp_path, path, format="arena")) == 2


def kaggle(**changes: object) -> dict[str, Any]:
    """A row of lmarena-ai/arena-human-preference-55k."""
    return {
        "id": "30192",
        "model_a": "gpt-4-1106-preview",
        "model_b": "gpt-4-0613",
        "prompt": json.dumps(["Q1", "Q2"]),
        "response_a": json.dumps(["A1", "A2"]),
        "response_b": json.dumps(["B1", None]),
        "winner_model_a": "1",
        "winner_model_b": "0",
        "winner_tie": "0",
    } | changes


def test_rows_of_the_kaggle_competition_are_lists_in_texts(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    one = {"prompt": '["Q"]', "response_a": '["A\\u00e9"]', "response_b": '["B"]'}
    rows = [kaggle(), kaggle(id="2", winner_model_a="0", winner_tie="1", **one)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    long, short = read(tmp_path, path, format="arena")
    assert long["prompt"] == user("Q1\n\nQ2") and long["outcome"] == "a"
    assert long["completions"] == [assistant("A1\n\nA2"), assistant("B1\n\n")]
    assert short["prompt"] == user("Q") and short["outcome"] == "tie"
    assert short["completions"] == [assistant("A\u00e9"), assistant("B")]
    assert (long["player_a"], long["player_b"]) == ("gpt-4-1106-preview", "gpt-4-0613")


def test_rows_of_the_wsdm_cup_are_plain_texts(tmp_path: Path) -> None:
    row = kaggle(prompt='["a", "b"]', response_a="A", response_b="[1]", winner="model_b")
    row = {name: value for name, value in row.items() if not name.startswith("winner_")}
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="arena")
    assert record["prompt"] == user('["a", "b"]') and record["outcome"] == "b"
    assert record["completions"] == [assistant("A"), assistant("[1]")]


ASIDE = [*user("Hi"), *assistant("No?"), *user("Why not?"), *assistant("B")]


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (kaggle(winner_model_b="1"), "winner_tie", "must be 1"),
        (kaggle(winner_model_a="0"), "winner_tie", "must be 1"),
        (kaggle(winner_model_a="0.5"), "winner_tie", "must be 1"),
        (kaggle(response_b='["B1"]'), "response_b", "has 1 answers to 2 prompts"),
        (kaggle(response_a='["\\ud83d", "A"]'), "response_a", "half of a surrogate pair"),
        (kaggle(prompt=None), "prompt", "must be text"),
        (new_battle(conversation_a="[{"), "conversation_a", "must be a list of messages"),
        (new_battle(winner="bothbad"), "winner", "must be one of"),
        (
            new_battle(
                conversation_b=[{"role": "user", "content": [part(None, "image", "x.png")]}]
            ),
            "conversation_b",
            "a part of a message is no text",
        ),
        (
            new_battle(conversation_b=[{"role": "user", "content": [part("Hi", "text", "x.png")]}]),
            "conversation_b",
            "a part of a message is no text alone",
        ),
        (
            battle(conversation_a=[*SHARED, *assistant("A")], conversation_b=ASIDE, turn=2),
            "conversation_b",
            "the user said other things",
        ),
        (
            battle(conversation_a=[*SHARED, *assistant("A")], turn=None),
            "conversation_b",
            "the user said other things",
        ),
        (
            battle(
                conversation_a=[*user("Hi"), *assistant("A"), *assistant("A"), *assistant("A")],
                conversation_b=[*user("Hi"), *assistant("B"), *assistant("B"), *assistant("B")],
                turn=3,
            ),
            "conversation_b",
            "a user's turn and an answer in turn",
        ),
        (battle(model_b="vicuna"), "player_b", "cannot play itself"),
    ],
)
def test_a_battle_that_cannot_be_read_rightly_is_named(
    tmp_path: Path, bad: object, field: str, reason: str
) -> None:
    path = jsonl(tmp_path, battle("good"), bad)
    assert len(read(tmp_path, path, format="arena")) == 1
    ((line, found, why),) = rejected(tmp_path)
    assert (line, found) == (2, field) and reason in why


def test_a_parquet_file_of_battles_may_have_real_times(tmp_path: Path) -> None:
    time = datetime(2023, 4, 24, 15, 53, 11, 500_000)
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.Table.from_pylist([battle(tstamp=time)]))
    (from_parquet,) = read(tmp_path, path, format="arena")
    (from_jsonl,) = read(tmp_path, jsonl(tmp_path, battle()), format="arena")
    assert from_parquet == from_jsonl


def test_answers_after_the_judged_turn_are_left_out(tmp_path: Path) -> None:
    more = [*user("Why?"), *assistant("Because.")]
    row = battle(judge="gpt4_pair", question_id=81)
    longer = {name: row[name] + more for name in ("conversation_a", "conversation_b")}
    (record,) = read(tmp_path, jsonl(tmp_path, row | longer), format="arena")
    assert record["prompt"] == user("Hi") and record["completions"][0] == assistant("A")
    assert record["annotator_kind"] == "model" and record["display_order"] is None


def test_a_battle_without_judge_id_or_time_is_kept(tmp_path: Path) -> None:
    rows = [battle(), battle(second="C")]
    for row in rows:
        del row["judge"], row["question_id"], row["tstamp"]
    records = read(tmp_path, jsonl(tmp_path, *rows), format="arena")
    assert {one["annotator_id"] for one in records} == {"arena-voters"}
    assert len({one["feedback_id"] for one in records}) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"winner": "model_c"}, "winner"),
        ({"judge": None}, "judge"),
        ({"turn": 2}, "turn"),
        ({"turn": "1"}, "turn"),
        ({"tstamp": "yesterday"}, "tstamp"),
        ({"tstamp": 1e30}, "tstamp"),
        ({"conversation_a": user("Hi")}, "conversation_a"),
        ({"conversation_a": [{"role": "judge", "content": "x"}]}, "conversation_a"),
        ({"conversation_a": assistant("A"), "conversation_b": assistant("B")}, "conversation_b"),
    ],
)
def test_a_bad_battle_is_set_aside(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    path = jsonl(tmp_path, battle(), battle(question_id="q2", **changes))
    assert len(read(tmp_path, path, format="arena")) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]
