"""What makes a row valid, checked by ourselves at any depth.

A problem is (field, reason). Types, nulls and value sets follow the Arrow schema; `CHECKS` adds
what a schema cannot say. Checks that need several rows are in `data/invariants.py`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from align.data.criteria import CRITERIA, is_criterion
from align.data.errors import DataError
from align.data.files import read_rows
from align.data.messages import completion_problem, prompt_problem, shown
from align.data.questionnaires import questionnaire_problems
from align.data.schemas import (
    ANNOTATOR,
    CHOICES,
    FEEDBACK,
    LARGEST_REWARD,
    LARGEST_WEIGHT,
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
        problems = [*_header_problems(record), *CHECKS[kind](record)]
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
    for name in ("criterion", *CHOICES):
        if name in columns and isinstance(row.get(name), str):
            yield from _choice_problems(name, row[name])


def _choice_problems(name: str, value: str) -> Problems:
    if name.endswith("criterion"):
        if not is_criterion(value):
            known = ", ".join(CRITERIA)
            yield name, f"must be one of {known} or rule:<id>, found {shown(value)}"
    elif value not in CHOICES[name]:
        yield name, f"must be one of {', '.join(CHOICES[name])}, found {shown(value)}"


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
    for name in ("feedback_id", "prompt_id", "annotator_id", "guideline_version", "source"):
        if not record[name]:
            yield name, "must not be empty"
    if "|" in record["prompt_id"]:  # a group_id is prompt_id|criterion|source
        yield "prompt_id", f"must not hold |, found {shown(record['prompt_id'])}"


def _best_of_problems(record: Record) -> Problems:
    best, count = record["best_index"], len(record["completions"])
    if (best is None) != record["none_acceptable"]:
        yield "best_index", "must be null exactly when none_acceptable is true"
    if best is not None and not 0 <= best < count:
        yield "best_index", f"must be 0 to {count - 1}, found {best}"


def _ranking_problems(record: Record) -> Problems:
    ranks = record["ranks"]
    if len(ranks) != len(record["completions"]):
        yield "ranks", f"{len(ranks)} entries for {len(record['completions'])} completions"
    if sorted(set(ranks)) != list(range(1, len(set(ranks)) + 1)):
        yield "ranks", f"must be dense and start at 1 (1, 2, 2, 3), found {shown(ranks)}"


def _comparison_problems(record: Record) -> Problems:
    if len(record["completions"]) != 2:
        yield "completions", f"comparison needs 2, found {len(record['completions'])}"
    yield from _between(record, "strength", 0, 3)


def _question_problems(record: Record) -> Problems:
    count, answers = len(record["completions"]), record["answers"]
    overall = record["overall"]
    if overall is not None and count != 2:
        yield "overall", f"compares 2 completions, found {count}"
    yield from _between(record, "overall", -2, 2)
    if not answers and overall is None:
        yield "answers", "must not be empty where there is no overall judgement"
    size, rest = divmod(len(answers), max(count, 1))
    asked = [answer["question_id"] for answer in answers]
    if rest or any(asked[i] != asked[i % size] for i in range(len(asked))):
        yield "answers", f"must be the same questions for each of {count} completions"
    elif len(set(asked)) != size:
        yield "answers", "asks a question twice about one completion"
    for start in range(0, len(answers), max(size, 1)):
        block = answers[start : start + size]
        for name, problem in questionnaire_problems(record["questionnaire_version"], block):
            yield f"answers.{name}", problem
    for place, answer in enumerate(answers):
        value = answer["value"]
        yield from _choice_problems(f"answers[{place}].criterion", answer["criterion"])
        if value is not None and not 0 <= value <= 1:
            yield f"answers[{place}].value", f"must be 0 to 1, found {value}"
        if value is None and answer["gate"]:
            yield f"answers[{place}].value", "a gate must be answered"
        if not 0 <= answer["weight"] <= LARGEST_WEIGHT:
            found = answer["weight"]
            yield f"answers[{place}].weight", f"must be 0 to {LARGEST_WEIGHT}, found {found}"


def _rule_problems(record: Record) -> Problems:
    if len(record["completions"]) != 1:
        yield "completions", f"one severity judges 1, found {len(record['completions'])}"
    yield from _between(record, "severity", 1, 5)
    if record["criterion"] != f"rule:{record['rule_id']}":
        yield "criterion", f"must be rule:{record['rule_id']}, found {record['criterion']}"


def _rbrm_problems(record: Record) -> Problems:
    if record["annotator_kind"] != "model":
        yield "annotator_kind", f"a judge is a model, found {record['annotator_kind']}"
    if len(record["option_ids"]) != len(record["option_logprobs"]):
        yield (
            "option_logprobs",
            f"{len(record['option_logprobs'])} entries for {len(record['option_ids'])} options",
        )
    yield from _between(record, "reward", -LARGEST_REWARD, LARGEST_REWARD)
    yield from _between(record, "n_permutations", 1, 2**15 - 1)
    if record["chosen_option"] not in record["option_ids"]:
        yield "chosen_option", f"{shown(record['chosen_option'])} is none of option_ids"


def _between(record: Record, name: str, low: int, high: int) -> Problems:
    value = record[name]
    if value is not None and not low <= value <= high:
        yield name, f"must be {low} to {high}, found {value}"


def _preference_problems(row: Record) -> Problems:
    if problem := prompt_problem(row["prompt"]):
        yield "prompt", problem
    for name in ("chosen", "rejected"):
        if problem := completion_problem(row[name]):
            yield name, problem
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
    for name in ("weight", "group_weight"):
        if row[name] <= 0:
            yield name, f"must be above 0, found {row[name]}"


CHECKS: dict[str, Callable[[Record], Problems]] = {
    "best_of": _best_of_problems,
    "ranking": _ranking_problems,
    "comparison": _comparison_problems,
    "question": _question_problems,
    "rule": _rule_problems,
    "rbrm": _rbrm_problems,
}
