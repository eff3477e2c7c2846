"""Raw records survive every kind of file that they are written to."""

from pathlib import Path
from typing import Any

import pytest

from align.data import records as module
from align.data.config import FeedbackSource
from align.data.errors import UserError
from align.data.feedback import read_feedback
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.records import write_records
from align.data.schemas import FEEDBACK, Record, check_version, completed

TEXTS = ["A\u2028B", "你好 😀", "\u202e\u05e9\u05dc\u05d5\u05dd\u202c", ""]


def record(place: int, kind: str = "ranking") -> Record:
    fields: dict[str, dict[str, Any]] = {
        "ranking": {"ranks": [1, 2]},
        "comparison": {"outcome": "a"},
    }
    head = header(
        kind,
        f"f{place}",
        user(f"Hi {place} {TEXTS[place % 4]}"),
        [assistant(TEXTS[place % 4]), assistant("B")],
        source=f"source {place % 3}",  # a new dictionary entry in a later batch
        license=None,
        annotator_id="ann",
        guideline_version="1",
        duration_s=1.5,
        generator_ids=[None, "m"],
    )
    return completed(head | fields[kind], FEEDBACK[kind])


def read(path: Path, folder: Path) -> list[Record]:
    source = FeedbackSource(format="records", path=path)
    return read_feedback([source], 0, folder / "rejected.jsonl")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow", ".Parquet"])
def test_records_are_read_back_as_they_were(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    path, records = tmp_path / f"x{suffix}", [record(place) for place in range(5)]
    write_records(path, iter(records))
    assert read(path, tmp_path) == records
    check_version(path, "ranking")


def test_jsonl_holds_several_kinds_and_a_table_one(tmp_path: Path) -> None:
    mixed = [record(0), record(1, "comparison")]
    write_records(tmp_path / "x.jsonl", mixed)
    assert read(tmp_path / "x.jsonl", tmp_path) == mixed
    with pytest.raises(UserError, match="one kind of feedback, found ranking and comparison"):
        write_records(tmp_path / "x.parquet", mixed)
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize(
    ("name", "records", "reason"),
    [
        ("x.csv", [record(0)], r"cannot be written as '\.csv': use one of \.jsonl"),
        ("x", [record(0)], "cannot be written as ''"),
        ("x.arrow", [], "no records to write"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, name: str, records: list[Record], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        write_records(tmp_path / name, records)
    assert not list(tmp_path.iterdir())


def test_a_table_has_its_optional_columns_even_where_a_record_left_them_out(tmp_path: Path) -> None:
    short = {name: value for name, value in record(0).items() if value is not None}
    write_records(tmp_path / "x.parquet", [short])
    assert read(tmp_path / "x.parquet", tmp_path) == [record(0)]
