"""Raw records from every source the config names, validated."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from align.data.config import FeedbackSource
from align.data.files import read_rows
from align.data.importers import (
    arena,
    argilla,
    hh,
    label_studio,
    llmfao,
    oasst,
    pandalm,
    rbr,
    trl,
    truthfulqa_judge,
    ultrafeedback,
)
from align.data.importers.header import Located
from align.data.invariants import records_problems
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, Record, check_version, completed
from align.data.validate import validate_record

MOST_APART = 4  # records on one prompt by one criterion, where only so many rows are taken


@dataclass(frozen=True)
class Found:
    """A record and where it stood."""

    file: Path
    line: int
    record: Record


def _read_records(path: Path, rejects: Rejects) -> Iterator[Located]:
    """Our own schema, in any kind of file."""
    check_version(path)
    for line, row in read_rows(path, rejects):
        yield path, line, row


READERS: dict[str, Callable[[Path, Rejects], Iterator[Located]]] = {
    "records": _read_records,
    "llmfao": llmfao.read,
    "oasst": oasst.read,
    "pandalm": pandalm.read,
    "rbr": rbr.read,
    "truthfulqa_judge": truthfulqa_judge.read,
    "ultrafeedback": ultrafeedback.read,
}
# The layouts that many tools write: the source says what a file cannot.
LAYOUTS: dict[str, Callable[[Path, Rejects, FeedbackSource], Iterator[Located]]] = {
    "argilla": argilla.read,
    "arena": arena.read,
    "hh": hh.read,
    "label_studio": label_studio.read,
    "trl": trl.read,
}


def reader_of(source: FeedbackSource) -> Callable[[Path, Rejects], Iterator[Located]]:
    """What reads a source's format."""
    if source.format not in LAYOUTS:
        return READERS[source.format]
    read = LAYOUTS[source.format]
    return lambda path, rejects: read(path, rejects, source)


def read_feedback(
    sources: Sequence[FeedbackSource], max_rejected: float, rejected_path: Path
) -> list[Record]:
    """The valid records of all sources; `simulated` ones are made elsewhere and left out.

    Raises: DataError if too many rows are bad, or a source has no good one.
    """
    rejects = Rejects(rejected_path, max_rejected)
    found: list[Found] = []
    for source in sources:
        if source.path is not None:
            mine = list(_valid(source.path, reader_of(source), rejects))
            if not mine:
                raise rejects.no_good_row(source.path)
            found += mine if source.rows is None else _taken(mine, source.rows)
    records = _consistent(found, rejects)
    rejects.finish()
    return records


def _valid(
    path: Path, read: Callable[[Path, Rejects], Iterator[Located]], rejects: Rejects
) -> Iterator[Found]:
    for file, line, row in read(path, rejects):
        kind = row.get("kind")
        record = (
            completed(row, FEEDBACK[kind]) if isinstance(kind, str) and kind in FEEDBACK else row
        )
        problems = validate_record(record)
        for field, reason in problems:
            rejects.add(file, line, field, reason)
        if not problems:
            yield Found(file, line, record)


def _consistent(found: Sequence[Found], rejects: Rejects) -> list[Record]:
    """Without the records whose ids say something else in an earlier record."""
    bad = set()
    for place, field, reason in records_problems([one.record for one in found]):
        rejects.add(found[place].file, found[place].line, field, reason)
        bad.add(place)
    return [one.record for place, one in enumerate(found) if place not in bad]


def _taken(found: list[Found], rows: int) -> list[Found]:
    """At most so many records, spread evenly over the file.

    Answers judged one at a time say something only beside each other: those to one prompt by one
    criterion are taken together, and only where the judgements differ.
    """
    if rows >= len(found):
        return found
    groups: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for one in found:
        groups[_group_of(one.record)].append(one)
    units = [unit for group in groups.values() if (unit := _differing(group))]
    if not units:
        return found[:rows]
    size = sum(map(len, units)) / len(units)
    count = min(len(units), math.ceil(rows / size))
    picked = [units[i * len(units) // count] for i in range(count)]
    return [one for unit in picked for one in unit][:rows]


def _group_of(record: Record) -> tuple[str, ...]:
    if _judgement(record) is None:
        return (record["feedback_id"],)
    return record["prompt_id"], record["criterion"]


def _judgement(record: Record) -> float | None:
    """How good one answer was found, where it was judged alone; None for other records."""
    if record["kind"] == "rule":
        return -float(record["severity"])
    if record["kind"] == "question" and len(record["completions"]) == 1:
        return math.fsum(answer["value"] or 0.0 for answer in record["answers"])
    return None


def _differing(group: list[Found]) -> list[Found]:
    """The records of one group, judgements in turn, at most MOST_APART; none if all agree."""
    by_judgement: dict[float | None, list[Found]] = defaultdict(list)
    for one in group:
        by_judgement[_judgement(one.record)].append(one)
    if len(by_judgement) == 1:
        return group if None in by_judgement else []
    rounds = zip_longest(*by_judgement.values())
    return [one for taken in rounds for one in taken if one is not None][:MOST_APART]
