"""Label Studio's exports, JSON and JSON-MIN: tasks with the annotations that people made.

Read are the results of the tags Pairwise, Ranker, Choices, Rating and Number. The config says where
a task's `data` keeps prompt and answers, and what ratings are worth. A tag that grades one answer
is known by its `to_name`, where the object tag is named like the field. Annotations with
`was_cancelled` are skips, those with `ground_truth` are gold. `predictions`, of models, are left
out. Before Label Studio 1.0 annotations were called completions.

JSON-MIN has a row per annotation, with the task's data and the tags' values side by side. It leaves
out `to_name`, so the config says in `about` which answer a tag grades, and what was cancelled.
Documented in Label Studio's "Task format", "Export" and tag pages.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from align.data.config import AskedQuestion, FeedbackSource
from align.data.files import Row, column, text
from align.data.importers.header import Located, located
from align.data.importers.tasks import ANSWER_FIELDS, Reply, Sheet, Task, records_of, task_of
from align.data.importers.texts import time_of
from align.data.messages import shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

SAID = {"selected", "ranker", "choices", "rating", "number"}  # the values of tags
UNRANKED = "_"  # the Ranker's name for items that were left in the list


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """The records of every annotation of every task."""
    return located(path, rejects, partial(_records, source=source))


def _records(row: Row, source: FeedbackSource) -> list[Record]:
    row = _full(row, source) if "annotation_id" in row else row
    data = column(row, "data")
    if not isinstance(data, dict):
        raise BadRow("data", f"must be an object, found {shown(data)}")
    task = task_of(data, source.fields)
    old = "annotations" not in row and "completions" in row
    annotations = _objects(row, "completions" if old else "annotations")
    sheets = [_sheet(row, one, task, source) for one in annotations]
    return records_of(task, sheets, source.questions)


def _full(row: Row, source: FeedbackSource) -> Row:
    """A row of JSON-MIN as a task of the JSON export."""
    asked = {question.name for question in source.questions}
    tags = {name: value for name, value in row.items() if name in asked or _is_said(row, value)}
    if not tags:
        raise BadRow("questions", f"no column is what a tag says; found {shown(list(row))}")
    annotation = {
        "id": row["annotation_id"],
        "completed_by": column(row, "annotator"),
        "created_at": row.get("created_at"),
        "lead_time": row.get("lead_time"),
        "result": [
            {"from_name": name, "value": one if isinstance(one, dict) else {"choices": [one]}}
            for name, value in tags.items()
            for one in (value if isinstance(value, list) else [value])
        ],
    }
    data = {name: row[name] for name in row if name not in tags and name not in annotation}
    return {"data": data, "annotations": [annotation]} | {
        name: row[name] for name in ("id", "project") if name in row
    }


def _is_said(row: Row, value: Any) -> bool:
    """Whether a column of JSON-MIN is what a tag says, and not a part of the task."""
    if isinstance(value, list) and value:
        return all(isinstance(one, dict) and SAID & one.keys() for one in value)
    return isinstance(value, str) and value in row and value.startswith(ANSWER_FIELDS)


def _objects(row: Row, name: str) -> list[Row]:
    values = column(row, name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadRow(name, f"must be a list of objects, found {shown(values)}")
    return values


def _sheet(row: Row, annotation: Row, task: Task, source: FeedbackSource) -> Sheet:
    project = f"label_studio-{row.get('project', 'project')}"
    results = [result for result in _objects(annotation, "result") if "value" in result]
    return Sheet(
        f"{project}-{column(annotation, 'id')}",
        [reply for result in results for reply in _replies(result, task, source.questions)],
        {
            "source": project,
            "license": source.license,
            "annotator_id": f"label_studio-{_annotator(annotation)}",
            "guideline_version": source.guideline_version,
            "created_at": time_of(annotation, "created_at"),
            "duration_s": annotation.get("lead_time"),
            "gold": bool(annotation.get("ground_truth")),
        },
        declined=bool(annotation.get("was_cancelled")),
    )


def _annotator(annotation: Row) -> object:
    """The person's id; with `completed_by` in full it is an object."""
    person = column(annotation, "completed_by")
    name = person.get("id") if isinstance(person, dict) else person
    if not isinstance(name, int | str) or name == "":
        raise BadRow("completed_by", f"must name a person, found {shown(person)}")
    return name


def _replies(result: Row, task: Task, questions: Sequence[AskedQuestion]) -> Iterator[Reply]:
    name, value = text(result, "from_name"), column(result, "value")
    about = result.get("to_name")
    if not isinstance(value, dict):
        raise BadRow(name, f"must have an object as value, found {shown(value)}")
    if "selected" in value:
        yield Reply(name, _picked(name, value["selected"], task))
    elif "ranker" in value:
        yield Reply(name, _groups(name, value["ranker"], questions))
    elif "choices" in value:
        yield Reply(name, _single(value["choices"]), _known(about, task))
    elif "rating" in value or "number" in value:
        yield Reply(name, value.get("rating", value.get("number")), _known(about, task))


def _known(about: Any, task: Task) -> str | None:
    """A tag may also be about the prompt, or about all answers."""
    return about if isinstance(about, str) and about in task.answers else None


def _picked(name: str, side: Any, task: Task) -> str:
    if len(task.answers) != 2:
        raise BadRow(name, f"picks one of 2 answers, the task has {len(task.answers)}")
    if side not in ("left", "right"):
        raise BadRow(name, f"must be left or right, found {shown(side)}")
    left, right = task.answers
    return left if side == "left" else right


def _single(choices: Any) -> Any:
    """The one label that was chosen; several stay as they are, and grade nothing."""
    return choices[0] if isinstance(choices, list) and len(choices) == 1 else choices


def _groups(name: str, buckets: Any, questions: Sequence[AskedQuestion]) -> list[list[str]]:
    """One list is an order; several are buckets, which the config has to put in order."""
    lists = buckets if isinstance(buckets, dict) else {"": buckets}
    if not all(isinstance(ids, list) for ids in lists.values()):
        raise BadRow(name, f"must be lists of ids, found {shown(buckets)}")
    filled = {bucket: [str(one) for one in ids] for bucket, ids in lists.items()}
    if len(filled) > 1:
        filled.pop(UNRANKED, None)
    if len(filled) == 1:
        return [[one] for one in next(iter(filled.values()))]
    order = next((question.choices for question in questions if question.name == name), ())
    if unknown := filled.keys() - set(order):
        raise BadRow(
            name,
            f"nothing says where bucket {sorted(unknown)[0]!r} stands: name all "
            "buckets from worst to best in the question's choices",
        )
    return [filled.get(bucket, []) for bucket in reversed(order)]
