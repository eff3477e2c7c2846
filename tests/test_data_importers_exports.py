"""The usual exports of human feedback become raw records, whatever odd things are in them."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from align.data.atomic import write_parquet
from align.data.config import FeedbackSource
from align.data.errors import DataError
from align.data.feedback import read_feedback
from align.data.importers.header import UNKNOWN_TIME
from align.data.messages import Message, assistant, user
from align.data.schemas import Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert

# Chinese, an emoji, right to left, a line separator, an accent of its own
ODD = "\u4f60\u597d\u3002\U0001f600 \u202e\u05e9\u05dc\u05d5\u05dd\u202c\u2028e\u0301"


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


def hh_row(chosen: str = "Yes.", rejected: str = "No.", before: str = "Hi") -> dict[str, Any]:
    start = f"\n\nHuman: {before}\n\nAssistant: "
    return {"chosen": start + chosen, "rejected": start + rejected}


def trl_row(prompt: str = "Hi", chosen: str = "Yes.", rejected: str = "No.") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


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


def rated(text: str = "A", model: str = "llama", **ratings: object) -> dict[str, Any]:
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    given = dict.fromkeys(names, "5") | ratings
    return {
        "model": model,
        "response": text,
        "annotations": {name: {"Rating": one, "Rationale": "."} for name, one in given.items()},
        "overall_score": 8,
        "fine-grained_score": 5.0,
    }


def ultrafeedback_row(*completions: object, prompt: str = "Hi") -> dict[str, Any]:
    return {"instruction": prompt, "source": "flan", "completions": list(completions)}


def annotation(*results: object, **changes: object) -> dict[str, Any]:
    return {
        "id": 7,
        "completed_by": 3,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-01T12:00:00.5Z",
        "lead_time": 12.5,
    } | changes


def picked(side: object) -> dict[str, Any]:
    value = {"selected": side}
    return {
        "from_name": "pw",
        "to_name": "answer1,answer2",
        "type": "pairwise",
        "value": value,
    }


def ls_task(*annotations: object, **data: object) -> dict[str, Any]:
    texts = {"prompt": "Hi", "answer1": "A", "answer2": "B"} | data
    return {"id": 1, "project": 83, "data": texts, "annotations": list(annotations)}


def argilla_row(responses: object, suggestions: object = None, **fields: str) -> dict[str, Any]:
    return {
        "id": "r1",
        "fields": {"prompt": "Hi", "response1": "A", "response2": "B"} | fields,
        "metadata": {},
        "suggestions": suggestions or {},
        "responses": responses,
        "vectors": {},
    }


def said(value: object, user_id: object = "u1", **more: object) -> list[dict[str, Any]]:
    return [{"value": value, "user_id": user_id} | more]


def plain(format: str, text: str = "Hi") -> dict[str, Any]:
    """A good row of each format, with one record in it, whose prompt is `text`."""
    if format == "hh":
        return hh_row(before=text)
    if format == "trl":
        return trl_row(text)
    if format == "arena":
        turns: list[list[Message]] = [[*user(text), *assistant(one)] for one in "AB"]
        return battle(conversation_a=turns[0], conversation_b=turns[1])
    if format == "ultrafeedback":
        return ultrafeedback_row(rated(), prompt=text)
    if format == "label_studio":
        return ls_task(annotation(picked("left")), prompt=text)
    return argilla_row({"better": said("response1")}, prompt=text)


every_format = pytest.mark.parametrize(
    "format", ["hh", "trl", "arena", "ultrafeedback", "label_studio", "argilla"]
)


@every_format
def test_texts_of_any_script_stay_as_they_are(tmp_path: Path, format: str) -> None:
    (record,) = read(tmp_path, jsonl(tmp_path, plain(format, ODD)), format=format)
    assert record["prompt"] == user(ODD)


@every_format
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    tmp_path: Path, format: str
) -> None:
    expected = read(tmp_path, jsonl(tmp_path, plain(format)), format=format)
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(plain(format)).encode() + b"\r\n\r\n")
    assert read(tmp_path, path, format=format) == expected


@every_format
def test_a_json_list_gives_the_same_records(tmp_path: Path, format: str) -> None:
    expected = read(tmp_path, jsonl(tmp_path, plain(format)), format=format)
    path = tmp_path / "export.json"
    path.write_text(json.dumps([plain(format)], indent=1))
    assert read(tmp_path, path, format=format) == expected


@every_format
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_export_is_one_line(tmp_path: Path, format: str, content: str) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"export\.jsonl:1: (the file is empty|no rows in it)$"):
        read(tmp_path, path, format=format)


@every_format
def test_the_same_row_twice_is_one_record(tmp_path: Path, format: str) -> None:
    path = jsonl(tmp_path, plain(format), plain(format))
    assert len(read(tmp_path, path, format=format)) == 1
    ((line, field, reason),) = rejected(tmp_path)
    assert (line, field) == (2, "feedback_id") and "earlier row" in reason


REQUIRED = [
    ("hh", "chosen"),
    ("hh", "rejected"),
    ("trl", "chosen"),
    ("trl", "rejected"),
    *(("arena", name) for name in ("model_a", "model_b", "winner", "conversation_a")),
    ("ultrafeedback", "instruction"),
    ("label_studio", "data"),
    ("label_studio", "annotations"),
    ("argilla", "fields"),
    ("argilla", "responses"),
]


@pytest.mark.parametrize(("format", "column"), [*REQUIRED, ("argilla", "id")])
def test_a_row_without_a_column_is_set_aside(tmp_path: Path, format: str, column: str) -> None:
    bad = {name: value for name, value in plain(format).items() if name != column}
    assert len(read(tmp_path, jsonl(tmp_path, plain(format), bad), format=format)) == 1
    assert [(line, field) for line, field, _ in rejected(tmp_path)] == [(2, column)]


@pytest.mark.parametrize(("format", "column"), REQUIRED)
def test_a_row_with_a_wrong_type_is_set_aside(tmp_path: Path, format: str, column: str) -> None:
    bad = plain(format) | {column: 5}
    assert len(read(tmp_path, jsonl(tmp_path, plain(format), bad), format=format)) == 1
    assert [(line, field) for line, field, _ in rejected(tmp_path)] == [(2, column)]


@every_format
def test_what_an_export_does_not_say_is_said_to_be_unknown(tmp_path: Path, format: str) -> None:
    (record,) = read(tmp_path, jsonl(tmp_path, plain(format)), format=format)
    knows_time = format in ("arena", "label_studio")
    assert (record["created_at"] != UNKNOWN_TIME) == knows_time
    if format != "ultrafeedback":
        assert record["guideline_version"] == "unknown" and record["license"] is None


@pytest.mark.parametrize("format", ["hh", "trl", "arena", "label_studio", "argilla"])
def test_the_config_may_say_what_people_were_told(tmp_path: Path, format: str) -> None:
    told: dict[str, Any] = {"guideline_version": "2.1", "license": "CC0-1.0"}
    (record,) = read(tmp_path, jsonl(tmp_path, plain(format)), format=format, **told)
    assert record["guideline_version"] == "2.1" and record["license"] == "CC0-1.0"


@pytest.mark.parametrize("format", ["hh", "trl", "arena"])
def test_the_config_may_say_the_criterion(tmp_path: Path, format: str) -> None:
    path = jsonl(tmp_path, plain(format))
    assert read(tmp_path, path, format=format)[0]["criterion"] == "overall"
    assert read(tmp_path, path, format=format, criterion="harmless")[0]["criterion"] == "harmless"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "pandalm", "criterion": "honest"}, "pandalm takes no `criterion`"),
        ({"format": "ultrafeedback", "license": "MIT"}, "ultrafeedback takes no `license`"),
        ({"format": "hh", "fields": {"prompt": "q"}}, "hh takes no `fields`"),
        ({"format": "argilla", "criterion": "honest"}, "argilla takes no `criterion`"),
        ({"format": "argilla", "questions": [{"name": "a"}, {"name": "a"}]}, "a question twice"),
        (
            {"format": "argilla", "questions": [{"name": "a", "scale": [1, 1]}]},
            "two different numbers",
        ),
        (
            {"format": "argilla", "questions": [{"name": "a", "scale": [1, 5], "picks": ["x"]}]},
            "give one of",
        ),
        (
            {"format": "argilla", "questions": [{"name": "a", "choices": ["yes"]}]},
            "two or more different labels",
        ),
    ],
)
def test_an_option_that_says_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeedbackSource.model_validate({"path": "x"} | options)


def test_the_transcripts_of_hh_share_their_prompt(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nStill me.\n\nAssistant:"
    row = {"chosen": f"{start} Because.", "rejected": f"{start} No."}
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="hh")
    assert record["prompt"] == [
        *user("Hi"),
        *assistant("Hello."),
        *user("Why?\n\nStill me."),
    ]
    assert record["completions"] == [assistant("Because."), assistant("No.")]
    assert record["outcome"] == "a" and record["display_order"] is None
    assert record["annotator_id"] == "hh-annotators"


def test_hh_transcripts_may_stand_beside_their_prompt(tmp_path: Path) -> None:
    row = hh_row() | {"prompt": "\n\nHuman: Hi\n\nAssistant:"}
    other = hh_row("Good.") | {"prompt": "\n\nHuman: Ho\n\nAssistant:"}
    (record,) = read(tmp_path, jsonl(tmp_path, row, other), format="hh")
    assert record["prompt"] == user("Hi") and record["completions"][0] == assistant("Yes.")
    assert [(line, field) for line, field, _ in rejected(tmp_path)] == [(2, "prompt")]


@pytest.mark.parametrize("prompt", ["Hi", "\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi"])
def test_hh_rows_may_have_the_prompt_once(tmp_path: Path, prompt: str) -> None:
    row = {"prompt": prompt, "chosen": "Yes.", "rejected": "No."}
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="hh")
    assert record["prompt"] == user("Hi") and record["completions"][0] == assistant("Yes.")


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (hh_row() | {"rejected": hh_row(before="Ho")["rejected"]}, "rejected", "differ before"),
        (hh_row() | {"chosen": "\n\nHuman: Hi"}, "chosen", "must be Human"),
        (hh_row() | {"chosen": "Yes."}, "chosen", "must be Human"),
        (hh_row("Yes.", "Yes."), "completion_ids", "must differ"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt", "is empty"),
    ],
)
def test_a_bad_hh_row_is_set_aside(tmp_path: Path, bad: object, field: str, reason: str) -> None:
    assert len(read(tmp_path, jsonl(tmp_path, hh_row("Good."), bad), format="hh")) == 1
    ((line, found, why),) = rejected(tmp_path)
    assert (line, found) == (2, field) and reason in why


SKY = user("What colour is the sky?")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SKY[0]["content"], "chosen": "Blue.", "rejected": "Green."},
        {"prompt": SKY, "chosen": assistant("Blue."), "rejected": assistant("Green.")},
        {"chosen": SKY + assistant("Blue."), "rejected": SKY + assistant("Green.")},
        {
            "prompt": SKY[0]["content"],
            "chosen": SKY + assistant("Blue."),
            "rejected": SKY + assistant("Green."),
        },
        {
            "chosen": "What colour is the sky? Blue.",
            "rejected": "What colour is the sky? Green.",
        },
    ],
)
def test_all_preference_formats_of_trl_say_the_same(tmp_path: Path, row: object) -> None:
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="trl")
    assert record["prompt"] == SKY
    assert record["completions"] == [assistant("Blue."), assistant("Green.")]


RULES = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("prompt", [[RULES, *SKY], SKY, SKY[0]["content"]])
def test_a_column_prompt_beside_whole_conversations_loses_nothing(
    tmp_path: Path, prompt: Any
) -> None:
    sides = {"chosen": SKY + assistant("Blue."), "rejected": SKY + assistant("Green.")}
    row = {"prompt": prompt, **sides}
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="trl")
    assert record["prompt"] == (prompt if prompt != SKY[0]["content"] else SKY)


def test_keys_that_only_other_messages_of_a_table_have_do_no_harm(tmp_path: Path) -> None:
    row = {
        "prompt": [SKY[0] | {"tool_calls": None, "name": None}],
        "chosen": [assistant("Blue.")[0] | {"tool_calls": None}],
        "rejected": assistant("Green."),
    }
    bad = row | {"chosen": [assistant("Red.")[0] | {"tool_calls": ["f()"]}]}
    (record,) = read(tmp_path, jsonl(tmp_path, row, bad), format="trl")
    assert record["prompt"] == SKY and record["completions"][0] == assistant("Blue.")
    assert [(line, field) for line, field, _ in rejected(tmp_path)] == [(2, "chosen")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is great.", "The sky is green.", "The sky is"),  # TRL cuts inside the word
        ("Go on", "Go on now", "Go"),
        ("天空是蓝色的", "天空是绿色的", "天空是"),
    ],
)
def test_no_word_is_cut_to_find_the_prompt(
    tmp_path: Path, chosen: str, rejected: str, prompt: str
) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    (record,) = read(tmp_path, jsonl(tmp_path, row), format="trl")
    texts = [turns[0]["content"] for turns in record["completions"]]
    assert record["prompt"] == user(prompt)
    assert [(prompt + " " * (prompt.isascii()) + text) for text in texts] == [chosen, rejected]


def test_unpaired_rows_of_trl_are_questions_that_become_pairs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "completion": "Hello.", "label": True},
        {"prompt": user("Hi"), "completion": assistant("Go."), "label": False},
        {"prompt": "Hi", "completion": "Hm.", "label": 1},
    ]
    records = read(tmp_path, jsonl(tmp_path, *rows), format="trl", criterion="helpful")
    assert [one["answers"][0]["value"] for one in records] == [1.0, 0.0]
    assert [field for _, field, _ in rejected(tmp_path)] == ["label"]
    (pair,) = pairs_of(records)
    assert pair["chosen"] == assistant("Hello.") and pair["criterion"] == "helpful"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"chosen": "Yes", "rejected": "No"}, "chosen"),
        ({"chosen": assistant("a"), "rejected": assistant("b")}, "prompt"),
        ({"prompt": SKY, "chosen": [*assistant("a"), *user("b")], "rejected": "c"}, "chosen"),
        ({"chosen": SKY + assistant("a"), "rejected": user("x") + assistant("b")}, "rejected"),
        ({"chosen": [*SKY, *SKY], "rejected": SKY + assistant("b")}, "chosen"),
        ({"prompt": "Hi", "chosen": "a", "rejected": None}, "rejected"),
        (trl_row(chosen="Maybe.") | {"images": ["x.png"]}, "images"),
        (trl_row(chosen="Maybe.") | {"tools": [{"name": "f"}]}, "tools"),
        (
            {"prompt": "Ho", "chosen": SKY + assistant("a"), "rejected": SKY + assistant("b")},
            "prompt",
        ),
    ],
)
def test_a_bad_trl_row_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    assert len(read(tmp_path, jsonl(tmp_path, trl_row(), bad), format="trl")) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]


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


def test_ultrafeedback_ratings_are_questions_about_each_answer(tmp_path: Path) -> None:
    row = ultrafeedback_row(rated("A", honesty="N/A", helpfulness="1"), rated("B", "opt"))
    first, second = read(tmp_path, jsonl(tmp_path, row), format="ultrafeedback")
    assert [one["value"] for one in first["answers"]] == [0.0, None, 1.0, 1.0]
    assert first["answers"][0]["criterion"] == "helpful"
    assert first["annotator_kind"] == "model" and first["generator_ids"] == ["llama"]
    assert first["source"] == "ultrafeedback/flan"
    (pair,) = pairs_of([first, second])
    assert pair["chosen"] == assistant("B")
    assert pair["margin"] == pytest.approx(1 / 4)  # helpful (0 + 1) / 2 and honest 1, against 1


def test_binarized_ultrafeedback_keeps_both_scores(tmp_path: Path) -> None:
    row = {
        "prompt": "Hi",
        "chosen": [*user("Hi"), *assistant("A")],
        "rejected": [*user("Hi"), *assistant("B")],
        "score_chosen": 8.5,
        "score_rejected": 4,
    }
    path = jsonl(tmp_path, row, row | {"score_chosen": 11}, row | {"score_rejected": None})
    (record,) = read(tmp_path, path, format="ultrafeedback", share=1)
    assert [one["value"] for one in record["answers"]] == pytest.approx([7.5 / 9, 3 / 9])
    assert [field for _, field, _ in rejected(tmp_path)] == ["score_chosen", "score_rejected"]
    (pair,) = pairs_of([record])
    assert pair["margin"] == pytest.approx(0.5)


def test_mean_ratings_of_cleaned_ultrafeedback_are_1_to_5(tmp_path: Path) -> None:
    row = {
        "prompt": "Hi",
        "source": "sharegpt",
        "chosen": [*user("Hi"), *assistant("A")],
        "chosen-rating": 4.5,
        "chosen-model": "llama",
        "rejected": [*user("Hi"), *assistant("B")],
        "rejected-rating": 2.0,
        "rejected-model": "opt",
    }
    path = jsonl(tmp_path, row, row | {"rejected-rating": 6}, row | {"rejected-model": None})
    (record,) = read(tmp_path, path, format="ultrafeedback", share=1)
    assert [one["value"] for one in record["answers"]] == pytest.approx([0.875, 0.25])
    assert record["generator_ids"] == ["llama", "opt"]
    assert [field for _, field, _ in rejected(tmp_path)] == ["rejected-rating", "rejected-model"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (ultrafeedback_row(rated(honesty="6")), "completions[0].annotations.honesty"),
        (ultrafeedback_row(rated(), rated() | {"response": None}), "completions[1].response"),
        (ultrafeedback_row(rated() | {"annotations": []}), "completions[0].annotations"),
        (ultrafeedback_row("A"), "completions"),
    ],
)
def test_a_bad_ultrafeedback_row_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    path = jsonl(tmp_path, ultrafeedback_row(rated("Good.")), bad)
    assert len(read(tmp_path, path, format="ultrafeedback")) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]
