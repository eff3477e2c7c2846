"""Eligibility: who meets a requirement, and that nothing personal gets out."""

from pathlib import Path

import numpy as np
import pytest

from align.data.schemas import ANNOTATOR, FEEDBACK, PREFERENCE, write_table
from align.reward.annotators.eligibility import Profile, Requirement, eligible_ids, is_eligible
from align.reward.annotators.screening import screen
from align.reward.annotators.table import annotator_rows
from align.reward.annotators.votes import votes_of

ANN = Profile("ann", "doctorate-zq", "Elbonia", frozenset({"elbonian", "english"}))
BOB = Profile("bob", "school-zq", "Ruritania", frozenset({"ruritanian"}))
SILENT = Profile("silent")
PERSONAL = ("doctorate-zq", "Elbonia", "elbonian", "school-zq", "Ruritania", "ruritanian")


@pytest.mark.parametrize(
    ("requirement", "eligible"),
    [
        (Requirement(), ["ann", "bob", "silent"]),
        (Requirement(education=frozenset({"doctorate-zq", "master"})), ["ann"]),
        (Requirement(region=frozenset({"Ruritania"})), ["bob"]),
        (Requirement(languages=frozenset({"english"})), ["ann"]),
        (Requirement(languages=frozenset({"english", "elbonian"})), ["ann"]),
        (Requirement(languages=frozenset({"english", "ruritanian"})), []),
        (Requirement(frozenset({"doctorate-zq"}), frozenset({"Ruritania"})), []),
        (Requirement(education=frozenset()), []),
    ],
)
def test_the_whole_requirement_must_be_met(requirement: Requirement, eligible: list[str]) -> None:
    assert eligible_ids([SILENT, BOB, ANN], requirement) == eligible


def test_what_was_not_declared_meets_no_demand() -> None:
    assert is_eligible(SILENT, Requirement())
    for requirement in (
        Requirement(education=frozenset({"master"})),
        Requirement(region=frozenset({"Elbonia"})),
        Requirement(languages=frozenset({"english"})),
    ):
        assert not is_eligible(SILENT, requirement)


def test_a_printed_profile_shows_its_id_alone() -> None:
    assert repr(ANN) == "Profile(annotator_id='ann')"
    assert not any(word in f"{[ANN, BOB]} {ANN!s}" for word in PERSONAL)


def test_no_table_has_a_column_for_a_personal_field() -> None:
    for schema in (ANNOTATOR, PREFERENCE, *FEEDBACK.values()):
        assert not {"education", "region", "languages", "language"} & set(schema.names)


def test_personal_fields_never_reach_an_exported_row(tmp_path: Path) -> None:
    chosen = eligible_ids([ANN, BOB], Requirement(region=frozenset({"Elbonia", "Ruritania"})))
    votes = votes_of(["p", "p"], chosen, ["human"] * 2, [0, 2])
    rows = annotator_rows(screen(votes, np.array([0])))
    write_table(tmp_path / "annotators.parquet", rows, ANNOTATOR)
    written = (tmp_path / "annotators.parquet").read_bytes()
    assert b"ann" in written and b"bob" in written
    assert not any(word.encode() in written for word in PERSONAL)
    assert not any(word in str(rows) for word in PERSONAL)
