"""The screen of Arrow batches passes what the validator passes, and nothing that it refuses."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data.config import FeedbackSource
from align.data.errors import DataError
from align.data.feedback import feedback_batches
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import plain
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, Record, completed, table_of
from align.data.screen import surely_valid
from align.data.validate import validate_record

GIVEN = {
    "question_id": "q",
    "criterion": "overall",
    "option": "yes",
    "value": 1.0,
    "weight": 1.0,
    "gate": False,
}
OTHER = GIVEN | {"question_id": "r"}
OWN: dict[str, dict[str, Any]] = {
    "best_of": {"best_index": 1, "none_acceptable": False},
    "ranking": {"ranks": [1, 2, 2]},
    "comparison": {"outcome": "a"},
    "question": {"answers": [GIVEN, OTHER] * 2, "questionnaire_version": "1"},
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
SIZES = {"best_of": 3, "ranking": 3, "comparison": 2, "question": 2, "rule": 1, "rbrm": 1}

# What may go wrong in any record, and in one kind alone.
BAD: list[dict[str, Any]] = [
    {"feedback_id": ""},
    {"prompt_id": ""},
    {"prompt_id": "a|b"},
    {"source": None},
    {"guideline_version": ""},
    {"guideline_version": " "},
    {"annotator_id": "\u200b\u202e\t"},
    {"cluster_id": ""},
    {"duration_s": -1.0},
    {"annotator_id": None},
    {"criterion": "nice"},
    {"annotator_kind": "cat"},
    {"kind": "elo"},
    {"prompt": []},
    {"prompt": user(" \n\t")},
    {"prompt": user("\u2003")},
    {"prompt": user("\ufeff\u200d\0")},
    {"prompt": assistant("Hi")},
    {"prompt": [{"role": "bot", "content": "a"}, *user("b")]},
    {"prompt": [{"role": "user", "content": None}]},
    {"completions": [], "completion_ids": []},
    {"completion_ids": ["a"] * 4},
    {"completion_ids": []},
    {"completion_ids": [""]},
    {"completion_ids": ["a", " "]},
    {"completion_ids": ["", "a", "b"]},
    {"generator_ids": ["a"] * 5},
    {"generator_steps": [1] * 5},
    {"display_order": [7]},
    {"display_order": [0, 0, 0]},
    {"gold": None},
    {"created_at": None},
    {"duration_s": float("nan")},
]
OWN_BAD: list[tuple[str, dict[str, Any]]] = [
    ("best_of", {"best_index": 3}),
    ("best_of", {"best_index": -1}),
    ("best_of", {"best_index": None}),
    ("best_of", {"none_acceptable": True}),
    ("ranking", {"ranks": [1, 2]}),
    ("ranking", {"ranks": [1, 3, 3]}),
    ("ranking", {"ranks": [0, 1, 2]}),
    ("ranking", {"ranks": [2, 2, 2]}),
    ("ranking", {"ranks": [1, None, 2]}),
    ("ranking", {"completions": [assistant("a"), user("b"), assistant("c")]}),
    ("ranking", {"completions": [assistant("a"), [], assistant("c")]}),
    ("ranking", {"completions": [assistant("a"), assistant("b") * 2, assistant("c")]}),
    ("ranking", {"display_order": [0, 1, 3]}),
    ("ranking", {"completion_ids": ["a", "b", "a"]}),
    ("comparison", {"outcome": "left"}),
    ("comparison", {"strength": 4}),
    ("comparison", {"player_a": "m"}),
    ("comparison", {"player_b": "m"}),
    ("comparison", {"player_a": "m", "player_b": "m"}),
    ("comparison", {"player_a": "", "player_b": "m"}),
    ("question", {"answers": [GIVEN, OTHER, OTHER, GIVEN]}),
    ("question", {"answers": [GIVEN, GIVEN] * 2}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN]}),
    ("question", {"answers": []}),
    ("question", {"overall": 3}),
    ("question", {"answers": [GIVEN | {"value": 1.5}, OTHER] * 2}),
    ("question", {"answers": [GIVEN | {"weight": -1.0}, OTHER] * 2}),
    ("question", {"answers": [GIVEN | {"weight": 1e7}, OTHER] * 2}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"weight": 2.0}, OTHER]}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"gate": True}, OTHER]}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"criterion": "honest"}, OTHER]}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"value": 0.0}, OTHER]}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"value": None}, OTHER]}),
    ("question", {"answers": [GIVEN | {"question_id": " "}, OTHER] * 2}),
    ("question", {"questionnaire_version": ""}),
    ("rbrm", {"reward": 101.0}),
    ("rbrm", {"n_permutations": 0}),
    ("question", {"answers": [GIVEN | {"gate": True, "value": None}, OTHER] * 2}),
    ("question", {"answers": [GIVEN | {"criterion": "nice"}, OTHER] * 2}),
    ("question", {"answers": [GIVEN | {"option": None}, OTHER] * 2}),
    ("rule", {"severity": 0}),
    ("rule", {"severity": 6}),
    ("rule", {"criterion": "rule:rude"}),
    ("rule", {"rule_text": ""}),
    ("rule", {"rule_text": " \u200b"}),
    ("rule", {"ruleset_version": ""}),
    ("rule", {"turn_index": -1}),
    ("rule", {"turn_index": 2}),
    ("rbrm", {"completions": [assistant("a"), assistant("b")], "completion_ids": ["a", "b"]}),
    ("rbrm", {"option_ids": ["A", "A"]}),
    ("rbrm", {"option_ids": ["A", ""]}),
    ("rbrm", {"option_logprobs": [-2.0, 0.1]}),
    ("rbrm", {"rubric_id": ""}),
    ("rbrm", {"rubric_version": " "}),
    ("rbrm", {"judge_id": ""}),
    ("rbrm", {"option_logprobs": [0.0]}),
    ("rbrm", {"chosen_option": "C"}),
    ("rbrm", {"annotator_kind": "human"}),
    ("rbrm", {"prompt_class": "bad"}),
    ("rbrm", {"reward": float("inf")}),
]
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("best_of", {"best_index": None, "none_acceptable": True}),
    ("ranking", {"ranks": [1, 1, 1]}),
    ("ranking", {"display_order": [2, 0, 1], "generator_ids": ["a", None, "b"]}),
    ("ranking", {"prompt": [{"role": "system", "content": ""}, *user("漢")]}),
    ("comparison", {"outcome": "skip", "strength": 0}),
    ("comparison", {"player_a": "m", "player_b": "n"}),
    ("comparison", {"completions": [assistant(""), assistant("b")]}),  # models do say nothing
    ("rule", {"turn_index": 1}),
    ("rbrm", {"option_logprobs": [1e-7, -20.0]}),  # rounding
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"option": "no", "value": 0.0}, OTHER]}),
    ("question", {"answers": [GIVEN, OTHER, GIVEN | {"option": "N/A", "value": None}, OTHER]}),
    ("question", {"answers": [], "overall": -2}),
    ("question", {"answers": [GIVEN | {"value": None}, OTHER] * 2}),
]


def record(kind: str, **changes: Any) -> Record:
    made = header(
        kind,
        "f1",
        user("Hi"),
        [assistant(f"answer {i}") for i in range(SIZES[kind])],
        source="test",
        license="none",
        annotator_id="ann",
        guideline_version="1",
    )
    return completed(made | OWN[kind] | changes, FEEDBACK[kind])


def screened(kind: str, *records: Record) -> list[bool]:
    table = table_of(records, plain(FEEDBACK[kind])).combine_chunks()
    flags: list[bool] = surely_valid(table, kind).tolist()
    return flags


@pytest.mark.parametrize("kind", FEEDBACK)
def test_what_passes_the_validator_passes_the_screen_and_the_rest_does_not(kind: str) -> None:
    own = [changes for name, changes in OWN_BAD if name == kind]
    good = [record(kind), *(record(kind, **changes) for name, changes in GOOD if name == kind)]
    bad = [completed(record(kind) | changes, FEEDBACK[kind]) for changes in (*BAD, *own)]
    for one in bad:
        assert screened(kind, one) == [not validate_record(one)], one
    assert screened(kind, *good) == [True] * len(good)
    assert [validate_record(one) for one in good] == [[]] * len(good)


@pytest.mark.parametrize("kind", FEEDBACK)
def test_a_bad_row_among_good_ones_is_found_alone(kind: str) -> None:
    rows = [record(kind), record(kind, source=None), record(kind), record(kind, prompt_id="|")]
    assert screened(kind, *rows) == [True, False, True, False]
    assert screened(kind) == []


def read(path: Path) -> tuple[list[Record], list[tuple[int, str]]]:
    """The records in a file, and line and field of those set aside."""
    rejects = Rejects(path.parent / "rejected.jsonl", 1.0)
    batches = feedback_batches([FeedbackSource(format="records", path=path)], rejects)
    rows = [row for batch in batches for row in batch.to_pylist()]
    return rows, [(one.line, one.field) for one in rejects.rejections]


@pytest.mark.parametrize("schema", [FEEDBACK["ranking"], plain(FEEDBACK["ranking"])])
def test_bad_rows_of_a_parquet_file_are_set_aside_by_line_and_field(
    tmp_path: Path, schema: pa.Schema
) -> None:
    rows = [record("ranking", feedback_id=f"f{i}") for i in range(5)]
    rows[1] |= {"ranks": [1, 3, 3]}
    rows[3] |= {"prompt": user(" ")}
    pq.write_table(table_of(rows, schema), tmp_path / "x.parquet")
    found, bad = read(tmp_path / "x.parquet")
    assert bad == [(2, "ranks"), (4, "prompt")]
    assert [(one["feedback_id"], one["line"]) for one in found] == [("f0", 1), ("f2", 3), ("f4", 5)]


def test_a_file_of_another_program_is_read_row_by_row_where_its_types_differ(
    tmp_path: Path,
) -> None:
    rows = [record("ranking", feedback_id=f"f{i}") for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found, bad = read(tmp_path / "x.parquet")
    assert [one["feedback_id"] for one in found] == ["f0", "f1", "f2"] and bad == []
    odd = [row | {"gold": 0} for row in rows]
    pq.write_table(pa.Table.from_pylist(odd), tmp_path / "z.parquet")
    with pytest.raises(DataError, match="gold: must be true or false, found 0"):
        read(tmp_path / "z.parquet")
    odd = [row | {"rank": 1} for row in rows[:1]]
    pq.write_table(pa.Table.from_pylist(odd), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="did you mean ranks"):
        read(tmp_path / "y.parquet")


@pytest.mark.parametrize("moment", [2**62, -(2**62)])
def test_a_time_beyond_the_calendar_is_set_aside_alone(tmp_path: Path, moment: int) -> None:
    rows = [record("ranking", feedback_id=f"f{i}") for i in range(3)]
    table = table_of(rows, plain(FEEDBACK["ranking"]))
    place = table.column_names.index("created_at")
    times = pa.array([0, moment, 1], pa.timestamp("us", "UTC"))
    pq.write_table(table.set_column(place, "created_at", times), tmp_path / "x.parquet")
    found, bad = read(tmp_path / "x.parquet")
    assert [one["feedback_id"] for one in found] == ["f0", "f2"] and bad == [(2, "")]


def test_kinds_may_be_mixed_in_an_arrow_file(tmp_path: Path) -> None:
    rows = [record("best_of", feedback_id="f0"), record("best_of", feedback_id="f1")]
    table = pa.Table.from_pylist([row | {"ranks": None} for row in rows])
    mixed = table.set_column(table.column_names.index("kind"), "kind", pa.array(["best_of", "elo"]))
    pq.write_table(mixed.drop_columns("ranks"), tmp_path / "x.parquet")
    found, bad = read(tmp_path / "x.parquet")
    assert [one["feedback_id"] for one in found] == ["f0"] and bad == [(2, "kind")]


TIMES = [1_700_000_000, 1_700_000_001, 1_700_000_002]
TURN = pa.struct([("content", pa.string_view()), ("role", pa.large_string())])
UNLIKE: list[tuple[str, str, pa.Array]] = [
    ("comparison", "created_at", pa.array(TIMES)),
    ("comparison", "created_at", pa.array(TIMES, pa.timestamp("s"))),
    ("comparison", "created_at", pa.array([1, 2, 3], pa.date32())),
    ("comparison", "strength", pa.array([True, False, True])),
    ("comparison", "strength", pa.array(["1", "2", "3"])),
    ("comparison", "strength", pa.array([1.0, 2.0, 3.0])),
    ("comparison", "duration_s", pa.array(["1", "2", "3"])),
    ("comparison", "duration_s", pa.array([True, False, True])),
    ("comparison", "display_order", pa.array([["0", "1"]] * 3)),
    ("comparison", "gold", pa.array([0, 1, 0])),
    ("comparison", "source", pa.array([1, 2, 3])),
    ("comparison", "source", pa.array([b"a", b"b", b"c"])),
    ("ranking", "ranks", pa.array([["1", "2", "2"]] * 3)),
    ("ranking", "ranks", pa.array([[1.0, 2.0, 2.0]] * 3)),
]
ALIKE: list[tuple[str, str, pa.Array]] = [
    ("comparison", "created_at", pa.array(TIMES, pa.timestamp("ms", "Asia/Tokyo"))),
    ("comparison", "strength", pa.array([1, 2, None], pa.uint64())),
    ("comparison", "duration_s", pa.array([1, 2, 3])),
    ("comparison", "duration_s", pa.array([1.5, 2, 3], pa.float64())),
    ("comparison", "display_order", pa.array([[0, 1], None, [1, 0]], pa.large_list(pa.int64()))),
    ("comparison", "player_a", pa.nulls(3)),
    ("comparison", "source", pa.array(["a", "b", "c"], pa.large_string())),
    ("comparison", "source", pa.array(["a", "b", "c"], pa.string_view())),
    ("comparison", "source", pa.array(["a", "b", "c"]).dictionary_encode()),
    ("comparison", "kind", pa.array(["comparison"] * 3, pa.string_view())),
    ("ranking", "completion_ids", pa.array([["a", "b", "c"]] * 3, pa.list_(pa.string_view()))),
    ("ranking", "prompt", pa.array([user("Hi")] * 3, pa.list_(TURN))),
]


def in_an_arrow_file(path: Path, kind: str, name: str, values: pa.Array) -> pa.Table:
    """Three records, of which one column is of another type."""
    rows = [record(kind, feedback_id=f"f{i}", prompt_id="p") for i in range(3)]
    table = table_of(rows, plain(FEEDBACK[kind]))
    table = table.set_column(table.column_names.index(name), name, values)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return table


@pytest.mark.parametrize(("kind", "name", "values"), UNLIKE)
def test_a_column_of_another_type_is_refused_as_in_json(
    tmp_path: Path, kind: str, name: str, values: pa.Array
) -> None:
    table = in_an_arrow_file(tmp_path / "x.arrow", kind, name, values)
    for row in table.to_pylist():
        fields = {field.split("[")[0] for field, _ in validate_record(completed(row, table.schema))}
        assert fields == {name}
    with pytest.raises(DataError, match=f"x.arrow:1: {name}"):
        read(tmp_path / "x.arrow")


@pytest.mark.parametrize(("kind", "name", "values"), ALIKE)
def test_a_column_that_only_writes_the_same_differently_is_read(
    tmp_path: Path, kind: str, name: str, values: pa.Array
) -> None:
    in_an_arrow_file(tmp_path / "x.arrow", kind, name, values)
    found, bad = read(tmp_path / "x.arrow")
    assert bad == [] and [one[name] for one in found] == values.to_pylist()


def test_a_view_in_a_row_that_is_looked_at_alone_is_read(tmp_path: Path) -> None:
    names = pa.array(["a", "", "c"], pa.string_view())
    in_an_arrow_file(tmp_path / "x.arrow", "comparison", "source", names)
    found, bad = read(tmp_path / "x.arrow")
    assert [one["feedback_id"] for one in found] == ["f0", "f2"] and bad == [(2, "source")]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("strength", pa.array([1, 2**40, 3])),
        ("duration_s", pa.array([1.0, 1e300, 2.0])),
        ("created_at", pa.array([1, 2**60, 3], pa.timestamp("s", "UTC"))),
    ],
)
def test_a_value_that_cannot_be_cast_is_set_aside_alone(
    tmp_path: Path, name: str, values: pa.Array
) -> None:
    in_an_arrow_file(tmp_path / "x.arrow", "comparison", name, values)
    found, bad = read(tmp_path / "x.arrow")
    assert [one["feedback_id"] for one in found] == ["f0", "f2"] and [line for line, _ in bad] == [
        2
    ]
