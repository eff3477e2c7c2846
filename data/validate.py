"""What makes a row valid, checked by ourselves at any depth.

A problem is (field, reason). Types, nulls and value sets follow the Arrow schema; what it cannot
say of a kind is in `data/kind_invariants.py`, and what needs several rows in `data/invariants.py`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from align.data.errors import DataError
from align.data.files import read_rows
from align.data.kind_invariants import blank_names, criterion_problems, kind_problems
from align.data.messages import completion_problem, prompt_problem, shown
from align.data.presence import NAMES, PREFERENCE_NAMES
from align.data.schemas import (
    ANNOTATOR,
    CHOICES,
    FEEDBACK,
    LEAST_COMPLETIONS,
    PREFERENCE,
    Record,
    check_version,
    completed,
)
from align.data.shapes import Problem, Problems, Shape, shapes_of

FEEDBACK_SHAPES = {kind: shapes_of(schema) for kind, schema in FEEDBACK.items()}
PREFERENCE_SHAPES = shapes_of(PREFERENCE)
ANNOTATOR_SHAPES = shapes_of(ANNOTATOR)


def validate_record(record: Record) -> list[Problem]:
    """Everything wrong with a raw record; it must have been `completed`."""
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in FEEDBACK:
        return [("kind", f"must be one of {', '.join(FEEDBACK)}, found {shown(kind)}")]
    problems = list(_against_schema(record, FEEDBACK_SHAPES[kind]))
    if not problems:  # the checks below rely on types
        problems = [*_header_problems(record), *kind_problems(record)]
    return problems


def validate_preference(row: Record) -> list[Problem]:
    """Everything wrong with one row of the preference table."""
    problems = list(_against_schema(row, PREFERENCE_SHAPES))
    return problems or list(_preference_problems(row))


def read_validated(
    path: Path, schema: pa.Schema, validate: Callable[[Record], list[Problem]]
) -> list[Record]:
    """The rows of a table in one of our schemas, every one of them valid.

    Raises: DataError if the file is missing, newer than this program, of another schema, or holds
    an invalid row.
    """
    check_version(path, schema.metadata[b"align.schema"].decode())
    rows = []
    for line, row in read_rows(path):
        one = completed(row, schema)
        for name, reason in validate(one):
            raise DataError(f"{path}:{line}: {name}: {reason}")
        rows.append(one)
    return rows


def validate_annotator(row: Record) -> list[Problem]:
    """Everything wrong with one row of the annotator table."""
    return list(_against_schema(row, ANNOTATOR_SHAPES))


def _against_schema(row: Mapping[str, Any], columns: Mapping[str, Shape]) -> Problems:
    for name in row:
        if name not in columns:
            near = get_close_matches(str(name), columns, n=1)
            yield name, "unknown field" + (f": did you mean {near[0]}?" if near else "")
    for name, shape in columns.items():
        if not shape.fits(row.get(name)):
            yield from shape.problems(name, row.get(name))
    if "criterion" in columns and isinstance(row.get("criterion"), str):
        yield from criterion_problems("criterion", row["criterion"])
    for name, known in CHOICES.items():
        value = row.get(name)
        if name in columns and isinstance(value, str) and value not in known:
            yield name, f"must be one of {', '.join(known)}, found {shown(value)}"


def _header_problems(record: Record) -> Problems:
    if problem := prompt_problem(record["prompt"]):
        yield "prompt", problem
    count, least = len(record["completions"]), LEAST_COMPLETIONS[record["kind"]]
    if count < least:
        yield "completions", f"{record['kind']} needs at least {least}, found {count}"
    for place, completion in enumerate(record["completions"]):
        if problem := completion_problem(completion):
            yield f"completions[{place}]", problem
    for name in ("completion_ids", "generator_ids", "generator_steps", "display_order"):
        if record[name] is not None and len(record[name]) != count:
            yield name, f"{len(record[name])} entries for {count} completions"
    if len(set(record["completion_ids"])) != len(record["completion_ids"]):
        yield "completion_ids", f"must differ, found {shown(record['completion_ids'])}"
    order = record["display_order"]
    if order is not None and sorted(order) != list(range(len(order))):
        yield "display_order", f"must be an order of 0 to {count - 1}, found {shown(order)}"
    yield from blank_names(record, NAMES)
    if "|" in record["prompt_id"]:  # a group_id is prompt_id|criterion|source
        yield "prompt_id", f"must not hold |, found {shown(record['prompt_id'])}"
    if record["duration_s"] is not None and record["duration_s"] < 0:
        yield "duration_s", f"must be at least 0, found {record['duration_s']}"


def _preference_problems(row: Record) -> Problems:
    if problem := prompt_problem(row["prompt"]):
        yield "prompt", problem
    for name in ("chosen", "rejected"):
        if problem := completion_problem(row[name]):
            yield name, problem
    yield from blank_names(row, PREFERENCE_NAMES)
    if row["chosen_id"] == row["rejected_id"]:
        yield "rejected_id", "must differ from chosen_id"
    if row["chosen"] == row["rejected"]:
        yield "rejected", "must differ from chosen"
    yield from _preference_number_problems(row)
    if not row["feedback_ids"]:
        yield "feedback_ids", "must name the feedback that the pair rests on"


def _preference_number_problems(row: Record) -> Problems:
    if not 0.5 <= row["target_prob"] <= 1:
        yield "target_prob", f"must be 0.5 to 1, found {row['target_prob']}"
    noise = row["noise_prob"]
    if noise is not None and not 0 <= noise < 0.5:
        yield "noise_prob", f"must be at least 0 and below 0.5, found {noise}"
    if row["margin"] < 0 or (row["target_prob"] == 0.5 and row["margin"] != 0):
        yield "margin", f"must be at least 0, and 0 for a tie, found {row['margin']}"
    if row["target_prob"] == 0.5 and row["chosen_id"] > row["rejected_id"]:
        yield "chosen_id", "must be the smaller of the two ids in a tie"
    if row["agreement"] is not None and not 0 <= row["agreement"] <= 1:
        yield "agreement", f"must be 0 to 1, found {row['agreement']}"
    if row["n_annotators"] < 1:
        yield "n_annotators", f"must be at least 1, found {row['n_annotators']}"
    for name in ("weight", "group_weight"):
        if row[name] <= 0:
            yield name, f"must be above 0, found {row[name]}"
