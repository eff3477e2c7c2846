"""Rows out of JSONL, JSON, CSV, Parquet and Arrow files.

A row that cannot be read is set aside in `Rejects`; a file that cannot be read is a DataError.
Writers are in `data/atomic.py`.
"""

import csv
import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.errors import DataError, first_line
from align.data.json_rows import is_unicode, listed_objects, parsed_object
from align.data.messages import shown
from align.data.rejects import BadRow, Rejects

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row | str]]  # a row, or the reason why there is none

BATCH_ROWS = 8192  # read from a Parquet file at once: its own 65,536 may be very long texts
LONGEST_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is shorter than a long answer

UTF_16 = "UTF-16 text: save it as UTF-8"
PACKED = "a packed file: unpack it first"
BEGINNINGS = {  # of files that are not what their suffix says
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"{\0": UTF_16,
    b"\0{": UTF_16,
    b"[\0": UTF_16,
    b"\0[": UTF_16,
    b"\x1f\x8b": PACKED,  # gzip
    b"PK\x03\x04": PACKED,  # zip
    b"BZh": PACKED,
    b"\x28\xb5\x2f\xfd": PACKED,  # zstandard
}


def read_rows(path: Path, rejects: Rejects | None = None) -> Iterator[tuple[int, Row]]:
    """Yield (line, row); for Parquet, Arrow and a JSON list, the number of the row from 1.

    Without `rejects` the first broken row is an error.
    Raises: DataError if the file is missing, empty, unreadable or of an unknown kind.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise DataError(f"{path}:1: unknown kind of file {path.suffix!r}: use one of {known}")
    with readable(path):
        yield from _good_rows(path, reader(path), rejects)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what can go wrong in reading a file into one line.

    Raises: DataError.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}:1: this is a folder: give a file in it")
        if not stat.S_ISREG(path.stat().st_mode):  # to open it might wait for ever
            raise DataError(f"{path}:1: this is no plain file: write what it gives to one first")
        if path.stat().st_size == 0:
            raise DataError(f"{path}:1: the file is empty")
        _refuse_beginning(path)
        yield
    except FileNotFoundError:
        raise DataError(f"{path}:1: there is no such file") from None
    except OSError as error:
        raise DataError(
            f"{path}:1: cannot be read: {error.strerror or first_line(error)}"
        ) from None
    except pa.ArrowException as error:
        raise DataError(
            f"{path}:1: no readable {path.suffix[1:]} file: {first_line(error)}"
        ) from None


def _refuse_beginning(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(max(map(len, BEGINNINGS)))
    for beginning, what in BEGINNINGS.items():
        if start.startswith(beginning):
            raise DataError(f"{path}:1: this is {what}")


def column(row: Row, name: str) -> Any:
    """A value that must be there. Raises: BadRow that names the columns found."""
    if name not in row:
        found = ", ".join(map(str, row)) or "none"
        raise BadRow(name, f"there is no such column; found {found}")
    return row[name]


def text(row: Row, name: str) -> str:
    """A value that must be text. Raises: BadRow."""
    value = column(row, name)
    if not isinstance(value, str):
        raise BadRow(name, f"must be text, found {shown(value)}")
    return value


def _good_rows(path: Path, rows: Numbered, rejects: Rejects | None) -> Iterator[tuple[int, Row]]:
    for line, row in rows:
        if rejects is not None:
            rejects.seen += 1
        if isinstance(row, dict):
            yield line, row
        elif rejects is None:
            raise DataError(f"{path}:{line}: {row}")
        else:
            rejects.add(path, line, "", row)


def _read_jsonl(path: Path) -> Numbered:
    """Lines end at \\n only: a text may hold other line separators, such as U+2028."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            text = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            if text.strip():
                yield line, parsed_object(text)


def _read_json(path: Path) -> Numbered:
    """A list of objects, or JSON lines: both go by the name .json."""
    with path.open("rb") as file:
        start = file.readline().removeprefix(b"\xef\xbb\xbf").strip()
    if start == b"{":
        raise DataError(f"{path}:1: one object over several lines: give a list [...] of rows")
    try:
        text = path.read_text("utf-8-sig").lstrip() if start[:1] in (b"[", b"") else ""
        if text.startswith("["):
            yield from enumerate(listed_objects(text), start=1)
        else:
            yield from _read_jsonl(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:1: not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg}") from None


def _read_csv(path: Path) -> Numbered:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = next(reader, [])
            if len(set(columns)) != len(columns) or not all(columns):
                raise DataError(f"{path}:1: the header needs a different name for every column")
            for cells in reader:
                if cells:
                    yield reader.line_num, _csv_row(columns, cells)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: broken CSV: {error}") from None


def _csv_row(columns: list[str], cells: list[str]) -> Row | str:
    if len(cells) != len(columns):
        return f"{len(cells)} cells for the {len(columns)} columns of the header"
    row = dict(zip(columns, cells, strict=True))
    return row if is_unicode(row) else "not UTF-8"


def arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a Parquet file, an Arrow file, or the Arrow stream that `datasets` writes.

    Raises: DataError if two columns have one name; ArrowInvalid for a batch that would make
    pyarrow read outside of its memory.
    """
    for batch in _unchecked_batches(path):
        if repeated := [name for name, n in Counter(batch.schema.names).items() if n > 1]:
            raise DataError(f"{path}:1: two columns are called {shown(repeated[0])}")
        batch.validate(full=True)
        yield batch


def _unchecked_batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)
        return
    with pa.memory_map(str(path)) as source:
        try:
            arrow = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
            return
        yield from (arrow.get_batch(i) for i in range(arrow.num_record_batches))


def python_rows(batch: pa.RecordBatch) -> Iterator[Row | str]:
    """Rows as Python objects, or the reason why one has no such form, such as a year 10,000."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield f"cannot be read: {first_line(error)}"
            return
        for place in range(len(batch)):
            yield from python_rows(batch.slice(place, 1))


def _read_arrow(path: Path) -> Numbered:
    number = 0
    for batch in arrow_batches(path):
        for row in python_rows(batch):
            number += 1
            yield number, row


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_arrow,
    ".arrow": _read_arrow,
}
