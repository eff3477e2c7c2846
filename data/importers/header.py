"""What all importers share: the header of a raw record, and bad rows set aside."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from align.data.files import Row, read_rows
from align.data.messages import Message, cluster_id_of, completion_id_of, prompt_id_of
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

Located = tuple[Path, int, Record]  # the file and line that a record came from

UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)  # where the export does not say when people judged


def header(
    kind: str,
    feedback_id: str,
    prompt: list[Message],
    completions: list[list[Message]],
    *,
    source: str,
    license: str | None,
    annotator_id: str,
    annotator_kind: str = "human",
    guideline_version: str,
    criterion: str = "overall",
    cluster_id: str | None = None,
    completion_ids: list[str] | None = None,
    generator_ids: Sequence[str | None] | None = None,
    display_order: list[int] | None = None,
    created_at: datetime = UNKNOWN_TIME,
    duration_s: float | None = None,
    gold: bool = False,
) -> Record:
    """The fields that every kind of feedback has; ids follow from the texts where not given."""
    return {
        "feedback_id": feedback_id,
        "kind": kind,
        "prompt_id": prompt_id_of(prompt),
        "prompt": prompt,
        "cluster_id": cluster_id or cluster_id_of(prompt),
        "completions": completions,
        "completion_ids": completion_ids or [completion_id_of(turns) for turns in completions],
        "generator_ids": generator_ids and list(generator_ids),
        "generator_steps": None,
        "display_order": display_order,
        "criterion": criterion,
        "annotator_id": annotator_id,
        "annotator_kind": annotator_kind,
        "guideline_version": guideline_version,
        "created_at": created_at,
        "duration_s": duration_s,
        "source": source,
        "license": license,
        "gold": gold,
    }


def located(
    path: Path, rejects: Rejects, convert: Callable[[Row], Iterable[Record]]
) -> Iterator[Located]:
    """The records of every row; a row that `convert` calls bad is set aside."""
    for line, row in read_rows(path, rejects):
        try:
            records = list(convert(row))
        except BadRow as bad:
            rejects.add(path, line, bad.field, bad.reason)
            continue
        for record in records:
            yield path, line, record
