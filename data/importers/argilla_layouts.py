"""Argilla's other layouts, as the records that Argilla 2 writes as JSON.

- 1.x `FeedbackRecord`: `responses` is a list by person, with `values` by question; `suggestions` a
  list by question.
- 1.x as a `datasets` table: a column for each field and each question, which holds the responses;
  `QUESTION-suggestion` and `QUESTION-suggestion-metadata`.
- 2.x `to_datasets`: a column for each field; `QUESTION.responses`, `QUESTION.responses.users` and
  `QUESTION.responses.status`, side by side; `QUESTION.suggestion` and `QUESTION.suggestion.agent`.
"""

from collections import defaultdict
from typing import Any

from align.data.files import Row, column
from align.data.messages import sha256_of, shown
from align.data.rejects import BadRow

ANSWERED = ".responses"
NO_FIELDS = {"id", "status", "external_id", "metadata", "_server_id", "inserted_at", "updated_at"}

Responses = dict[str, list[Row]]  # by question


def as_record(row: Row) -> Row:
    """A row of any layout in that of Argilla 2. Raises: BadRow."""
    if "fields" in row:
        return _from_one(row) if isinstance(row.get("responses"), list) else row
    side_by_side = [name.removesuffix(ANSWERED) for name in row if name.endswith(ANSWERED)]
    if side_by_side:
        return _flat(row, side_by_side, ".")
    questions = [name for name, value in row.items() if _is_answered(value)]
    questions += [name for name in row if f"{name}-suggestion" in row and name not in questions]
    return _flat(row, questions, "-") if questions else row


def _from_one(row: Row) -> Row:
    responses: Responses = defaultdict(list)
    for given in row["responses"]:
        values = _object(given, "responses").get("values")
        if not isinstance(values, dict | None):
            raise BadRow("responses", f"must be objects with values, found {shown(given)}")
        who = {name: given.get(name) for name in ("user_id", "status")}
        said = {question: one for question, one in (values or {}).items() if one is not None}
        for question, value in (said or {"": {"value": None}}).items():  # nothing: discarded
            responses[question].append(who | _object(value, f"responses.{question}"))
    suggestions = row.get("suggestions") or []
    if not isinstance(suggestions, list):
        raise BadRow("suggestions", f"must be a list of objects, found {shown(suggestions)}")
    objects = [_object(one, "suggestions") for one in suggestions]
    suggested = {str(column(one, "question_name")): one for one in objects}
    return row | {"id": _id(row, row["fields"]), "responses": responses, "suggestions": suggested}


def _flat(row: Row, questions: list[str], mark: str) -> Row:
    own = {
        name
        for question in questions
        for name in row
        if name == question or name.startswith((f"{question}{mark}suggestion", question + ANSWERED))
    }
    fields = {name: row[name] for name in row if name not in own | NO_FIELDS}
    return {
        "id": _id(row, fields),
        "fields": fields,
        "responses": {question: _responses(row, question, mark) for question in questions},
        "suggestions": {
            question: {"value": row[name], "agent": _agent(row, name)}
            for question in questions
            if row.get(name := f"{question}{mark}suggestion") is not None
        },
    }


def _responses(row: Row, question: str, mark: str) -> Any:
    if mark == "-":
        return row[question] or []
    name = question + ANSWERED
    values = row[name] or []
    if not isinstance(values, list):
        raise BadRow(name, f"must be a list, found {shown(values)}")
    users, status = (row.get(f"{name}.{part}") or [] for part in ("users", "status"))
    lists = [values, users, status or ["submitted"] * len(values)]
    if not all(isinstance(one, list) and len(one) == len(values) for one in lists):
        raise BadRow(name, "must have as many users and states as responses")
    return [
        {"value": value, "user_id": user, "status": state}
        for value, user, state in zip(*lists, strict=True)
    ]


def _agent(row: Row, name: str) -> Any:
    metadata = row.get(f"{name}-metadata")
    return metadata.get("agent") if isinstance(metadata, dict) else row.get(f"{name}.agent")


def _is_answered(value: Any) -> bool:
    """Whether a column holds responses of people."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and {"user_id", "value"} <= one.keys() for one in value)
    )


def _id(row: Row, fields: Any) -> str:
    """Records that were never in a server have no id of their own."""
    known = next((row[name] for name in ("id", "external_id") if row.get(name) is not None), None)
    return str(known if known is not None else sha256_of(fields)[:32])


def _object(value: Any, name: str) -> Row:
    if not isinstance(value, dict):
        raise BadRow(name, f"must be an object, found {shown(value)}")
    return value
