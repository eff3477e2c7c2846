"""Eligibility: who meets what is asked, and that nothing personal gets out."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from align.data.config import DataConfig, FeedbackSource
from align.data.errors import DataError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.records import write_records
from align.data.schemas import ANNOTATOR, FEEDBACK, PREFERENCE, Record, completed
from align.pipeline.conversion import converted
from align.reward.annotators.eligibility import Profile, eligible_only, is_eligible
from align.reward.config import EligibilityConfig, FeedbackConfig
from align.reward.pairs_file import read_pairs, write_pairs

PROFILES = [
    {
        "annotator_id": "ann",
        "education": "doctorate-zq",
        "region": "Elbonia",
        "languages": ["elbonian", "english"],
    },
    {"annotator_id": "bob", "education": "school-zq", "region": "Ruritania", "languages": ["x"]},
    {"annotator_id": "silent"},
]
PERSONAL = ("doctorate-zq", "Elbonia", "elbonian", "school-zq", "Ruritania", "ruritanian")


def profiles(folder: Path, rows: list[dict[str, object]] | None = None) -> Path:
    path = folder / "profiles.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or PROFILES), "utf-8")
    return path


def eligible(path: Path, **asked: object) -> list[str]:
    names = ["ann", "bob", "silent", "unknown", "judge"]
    kinds = ["human"] * 4 + ["model"]
    table = pa.table({"annotator_id": names, "annotator_kind": kinds})
    config = EligibilityConfig.model_validate({"profiles": path} | asked)
    flags = eligible_only(path, config)(table)
    return [name for name, counts in zip(names, flags.tolist(), strict=True) if counts]


@pytest.mark.parametrize(
    ("asked", "people"),
    [
        ({"education": ["doctorate-zq", "master"]}, ["ann"]),
        ({"region": ["Ruritania"]}, ["bob"]),
        ({"region": ["Ruritania", "Elbonia"]}, ["ann", "bob"]),
        ({"languages": ["english"]}, ["ann"]),
        ({"languages": ["english", "elbonian"]}, ["ann"]),
        ({"languages": ["english", "x"]}, []),
        ({"education": ["doctorate-zq"], "region": ["Ruritania"]}, []),
    ],
)
def test_all_that_is_asked_must_be_met_and_models_are_not_asked(
    asked: dict[str, object], people: list[str], tmp_path: Path
) -> None:
    assert eligible(profiles(tmp_path), **asked) == [*people, "judge"]


def test_what_was_not_declared_meets_no_demand() -> None:
    for asked in ({"education": ["master"]}, {"region": ["Elbonia"]}, {"languages": ["english"]}):
        config = EligibilityConfig.model_validate({"profiles": "p.jsonl"} | asked)
        assert not is_eligible(Profile("silent"), config)


def test_a_printed_profile_shows_its_id_alone() -> None:
    ann = Profile("ann", "doctorate-zq", "Elbonia", frozenset({"elbonian"}))
    assert repr(ann) == f"{ann}" == "Profile(annotator_id='ann')"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"annotator_id": ""}, ":1: annotator_id: must be text"),
        ({"annotator_id": "a", "region": 3}, ":1: education, region: must be text"),
        ({"annotator_id": "a", "languages": "english"}, ":1: languages: must be a list"),
        ({"annotator_id": "a", "age": 3}, ":1: age: unknown field"),
    ],
)
def test_a_bad_profile_is_told_without_what_is_in_it(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        eligible(profiles(tmp_path, [row]), region=["Elbonia"])


@pytest.mark.parametrize("fields", [{"profiles": "p.jsonl"}, {"region": ["Elbonia"]}])
def test_profiles_and_demands_need_each_other(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="are given together"):
        EligibilityConfig.model_validate(fields)


def vote(name: str, who: str) -> Record:
    made = header(
        "comparison", name, user(f"Hi {name}"), [assistant("a"), assistant("b")], source="test",
        license=None, annotator_id=who, guideline_version="1",
    )  # fmt: skip
    return completed(made | {"outcome": "a"}, FEEDBACK["comparison"])


def test_only_the_eligible_are_converted_and_personal_fields_never_reach_an_exported_row(
    tmp_path: Path,
) -> None:
    path = tmp_path / "votes.jsonl"
    write_records(path, [vote(who, who) for who in ("ann", "bob", "silent")])
    asked = {"profiles": profiles(tmp_path), "region": ["Elbonia"]}
    feedback = FeedbackConfig.model_validate({"eligibility": asked})
    source = FeedbackSource(format="records", path=path)
    out = tmp_path / "out"
    parts = converted([source], feedback, DataConfig(), out, out / "rejected.jsonl")
    counts = write_pairs(out / "pairs.parquet", parts)
    assert counts["comparison"].excluded == 2
    assert [row["annotator_ids"] for row in read_pairs(out / "pairs.parquet")] == [["ann"]]
    for file in out.rglob("*"):
        assert not any(word.encode() in file.read_bytes() for word in PERSONAL)
    for schema in (ANNOTATOR, PREFERENCE, *FEEDBACK.values()):
        assert not {"education", "region", "languages", "language"} & set(schema.names)
