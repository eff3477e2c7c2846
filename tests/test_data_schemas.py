"""Schemas, and every invariant of records and preferences.

What must hold, and the tests that show it (S: test_data_screen.py, P: test_data_pair_invariants.py,
both of whole tables; the rest is here):

- no null in a required field at any depth: test_no_required_field_may_be_null,
  test_a_broken_invariant_names_the_field_and_the_reason; S and P: the null cases
- lists agree in length, best_index in range, ranks dense, completion ids differ, the prompt ends
  with user or tool, closed sets: test_a_broken_invariant_names_the_field_and_the_reason; S
- at least so many answers: test_too_few_answers_to_compare_are_a_problem; S
- the same questions about every answer, and they mean the same: test_several_answers_need_the_same_
  questions_in_blocks, test_a_question_means_the_same_about_every_completion; S
- an id names one thing: test_an_id_that_names_two_things_is_found
- chosen and rejected differ in id and text: test_chosen_and_rejected_must_differ_in_id_and_text; P
- target_prob 1/2 to 1, margin 0 for a tie: test_a_preference_is_checked; P
- weights of a group sum to 1, group_size counts it, one split a cluster, no pair twice or reversed,
  one prompt and criterion a group: test_a_preference_table_is_checked; P
- every feedback id resolves, none is gold: test_every_feedback_id_resolves_to_a_record_that_is_not_
  gold, and test_reward_convert.py: test_a_pair_that_rests_on_gold_is_never_published
- skips and unsure judgements say nothing: test_skipped_battles_say_nothing in
  test_reward_feedback_pairs.py, and the unsure in test_reward_feedback_rules.py
- a newer major version is refused: test_a_newer_major_version_is_refused
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data.atomic import write_parquet
from align.data.by_prompt import by_prompt
from align.data.errors import DataError
from align.data.importers.header import header
from align.data.invariants import consistent
from align.data.messages import assistant, user
from align.data.pair_invariants import pairs_problems, provenance_problems
from align.data.record_batches import record_batch
from align.data.schemas import (
    ANNOTATOR,
    FEEDBACK,
    PREFERENCE,
    Record,
    check_version,
    completed,
    table_of,
    write_table,
)
from align.data.validate import validate_annotator, validate_preference, validate_record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert

GIVEN = {
    "question_id": "q",
    "criterion": "overall",
    "option": "yes",
    "value": 1.0,
    "weight": 1.0,
    "gate": False,
}
FIELDS: dict[str, dict[str, Any]] = {
    "best_of": {"best_index": 1, "none_acceptable": False},
    "ranking": {"ranks": [1, 2, 2]},
    "comparison": {"outcome": "a"},
    "question": {"answers": [GIVEN], "questionnaire_version": "1"},
    "rule": {
        "rule_id": "polite",
        "rule_text": "Be polite.",
        "ruleset_version": "1",
        "severity": 5,
        "adversarial": False,
        "criterion": "rule:polite",
    },
    "rbrm": {
        "rubric_id": "r",
        "rubric_version": "1",
        "judge_id": "j",
        "prompt_class": "harmful",
        "option_ids": ["A", "B"],
        "option_logprobs": [-0.1, -2.0],
        "chosen_option": "A",
        "reward": 1.0,
        "n_permutations": 2,
        "annotator_kind": "model",
    },
}
ANSWERS = {"best_of": 3, "ranking": 3, "comparison": 2, "question": 1, "rule": 1, "rbrm": 1}


def record(kind: str, **changes: Any) -> Record:
    """A valid record, then changed."""
    made = header(
        kind,
        "f1",
        user("Hi"),
        [assistant(f"answer {i}") for i in range(ANSWERS[kind])],
        source="test",
        license="none",
        annotator_id="ann",
        guideline_version="1",
    )
    return completed(made | FIELDS[kind] | changes, FEEDBACK[kind])


def preference(**changes: Any) -> Record:
    (part,) = convert([record("comparison")], FeedbackConfig(), 0.1)
    made: Record = part.pairs.to_pylist()[0]
    return made | changes


@pytest.mark.parametrize("kind", FEEDBACK)
def test_a_valid_record_of_every_kind_passes_and_survives_parquet(
    tmp_path: Path, kind: str
) -> None:
    row = record(kind)
    assert validate_record(row) == []
    path = tmp_path / "x.parquet"
    write_table(path, [row], FEEDBACK[kind])
    metadata = pq.read_schema(path).metadata
    assert metadata[b"align.schema"] == kind.encode()
    assert metadata[b"align.schema_version"] == b"1.0"
    back = completed(pq.read_table(path).to_pylist()[0], FEEDBACK[kind])
    assert validate_record(back) == []
    assert back["prompt"] == row["prompt"] and back["created_at"] == row["created_at"]


@pytest.mark.parametrize("kind", FEEDBACK)
def test_no_required_field_may_be_null(kind: str) -> None:
    for column in FEEDBACK[kind]:
        if not column.nullable and column.name != "kind":
            problems = validate_record(record(kind) | {column.name: None})
            assert problems == [(column.name, "must not be null")]


def test_pyarrow_alone_lets_nulls_through() -> None:
    broken = record("ranking", prompt=[{"role": "user", "content": None}], ranks=[1, None, 2])
    table_of([broken | {"source": None}], FEEDBACK["ranking"]).validate(full=True)


@pytest.mark.parametrize(
    ("kind", "changes", "field", "reason"),
    [
        ("ranking", {"prompt": [{"role": "user", "content": None}]}, "prompt[0].content", "null"),
        ("ranking", {"ranks": [1, None, 2]}, "ranks[1]", "null"),
        ("ranking", {"completions": [None] * 3}, "completions[0]", "null"),
        ("question", {"answers": [GIVEN | {"gate": None}]}, "answers[0].gate", "null"),
        ("question", {"answers": [GIVEN | {"gates": 1}]}, "answers[0].gates", "unknown"),
        ("ranking", {"rank": [1, 2, 2]}, "rank", "did you mean ranks?"),
        ("ranking", {"ranks": "1"}, "ranks", "must be a list"),
        ("ranking", {"ranks": [1, True, 2]}, "ranks[1]", "must be a number"),
        ("ranking", {"ranks": [1, 2.5, 2]}, "ranks[1]", "must be a whole number"),
        ("rule", {"severity": 200}, "severity", "whole number below 128"),
        ("rule", {"adversarial": 1}, "adversarial", "must be true or false"),
        ("rbrm", {"reward": math.inf}, "reward", "must be a number that fits 32 bits"),
        ("rbrm", {"reward": 1e39}, "reward", "must be a number that fits 32 bits"),
        ("rbrm", {"reward": -101.0}, "reward", "must be -100 to 100, found -101.0"),
        ("rbrm", {"n_permutations": 0}, "n_permutations", "must be 1 to 32767, found 0"),
        ("ranking", {"source": 3}, "source", "must be text"),
        ("ranking", {"source": ""}, "source", "must not be empty"),
        ("ranking", {"guideline_version": ""}, "guideline_version", "must not be empty"),
        ("ranking", {"guideline_version": " "}, "guideline_version", 'not be empty, found " "'),
        ("ranking", {"completion_ids": ["a", "", "b"]}, "completion_ids[1]", "must not be empty"),
        ("ranking", {"duration_s": -0.5}, "duration_s", "must be at least 0"),
        ("ranking", {"prompt": user("\u200b\u202e")}, "prompt", "is empty"),
        ("comparison", {"player_a": "m"}, "player_b", "must be given where player_a is"),
        ("comparison", {"player_b": "m"}, "player_a", "must be given where player_b is"),
        ("comparison", {"player_a": "m", "player_b": "m"}, "player_b", "cannot play itself"),
        ("comparison", {"player_a": " ", "player_b": "m"}, "player_a", "must not be empty"),
        ("rule", {"rule_text": ""}, "rule_text", "must not be empty"),
        ("rule", {"ruleset_version": ""}, "ruleset_version", "must not be empty"),
        ("rule", {"turn_index": 2}, "turn_index", "must be 0 to 1, found 2"),
        ("rbrm", {"option_ids": ["A", "A"]}, "option_ids", "must differ"),
        ("rbrm", {"option_ids": ["A", ""]}, "option_ids[1]", "must not be empty"),
        ("rbrm", {"option_logprobs": [0.5, -2.0]}, "option_logprobs[0]", "must be at most 0"),
        ("rbrm", {"judge_id": ""}, "judge_id", "must not be empty"),
        ("question", {"questionnaire_version": ""}, "questionnaire_version", "not be empty"),
        ("question", {"answers": [GIVEN | {"question_id": ""}]}, "answers[0].question_id", "not"),
        ("ranking", {"prompt": "Hi"}, "prompt", "must be a list"),
        ("ranking", {"prompt": ["Hi"]}, "prompt[0]", "must be an object"),
        ("ranking", {"created_at": "2026-01-31T12:00:00"}, "created_at", "time with a zone"),
        ("ranking", {"created_at": "soon"}, "created_at", "time with a zone"),
        (
            "ranking",
            {"created_at": "9999-12-31T23:59:59-12:00"},
            "created_at",
            "time with a zone",
        ),
        ("ranking", {"criterion": "nice"}, "criterion", "must be one of overall"),
        ("ranking", {"criterion": "rule:"}, "criterion", "must be one of overall"),
        ("ranking", {"annotator_kind": "cat"}, "annotator_kind", "must be one of human"),
        ("comparison", {"outcome": "left"}, "outcome", "must be one of a, b, tie, skip"),
        ("rbrm", {"prompt_class": "bad"}, "prompt_class", "must be one of harmful"),
        ("ranking", {"prompt": assistant("Hi")}, "prompt", "last turn of a prompt"),
        ("ranking", {"prompt": user(" ")}, "prompt", "is empty"),
        ("ranking", {"prompt": [{"role": "bot", "content": "a"}]}, "prompt", 'role "bot"'),
        ("rule", {"completions": [user("a")]}, "completions[0]", "is one assistant turn"),
        (
            "rule",
            {"completions": [[*assistant("a"), *assistant("b")]]},
            "completions[0]",
            "is one assistant turn",
        ),
        (
            # Learnt as one answer, it would end at its first EOS.
            "rule",
            {"completions": [[*assistant("a"), {"role": "tool", "content": "b"}, *assistant("c")]]},
            "completions[0]",
            "found roles assistant, tool, assistant",
        ),
        ("rule", {"completion_ids": ["a", "b"]}, "completion_ids", "2 entries for 1"),
        ("ranking", {"completion_ids": ["a", "b", "a"]}, "completion_ids", "must differ"),
        ("ranking", {"generator_ids": ["a"]}, "generator_ids", "1 entries for 3"),
        ("ranking", {"generator_steps": [1]}, "generator_steps", "1 entries for 3"),
        ("ranking", {"display_order": [1, 0]}, "display_order", "2 entries for 3"),
        ("ranking", {"display_order": [0, 1, 1]}, "display_order", "must be an order of 0 to 2"),
        ("best_of", {"best_index": 3}, "best_index", "must be 0 to 2"),
        ("best_of", {"best_index": None}, "best_index", "exactly when none_acceptable"),
        ("best_of", {"none_acceptable": True}, "best_index", "exactly when none_acceptable"),
        ("ranking", {"ranks": [1, 2]}, "ranks", "2 entries for 3"),
        ("ranking", {"ranks": [1, 3, 3]}, "ranks", "must be dense"),
        ("ranking", {"ranks": [0, 1, 2]}, "ranks", "must be dense"),
        ("comparison", {"strength": 4}, "strength", "must be 0 to 3"),
        ("question", {"overall": 1}, "overall", "compares 2"),
        ("question", {"answers": []}, "answers", "must not be empty"),
        ("question", {"answers": [GIVEN, GIVEN]}, "answers", "asks a question twice"),
        ("question", {"answers": [GIVEN | {"value": 2}]}, "answers[0].value", "must be 0 to 1"),
        (
            "question",
            {"answers": [GIVEN | {"gate": True, "value": None}]},
            "answers[0].value",
            "a gate must be answered",
        ),
        (
            "question",
            {"answers": [GIVEN | {"weight": -1}]},
            "answers[0].weight",
            "must be 0 to 10",
        ),
        ("rule", {"severity": 0}, "severity", "must be 1 to 5"),
        ("rule", {"criterion": "overall"}, "criterion", "must be rule:polite"),
        ("rbrm", {"option_logprobs": [0.0]}, "option_logprobs", "1 entries for 2"),
        ("rbrm", {"chosen_option": "C"}, "chosen_option", "none of option_ids"),
    ],
)
def test_a_broken_invariant_names_the_field_and_the_reason(
    kind: str, changes: dict[str, Any], field: str, reason: str
) -> None:
    problems = validate_record(record(kind, **changes))
    assert any(name == field and reason in text for name, text in problems), problems


def test_too_few_answers_to_compare_are_a_problem() -> None:
    one = record("comparison", completions=[assistant("a")], completion_ids=["a"])
    assert ("completions", "comparison needs at least 2, found 1") in validate_record(one)


def test_several_answers_need_the_same_questions_in_blocks() -> None:
    two = {"completions": [assistant("a"), assistant("b")], "completion_ids": ["a", "b"]}
    other = GIVEN | {"question_id": "r"}
    assert validate_record(record("question", **two, answers=[GIVEN, other, GIVEN, other])) == []
    for answers in ([GIVEN, other], [GIVEN, GIVEN, GIVEN]):
        problems = validate_record(record("question", **two, answers=answers))
        assert problems == [("answers", "must be the same questions for each of 2 completions")]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"weight": 2.0}, "weight", "must be 1.0 as for another completion, found 2.0"),
        ({"gate": True}, "gate", "must be false as for another completion, found true"),
        ({"criterion": "honest"}, "criterion", 'must be "overall" as for another completion'),
        ({"value": 0.0}, "value", 'option "yes" is worth 1.0 for another completion, found 0.0'),
    ],
)
def test_a_question_means_the_same_about_every_completion(
    change: dict[str, Any], field: str, reason: str
) -> None:
    two = {"completions": [assistant("a"), assistant("b")], "completion_ids": ["a", "b"]}
    ((name, why),) = validate_record(record("question", **two, answers=[GIVEN, GIVEN | change]))
    assert name == f"answers[1].{field}" and reason in why


@pytest.mark.parametrize("kind", [None, "elo", ["ranking"], 3])
def test_an_unknown_kind_is_a_problem(kind: object) -> None:
    assert validate_record({"kind": kind})[0][0] == "kind"


def test_times_may_be_iso_text_in_any_zone() -> None:
    row = record("ranking", created_at="2026-01-31T13:00:00+01:00")
    assert row["created_at"] == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert validate_record(row) == []


def test_an_annotator_row_is_checked() -> None:
    row = completed({"annotator_id": "a", "kind": "human", "gold_n": 3}, ANNOTATOR)
    assert validate_annotator(row) == []
    assert validate_annotator(row | {"ds_confusion": [[0.5, None]]}) == [
        ("ds_confusion[0][1]", "must not be null")
    ]
    assert validate_annotator(row | {"kind": "cat"})[0][0] == "kind"


@pytest.mark.parametrize("version", ["2.0", "10.1", "next"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_newer_major_version_is_refused(tmp_path: Path, version: str, suffix: str) -> None:
    metadata = {"align.schema": "ranking", "align.schema_version": version}
    table = table_of([record("ranking")], FEEDBACK["ranking"]).replace_schema_metadata(metadata)
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        write_parquet(path, table)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match=f"x{suffix}:1: written in schema version {version}"):
        check_version(path)


def test_a_newer_minor_version_and_a_foreign_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = table_of([record("ranking")], FEEDBACK["ranking"])
    write_parquet(path, table.replace_schema_metadata({"align.schema_version": "1.9"}))
    check_version(path)
    write_parquet(path, table.replace_schema_metadata(None))
    check_version(path)


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "x.parquet", [record("ranking")], FEEDBACK["ranking"])
    with pytest.raises(DataError, match="holds ranking rows, not preference rows"):
        check_version(tmp_path / "x.parquet", "preference")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_prob": 0.4}, "target_prob"),
        ({"target_prob": 1.1}, "target_prob"),
        ({"margin": -0.1}, "margin"),
        ({"target_prob": 0.5, "margin": 0.1, "chosen_id": "a", "rejected_id": "z"}, "margin"),
        ({"target_prob": 0.5, "chosen_id": "z", "rejected_id": "a"}, "chosen_id"),
        ({"weight": 0.0}, "weight"),
        ({"group_weight": -1.0}, "group_weight"),
        ({"feedback_ids": []}, "feedback_ids"),
        ({"feedback_ids": [None]}, "feedback_ids[0]"),
        ({"split": "dev"}, "split"),
        ({"chosen": user("a")}, "chosen"),
        ({"prompt": assistant("a")}, "prompt"),
        ({"label": 1}, "label"),
        ({"chosen_id": ""}, "chosen_id"),
        ({"rejected_id": " "}, "rejected_id"),
        ({"annotator_ids": [""]}, "annotator_ids[0]"),
    ],
)
def test_a_preference_is_checked(changes: dict[str, Any], field: str) -> None:
    assert validate_preference(preference()) == []
    assert [name for name, _ in validate_preference(preference(**changes))] == [field]


def test_chosen_and_rejected_must_differ_in_id_and_text() -> None:
    pair = preference()
    assert validate_preference(pair | {"rejected_id": pair["chosen_id"]})[0][0] == "rejected_id"
    assert validate_preference(pair | {"rejected": pair["chosen"]})[0][0] == "rejected"


def swapped(pair: Record) -> Record:
    return pair | {"chosen_id": pair["rejected_id"], "rejected_id": pair["chosen_id"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda pair: [pair | {"weight": 0.5}], "weight"),
        (lambda pair: [pair | {"group_size": 2}], "group_size"),
        (lambda pair: [pair, pair | {"split": "validation", "group_id": "x"}], "split"),
        (lambda pair: [pair, swapped(pair) | {"group_id": "x"}], "pair_id"),
        (lambda pair: [pair, pair | {"group_id": "x"}], "pair_id"),
    ],
)
def test_a_preference_table_is_checked(
    change: Callable[[Record], list[Record]], field: str
) -> None:
    assert list(pairs_problems(table_of([preference()], PREFERENCE))) == []
    problems = pairs_problems(table_of(change(preference()), PREFERENCE))
    assert field in {problem.field for problem in problems}


def test_every_feedback_id_resolves_to_a_record_that_is_not_gold() -> None:
    pairs = table_of([preference()], PREFERENCE)
    for ids, gold, reason in (
        (["f1"], [False], None),
        (["f2"], [False], "not there"),
        (["f2", "f1"], [False, True], "gold"),
    ):
        problems = list(provenance_problems(pairs, pa.array(ids), pa.array(gold)))
        assert [(row, field) for row, field, _ in problems] == [(0, "feedback_ids")] * bool(reason)
        assert reason is None or reason in problems[0].reason


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "feedback_id"),
        ({"feedback_id": "f2", "prompt": user("Ho")}, "prompt_id"),
        ({"feedback_id": "f2", "cluster_id": "c"}, "cluster_id"),
        ({"feedback_id": "f2", "completions": [assistant("x"), assistant("y")]}, "completion_ids"),
    ],
)
def test_an_id_that_names_two_things_is_found(changes: dict[str, Any], field: str) -> None:
    first = record("comparison")
    with by_prompt([record_batch([first, first | changes])], None) as slices:
        (part,) = slices
        good, ((kind, row, name, _),) = consistent(part, slices.repeated)
    assert (kind, row, name) == ("comparison", 1, field)
    assert len(good["comparison"]) == 1


def test_the_preference_schema_keeps_to_column_names_that_trl_does_not_misread() -> None:
    assert {"prompt", "chosen", "rejected", "margin"} <= set(PREFERENCE.names)
    assert not {"label", "completion", "messages"} & set(PREFERENCE.names)
