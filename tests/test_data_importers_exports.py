"""The usual exports of human feedback become raw records, whatever odd things are in them."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from align.data.config import FeedbackSource
from align.data.errors import DataError
from align.data.feedback import read_feedback
from align.data.importers.header import UNKNOWN_TIME
from align.data.messages import Message, assistant, user
from align.data.schemas import Record

# Chinese, an emoji, right to left, a line separator, an accent of its own
ODD = "\u4f60\u597d\u3002\U0001f600 \u202e\u05e9\u05dc\u05d5\u05dd\u202c\u2028e\u0301"


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
