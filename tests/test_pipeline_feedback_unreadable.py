"""`align feedback` where files cannot be read, written or taken twice: one line."""

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from align.data.atomic import write_jsonl
from align.data.errors import UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.records import write_records
from align.data.schemas import FEEDBACK, Record, completed
from align.pipeline import cli

Align = Callable[..., str]


DAY = datetime(2026, 3, 1, tzinfo=UTC)


def vote(name: str, outcome: str, **fields: Any) -> Record:
    made = header(
        "comparison",
        name,
        user(fields.pop("prompt", "Hi")),
        [assistant(text) for text in fields.pop("texts", ("a long answer", "b"))],
        source="study",
        license=None,
        annotator_id=fields.pop("annotator_id", "ann"),
        guideline_version="1",
        created_at=DAY,
    )
    fields = {"gold": False} | fields
    return completed(made | {"outcome": outcome} | fields, FEEDBACK["comparison"])


def file_of(folder: Path, records: Iterable[Any], name: str = "votes.jsonl") -> str:
    write_jsonl(folder / name, records)
    return str(folder / name)


@pytest.fixture
def feedback(capsys: pytest.CaptureFixture[str]) -> Align:
    """Runs a command in this process and returns what it printed."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        cli.app(["feedback", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def complaint(feedback: Align, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        feedback(*arguments)
    return str(caught.value)


def study(count: int = 60, **fields: Any) -> list[Record]:
    """Three annotators on the same prompts; the third is a coin."""
    chance = random.Random(3)
    right = {"ann": 0.95, "bob": 0.9, "coin": 0.5}
    return [
        vote(
            f"{who}-{place}",
            "ab"[(place + (chance.random() > sure)) % 2],
            prompt=f"P{place}",
            annotator_id=who,
            display_order=[0, 1],
            **fields,
        )
        for place in range(count)
        for who, sure in right.items()
    ]


@pytest.mark.parametrize("command", ["validate", "inspect", "agreement", "convert"])
def test_what_cannot_be_read_is_one_line(feedback: Align, command: str, tmp_path: Path) -> None:
    more = ("--out", str(tmp_path / "pairs.parquet")) if command == "convert" else ()
    assert "nothing to read: give FILE..." in complaint(feedback, command, *more)
    nowhere = str(tmp_path / "nowhere.jsonl")
    assert complaint(feedback, command, nowhere, *more) == (
        f"{nowhere}: there is no such file or folder"
    )
    said = complaint(feedback, command, nowhere, "--format", "record", *more)
    assert said == "--format record: unknown format; did you mean records?"
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    said = complaint(feedback, command, str(tmp_path / "empty.jsonl"), *more)
    assert said.startswith(f"{tmp_path}/empty.jsonl:1: ") and "\n" not in said


@pytest.mark.parametrize("command", ["validate", "inspect", "agreement", "convert"])
def test_a_place_that_cannot_be_written_is_one_line(
    feedback: Align, command: str, tmp_path: Path
) -> None:
    path = file_of(tmp_path, study(2))
    out = f"{path}/pairs.parquet"  # below a file
    assert "cannot be written to" in complaint(feedback, command, path, "--out", out)


@pytest.mark.parametrize("command", ["inspect", "agreement", "convert"])
def test_all_rows_bad_is_one_line_that_names_the_first(
    feedback: Align, command: str, tmp_path: Path
) -> None:
    path = file_of(tmp_path, [{"kind": "opinion"}] * 3)
    out = tmp_path / "out"
    said = complaint(
        *(feedback, command, path, "--out"), str(out / "p.parquet" if command == "convert" else out)
    )
    rejected = out / ("p.rejected.jsonl" if command == "convert" else "rejected.jsonl")
    assert len(rejected.read_text("utf-8").splitlines()) == 3
    assert said.startswith(f"{path}:1: kind: must be one of") and "no good row is left" in said


def test_validate_goes_on_after_a_file_without_a_good_row(feedback: Align, tmp_path: Path) -> None:
    bad = file_of(tmp_path, [{"kind": "opinion"}] * 3, "bad.jsonl")
    good = file_of(tmp_path, study(5))
    with pytest.raises(UserError) as caught:
        feedback("validate", bad, good, "--out", str(tmp_path / "out"))
    assert str(caught.value).startswith(f"{bad}:1: kind: ") and "\n" not in str(caught.value)
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 3


def test_validate_prints_what_is_good_before_it_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = file_of(tmp_path, [{"kind": "opinion"}] * 3, "bad.jsonl")
    with pytest.raises(UserError):
        cli.app(["feedback", "validate", bad, file_of(tmp_path, study(5))], standalone_mode=False)
    assert "15 good records; 3 of 18 rows are bad" in capsys.readouterr().out


def test_validate_says_nothing_of_rows_in_a_table_that_it_cannot_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "votes.parquet"
    write_records(path, study(5))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"^\S+votes.parquet:1: no readable parquet file: [^\n]+$"):
        cli.app(["feedback", "validate", str(path)], standalone_mode=False)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"^\S+votes.parquet:1: no readable parquet file: [^\n]+$"):
        cli.app(["feedback", "validate", file_of(tmp_path, study(5)), str(path)])
    assert "15 good records; no bad rows in what could be read" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["/dev/full", "/dev/full/out", "FILE", "FILE/out"])
def test_what_is_in_the_way_of_a_folder_is_named(
    feedback: Align, place: str, tmp_path: Path
) -> None:
    path = file_of(tmp_path, study(5))
    out = place.replace("FILE", path)
    blocked = out.removesuffix("/out")
    said = complaint(feedback, "validate", path, "--out", out)
    assert said == f"--out {out}: cannot be written to ({blocked} is no folder); name another place"


def test_validate_removes_an_old_list_of_bad_rows(feedback: Align, tmp_path: Path) -> None:
    (tmp_path / "rejected.jsonl").write_text("{}\n", encoding="utf-8")
    printed = feedback("validate", file_of(tmp_path, study(5)), "--out", str(tmp_path))
    assert "15 good records; no bad rows" in printed
    assert not (tmp_path / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "name", "out"),
    [
        ("convert", "raw.parquet", "raw.parquet"),
        ("convert", "pairs.rejected.jsonl", "pairs.parquet"),
        ("convert", "pairs.conflicts.parquet", "pairs.parquet"),
        ("validate", "rejected.jsonl", "."),
        ("inspect", "rejected.jsonl", "."),
        ("agreement", "rejected.jsonl", "."),
    ],
)
def test_what_is_read_is_never_replaced(
    feedback: Align, command: str, name: str, out: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write_records(path, [completed(one, FEEDBACK[one["kind"]]) for one in study(5)])
    before = path.read_bytes()
    said = complaint(feedback, command, str(path), "--out", str(tmp_path / out))
    assert said.startswith(f"--out: {path} is a file to read")
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["validate", "convert", "inspect"])
@pytest.mark.parametrize("again", ["votes.jsonl", "./votes.jsonl", "link.jsonl", "hard.jsonl"])
def test_a_file_that_is_given_twice_is_told(
    feedback: Align, tmp_path: Path, command: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, study(5))
    (tmp_path / "link.jsonl").symlink_to(path)
    (tmp_path / "hard.jsonl").hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    out = ["--out", "pairs.parquet"] if command == "convert" else []
    said = complaint(feedback, command, "votes.jsonl", again, *out)
    name = tmp_path / again
    first = "" if name == Path(path) else f", first as {path}"
    assert said == f"{name}: the file is given twice{first}; give it once"
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_copy_of_a_file_is_told_by_its_ids(feedback: Align, tmp_path: Path) -> None:
    one, other = file_of(tmp_path, study(5)), file_of(tmp_path, study(5), "copy.jsonl")
    said = complaint(feedback, "validate", one, other)
    assert said.startswith(f"{other}:1: feedback_id: ann-0 is the id of an earlier row")
    out = tmp_path / "pairs.parquet"
    assert "is the id of an earlier row" in complaint(
        feedback, "convert", one, other, "--out", str(out)
    )
    assert not out.exists()
