"""Argilla's records: fields, responses by people, suggestions by models.

Read are records of 2.x as JSON or JSONL, and the layouts in `argilla_layouts.py`.

A LabelQuestion that names an answer's field is a comparison, a RankingQuestion a ranking, and a
RatingQuestion or another LabelQuestion grades an answer, by what the config says. Drafts are left
out, discarded responses are skips. The export has no times. Argilla's `Record.to_dict` documents
the shape.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from align.data.config import FeedbackSource
from align.data.files import Row, column, text
from align.data.importers.argilla_layouts import as_record
from align.data.importers.header import Located, located
from align.data.importers.tasks import Reply, Sheet, records_of, task_of
from align.data.messages import shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

STATUSES = ("submitted", "draft", "discarded")


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """The records of every response, then those of the models' suggestions."""
    return located(path, rejects, partial(_records, source=source))


def _records(row: Row, source: FeedbackSource) -> list[Record]:
    row = as_record(row)
    task = task_of(_object(row, "fields"), source.fields)
    return records_of(task, _sheets(row, source), source.questions)


def _sheets(row: Row, source: FeedbackSource) -> Iterator[Sheet]:
    for (user_id, status), replies in _responses(row).items():
        if status != "draft":
            yield _sheet(row, user_id, "human", replies, source, status == "discarded")
    for agent, replies in _suggestions(row).items():
        yield _sheet(row, agent, "model", replies, source, False)


def _object(row: Row, name: str) -> Row:
    value = column(row, name)
    if not isinstance(value, dict):
        raise BadRow(name, f"must be an object, found {shown(value)}")
    return value


def _responses(row: Row) -> dict[tuple[str, str], list[Reply]]:
    """Everybody's replies, by user and status."""
    replies: dict[tuple[str, str], list[Reply]] = defaultdict(list)
    for question, given in _object(row, "responses").items():
        name = f"responses.{question}"
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise BadRow(name, f"must be a list of objects, found {shown(given)}")
        for one in given:
            status = one.get("status") or "submitted"  # versions before 2.2 export only submitted
            user_id = one.get("user_id")
            if not isinstance(user_id, str) or not user_id:
                raise BadRow(f"{name}.user_id", f"must name a person, found {shown(user_id)}")
            if status not in STATUSES:
                raise BadRow(f"{name}.status", f"must be one of {', '.join(STATUSES)}")
            value = column(one, "value")
            if value is not None or status != "submitted":  # not every question must be answered
                replies[user_id, status].append(Reply(question, _value(value)))
    return replies


def _suggestions(row: Row) -> dict[str, list[Reply]]:
    """The models' replies, by model."""
    replies: dict[str, list[Reply]] = defaultdict(list)
    if not row.get("suggestions"):
        return replies
    for question, one in _object(row, "suggestions").items():
        if not isinstance(one, dict):
            raise BadRow(f"suggestions.{question}", f"must be an object, found {shown(one)}")
        agent = one.get("agent") or "unknown-model"
        replies[str(agent)].append(Reply(question, _value(column(one, "value"))))
    return replies


def _value(value: Any) -> Any:
    """A ranking, which is names in order or {value, rank} objects, as groups; else unchanged.

    `datasets` makes one object of lists of a list of objects.
    """
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        parts = zip(*value.values(), strict=False)
        value = [dict(zip(value, one, strict=True)) for one in parts]
    if not isinstance(value, list):
        return value
    if all(isinstance(one, str) for one in value):
        return [[one] for one in value]
    if not all(isinstance(one, dict) and isinstance(one.get("rank"), int) for one in value):
        return value
    groups: dict[int, list[str]] = defaultdict(list)
    for one in value:
        groups[one["rank"]].append(text(one, "value"))
    return [groups[rank] for rank in sorted(groups)]


def _sheet(
    row: Row,
    annotator: str,
    kind: str,
    replies: list[Reply],
    source: FeedbackSource,
    declined: bool,
) -> Sheet:
    return Sheet(
        f"argilla-{column(row, 'id')}-{annotator}",
        replies,
        {
            "source": "argilla",
            "license": source.license,
            "annotator_id": f"argilla-{annotator}",
            "annotator_kind": kind,
            "guideline_version": source.guideline_version,
        },
        declined,
    )
