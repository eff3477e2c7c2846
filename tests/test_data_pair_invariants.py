"""Every invariant of the preference table, over whole columns: the word of the row validator."""

from collections.abc import Callable
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.pair_invariants import pairs_problems
from align.data.schemas import PREFERENCE, Preference, table_of
from align.data.validate import validate_preference
from align.reward.config import FeedbackConfig
from align.reward.convert import convert


def preferences() -> list[Preference]:
    """Three pairs of one group, and one of another prompt."""
    records = [
        header(
            "ranking",
            f"f{prompt}",
            user(prompt),
            [assistant(text) for text in "abc"[:size]],
            source="test",
            license="none",
            annotator_id="ann",
            guideline_version="1",
            completion_ids=list("abc"[:size]),
        )
        | {"ranks": list(range(1, size + 1))}
        for prompt, size in (("one", 3), ("two", 2))
    ]
    (part,) = convert(records, FeedbackConfig(), 0.1)
    rows: list[Preference] = part.pairs.to_pylist()
    return rows


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": None}, None),
        ({"prompt_id": None}, "prompt_id"),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt"),
        ({"feedback_ids": [None]}, "feedback_ids"),
        ({"weight": float("nan")}, "weight"),
        ({"target_prob": 0.4}, "target_prob"),
        ({"target_prob": 1.1}, "target_prob"),
        ({"margin": -0.1}, "margin"),
        ({"target_prob": 0.5, "margin": 0.1, "chosen_id": "a", "rejected_id": "z"}, "margin"),
        ({"target_prob": 0.5, "chosen_id": "z", "rejected_id": "a"}, "chosen_id"),
        ({"group_weight": 0.0}, "group_weight"),
        ({"noise_prob": 0.5}, "noise_prob"),
        ({"noise_prob": -0.1}, "noise_prob"),
        ({"agreement": 1.5}, "agreement"),
        ({"agreement": -0.5}, "agreement"),
        ({"n_annotators": 0}, "n_annotators"),
        ({"feedback_ids": []}, "feedback_ids"),
        ({"split": "dev"}, "split"),
        ({"chosen_id": ""}, "chosen_id"),
        ({"rejected_id": " "}, "rejected_id"),
        ({"cluster_id": "\u200b"}, "cluster_id"),
        ({"annotator_ids": ["ann", ""]}, "annotator_ids"),
        ({"feedback_kind": "elo"}, "feedback_kind"),
        ({"criterion": "nice"}, "criterion"),
        ({"chosen": user("x")}, "chosen"),
        ({"rejected": [*assistant("x"), *assistant("y")]}, "rejected"),
        ({"prompt": assistant("a")}, "prompt"),
        ({"prompt": user(" ")}, "prompt"),
        ({"prompt": [{"role": "bot", "content": "x"}, *user("y")]}, "prompt"),
        ({"chosen_id": "same", "rejected_id": "same"}, "rejected_id"),
        ({"chosen": assistant("x"), "rejected": assistant("x")}, "rejected"),
    ],
)
def test_columns_and_rows_are_judged_alike(changes: dict[str, Any], field: str | None) -> None:
    rows = preferences()
    changes = {name: value for name, value in changes.items() if name in PREFERENCE.names}
    rows[-1] |= changes
    found = {(problem.row, problem.field) for problem in pairs_problems(table_of(rows, PREFERENCE))}
    between = {"weight", "pair_id", "group_id"} - {field}  # of its group, whose only row it is
    assert {(row, name) for row, name in found if name not in between} == (
        {(3, field)} if field else set()
    )
    assert bool(validate_preference(rows[-1])) == bool(field)


def swapped(row: Preference) -> Preference:
    return row | {"chosen_id": row["rejected_id"], "rejected_id": row["chosen_id"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda rows: rows[:2], "weight"),
        (lambda rows: rows[:2], "group_size"),
        (lambda rows: [*rows, rows[3] | {"group_id": "x"}], "pair_id"),
        (lambda rows: [*rows, swapped(rows[3]) | {"group_id": "x"}], "pair_id"),
        (lambda rows: [*rows[:2], rows[2] | {"split": "validation"}, rows[3]], "split"),
        (lambda rows: [rows[0] | {"weight": 0.4}, *rows[1:]], "weight"),
        (lambda rows: [*rows[:2], rows[2] | {"criterion": "honest"}, rows[3]], "group_id"),
        (lambda rows: [*rows[:3], rows[3] | {"group_id": rows[0]["group_id"]}], "group_id"),
        (lambda rows: [*rows[:3], rows[3] | {"pair_id": rows[0]["pair_id"]}], "pair_id"),
    ],
)
def test_rows_that_contradict_each_other_are_found(
    change: Callable[[list[Preference]], list[Preference]], field: str
) -> None:
    assert list(pairs_problems(table_of(preferences(), PREFERENCE))) == []
    rows = change(preferences())
    assert field in {problem.field for problem in pairs_problems(table_of(rows, PREFERENCE))}


def test_an_empty_table_is_fine() -> None:
    assert list(pairs_problems(table_of([], PREFERENCE))) == []
