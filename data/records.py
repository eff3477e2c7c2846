"""Raw records into files: JSONL, Parquet or Arrow, by the name's suffix.

Records go through in batches, so there may be more of them than fit in memory. `data/feedback.py`
reads them back (`format: records`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.atomic import write_jsonl, written_whole
from align.data.errors import UserError
from align.data.schemas import FEEDBACK, Record, completed, table_of

BATCH = 10_000  # records

# Arrow's stream format: its file format takes only one dictionary per column for all batches.
TABLE_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], AbstractContextManager[Any]]] = {
    ".parquet": pq.ParquetWriter,
    ".arrow": pa.ipc.new_stream,
}


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Validated records into a file that appears whole or not at all.

    A Parquet or Arrow file has one schema, so it holds one kind of feedback; JSONL holds any.
    Raises: UserError for another suffix, and for a table of mixed kinds or without records.
    """
    suffix = writable_suffix(path)
    if suffix == ".jsonl":
        write_jsonl(path, records)
        return
    waiting = iter(records)
    first = next(waiting, None)
    if first is None:
        raise UserError(f"{path}: no records to write; an empty table has no kind: use .jsonl")
    schema = FEEDBACK[first["kind"]]
    with written_whole(path) as file, TABLE_WRITERS[suffix](file, schema) as writer:
        for batch in _batches(chain([first], waiting), first["kind"], path):
            writer.write_table(table_of(batch, schema))


def writable_suffix(path: Path) -> str:
    """The file's suffix. Raises: UserError if records cannot be written so."""
    suffix, known = path.suffix.lower(), (".jsonl", *TABLE_WRITERS)
    if suffix not in known or path.is_dir():
        found = "a folder" if path.is_dir() else repr(suffix)
        raise UserError(
            f"{path}: records cannot be written as {found}: use one of {', '.join(known)}"
        )
    return suffix


def _batches(records: Iterable[Record], kind: str, path: Path) -> Iterator[list[Record]]:
    checked = map(partial(_of_kind, kind=kind, path=path), records)
    while batch := list(islice(checked, BATCH)):
        yield batch


def _of_kind(record: Record, kind: str, path: Path) -> Record:
    if record["kind"] != kind:
        raise UserError(
            f"{path}: a table holds one kind of feedback, found {kind} and {record['kind']}: use "
            ".jsonl, or a file for each kind"
        )
    return completed(record, FEEDBACK[kind])
