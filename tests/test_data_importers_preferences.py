"""Preferences as HH and TRL write them: transcripts, pairs, and answers by themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

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


def hh_row(chosen: str = "Yes.", rejected: str = "No.", before: str = "Hi") -> dict[str, Any]:
    start = f"\n\nHuman: {before}\n\nAssistant: "
    return {"chosen": start + chosen, "rejected": start + rejected}


def trl_row(prompt: str = "Hi", chosen: str = "Yes.", rejected: str = "No.") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


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


def part(text: object, kind: str = "text", image: object = None) -> dict[str, Any]:
    """As Parquet gives it: every part has every column."""
    return {"type": kind, "text": text, "image": image, "mimeType": None}
