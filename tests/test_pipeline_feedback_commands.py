"""`align feedback validate`, `convert`, `inspect` and `agreement`: what they print and leave."""

import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from align.data.atomic import write_jsonl
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, PREFERENCE, Record, completed
from align.reward.annotators.members import read_annotators
from align.reward.pairs_file import read_pairs

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


def words(text: str) -> str:
    return " ".join(text.split())


def test_validate_counts_kinds_and_shows_bad_rows(
    finished: Callable[..., str], tmp_path: Path
) -> None:
    bad = [vote(f"bad{i}", "a") | {"outcome": "left"} for i in range(12)]
    path = file_of(tmp_path, [*study(), *bad])
    out = tmp_path / "out"
    printed = finished("feedback", "validate", path, "--out", str(out), code=2)
    assert "comparison 180" in words(printed)
    assert "180 good records; 12 of 192 rows are bad" in printed
    assert f"{path}:181: outcome: must be one of a, b, tie, skip" in printed
    assert f"{path}:190: " in printed and f"{path}:191: " not in printed
    assert f"and 2 more, in {out}/rejected.jsonl" in printed
    assert printed.splitlines()[-1].startswith("align: ") and "6.2%" in printed.splitlines()[-1]
    rejected = (out / "rejected.jsonl").read_text("utf-8").splitlines()
    assert len(rejected) == 12 and json.loads(rejected[0])["line"] == 181


def test_convert_writes_the_table_and_says_what_became_of_the_records(
    finished: Callable[..., str], tmp_path: Path
) -> None:
    records = [*study(), vote("t", "tie", prompt="T"), vote("s", "skip", prompt="S")]
    out = tmp_path / "new" / "pairs.parquet"
    path = file_of(tmp_path, [*records, {"kind": "comparison"}])
    printed = words(finished("feedback", "convert", path, "--out", str(out)))
    assert "comparison 182 0 0 1 61 1" in printed and "overall 61 1" in printed
    assert "silent records are in no pair" in printed and "gold records" not in printed
    assert "1 of 183 rows are bad and left out" in printed
    assert f"61 pairs of 182 records: {out}" in printed
    assert len(read_pairs(out)) == 61
    assert pq.read_schema(out).metadata == PREFERENCE.metadata
    names = {file.name for file in out.parent.iterdir()}
    assert names == {"pairs.parquet", "pairs.conflicts.parquet", "pairs.rejected.jsonl"}


def test_agreement_measures_annotators_and_players_and_writes_all_of_it(
    finished: Callable[..., str], tmp_path: Path
) -> None:
    records = study(player_a="strong", player_b="weak") + study(10, player_a="weak", player_b="new")
    for place, one in enumerate(records):
        one["feedback_id"] = str(place)
    path, out = file_of(tmp_path, records), tmp_path / "out"
    printed = finished("feedback", "agreement", path, "--out", str(out), "--ties", "davidson")
    assert "3 annotators, 180 votes on 60 items" in printed
    order = [printed.index(name) for name in ("  ann", "  bob", "  coin")]
    assert order == sorted(order)
    assert "Ratings (overall): 210 battles, 3 annotators" in printed
    found = json.loads((out / "agreement.json").read_text("utf-8"))
    assert set(found) == {"pool", "gold_items", "annotators", "ratings"}
    ratings = found["ratings"]["overall"]
    assert ratings["ties"] == "davidson" and not ratings["by_annotator"]
    assert {one["player"] for one in ratings["players"]} == {"strong", "weak", "new"}
    assert all(one["low"] <= one["elo"] <= one["high"] for one in ratings["players"])
    rows = read_annotators(out / "annotators.parquet")
    assert [row["annotator_id"] for row in rows] == ["ann", "bob", "coin"]
    assert len(rows[0]["ds_confusion"]) == 3
    html = (out / "agreement.html").read_text("utf-8")
    assert "Two annotators agree" in html and "is ahead with" in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_inspect_counts_and_shows_biases(finished: Callable[..., str], tmp_path: Path) -> None:
    path, out = file_of(tmp_path, study()), tmp_path / "out"
    printed = words(finished("feedback", "inspect", path, "--out", str(out)))
    assert "180 records on 60 prompts" in printed and "comparison 180 100.0%" in printed
    assert "coin 60 33.3%" in printed and "ties 0.0% (0.0% to 2.1%) of 180" in printed
    found = json.loads((out / "inspect.json").read_text("utf-8"))
    assert found["longer_won"]["n"] == 180 and found["by_annotator"]["ann"] == 60
    assert "What people preferred" in (out / "inspect.html").read_text("utf-8")
