"""Ratings of UltraFeedback, as questions about each answer."""

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


def part(text: object, kind: str = "text", image: object = None) -> dict[str, Any]:
    """As Parquet gives it: every part has every column."""
    return {"type": kind, "text": text, "image": image, "mimeType": None}


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
