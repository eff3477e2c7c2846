"""Raw records from every source the config names, validated, one by one or in Arrow batches."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from align.data.arrays import Ints
from align.data.by_prompt import by_prompt, kind_of
from align.data.config import FeedbackSource
from align.data.files import arrow_batches, python_rows, read_rows, readable
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
from align.data.invariants import consistent
from align.data.record_batches import conformed, record_batch
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, Record, check_version, completed
from align.data.screen import surely_valid
from align.data.validate import validate_record

MOST_APART = 4  # records on one prompt by one criterion, where only so many rows are taken
ROWS = 4096  # records of a batch


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


def feedback_batches(
    sources: Sequence[FeedbackSource], rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    """The valid records of all sources, with columns `file` and `line`; each batch is of one kind.

    `simulated` sources are made elsewhere and left out. Memory is flat, but for a source of which
    only some `rows` are taken. Records whose ids contradict others are still there.
    Raises: DataError if a source has no good record.
    """
    arrivals = count()
    for source in sources:
        if source.path is None:
            continue
        good = 0
        for batch in _batches(source, source.path, arrivals, rejects):
            good += len(batch)
            yield batch
        if not good:
            raise rejects.no_good_row(source.path)


def read_feedback(
    sources: Sequence[FeedbackSource], max_rejected: float, rejected_path: Path | None
) -> list[Record]:
    """The valid and consistent records of all sources, in memory.

    Raises: DataError if too many rows are bad, or a source has no good one.
    """
    rejects = Rejects(rejected_path, max_rejected)
    found: list[Found] = []
    for source in sources:
        if source.path is not None:
            mine = _found(source, source.path, rejects)
            if not mine:
                raise rejects.no_good_row(source.path)
            found += mine
    bad = set()
    with by_prompt(_packed(found, count()), None) as slices:
        for part in slices:
            for problem in consistent(part, slices.repeated)[1]:
                place = part[problem.kind]["arrival"][problem.row].as_py()
                rejects.add(found[place].file, found[place].line, problem.field, problem.reason)
                bad.add(place)
    rejects.finish()
    return [one.record for place, one in enumerate(found) if place not in bad]


def _batches(
    source: FeedbackSource, path: Path, arrivals: Iterator[int], rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    is_arrow = source.format == "records" and path.suffix.lower() in (".parquet", ".arrow")
    if is_arrow and source.rows is None:
        return _screened(path, arrivals, rejects)
    if source.rows is None:
        return _packed(_valid(path, reader_of(source), rejects), arrivals)
    return _packed(_found(source, path, rejects), arrivals)


def _found(source: FeedbackSource, path: Path, rejects: Rejects) -> list[Found]:
    """The valid records of a source, at most so many as it says."""
    found = list(_valid(path, reader_of(source), rejects))
    return found if source.rows is None else _taken(found, source.rows)


def _valid(
    path: Path, read: Callable[[Path, Rejects], Iterator[Located]], rejects: Rejects
) -> Iterator[Found]:
    for file, line, row in read(path, rejects):
        if record := _checked(file, line, row, rejects):
            yield Found(file, line, record)


def _checked(file: Path, line: int, row: Record, rejects: Rejects) -> Record | None:
    """The record, or None if it is set aside."""
    kind = row.get("kind")
    record = completed(row, FEEDBACK[kind]) if isinstance(kind, str) and kind in FEEDBACK else row
    problems = validate_record(record)
    for field, reason in problems:
        rejects.add(file, line, field, reason)
    return None if problems else record


def _packed(found: Iterable[Found], arrivals: Iterator[int]) -> Iterator[pa.RecordBatch]:
    """Records in batches of one kind each, with where they stood and in which order they came."""
    held: dict[str, list[tuple[int, Found]]] = defaultdict(list)
    for one in found:
        mine = held[one.record["kind"]]
        mine.append((next(arrivals), one))
        if len(mine) == ROWS:
            yield _located(held.pop(one.record["kind"]))
    yield from map(_located, held.values())


def _located(rows: list[tuple[int, Found]]) -> pa.RecordBatch:
    batch = record_batch([one.record for _, one in rows])
    batch = batch.append_column("file", pa.array([str(one.file) for _, one in rows]))
    batch = batch.append_column("line", pa.array([one.line for _, one in rows]))
    return batch.append_column("arrival", pa.array([arrival for arrival, _ in rows]))


def _screened(path: Path, arrivals: Iterator[int], rejects: Rejects) -> Iterator[pa.RecordBatch]:
    """Records of a Parquet or Arrow file: only rows that look bad become Python objects."""
    check_version(path)
    with readable(path):
        line = 1
        for batch in arrow_batches(path):
            yield from _screened_batch(path, line, batch, arrivals, rejects)
            line += len(batch)


def _screened_batch(
    path: Path, line: int, batch: pa.RecordBatch, arrivals: Iterator[int], rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    """The good rows of a batch; those that surely are, and those that a closer look finds good."""
    rejects.seen += len(batch)
    fine = np.zeros(len(batch), dtype=bool)
    if (table := conformed(batch)) is not None:
        fine = surely_valid(table, kind_of(table.schema))
        lines = np.flatnonzero(fine)
        columns = {
            "file": pa.array([str(path)]).take(pa.array(np.zeros(len(lines), dtype=np.int64))),
            "line": pa.array(lines + line),
            "arrival": pa.array(list(islice(arrivals, len(lines))), pa.int64()),
        }
        good = table if fine.all() else table.take(pa.array(lines))
        for name, values in columns.items():
            good = good.append_column(name, values)
        yield from good.combine_chunks().to_batches()
    rest = np.flatnonzero(~fine)
    found = []
    for place, row in zip(rest.tolist(), _python_rows(batch, rest), strict=True):
        if isinstance(row, str):
            rejects.add(path, line + place, "", row)
        elif record := _checked(path, line + place, row, rejects):
            found.append(Found(path, line + place, record))
    yield from _packed(found, arrivals)


def _python_rows(batch: pa.RecordBatch, rows: Ints) -> Iterator[Record | str]:
    """Some rows in order, as slices: Arrow cannot take single rows of all types."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        if len(run):  # there is one run of no rows
            yield from python_rows(batch.slice(run[0], len(run)))


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
    wanted = min(len(units), math.ceil(rows / size))
    picked = [units[i * len(units) // wanted] for i in range(wanted)]
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
