"""Files that appear whole or not at all: a temporary file in the same folder, fsync, rename."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.errors import naming


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to; it takes its name only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming(path), os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp gives 0600
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk.

    A rename is only durable once the folder itself is.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, in UTF-8; times become ISO strings."""
    with written_whole(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_iso)
            file.write(line.encode() + b"\n")


def write_parquet(path: Path, table: pa.Table) -> None:
    """A table with its schema's metadata."""
    with written_whole(path) as file:
        pq.write_table(table, file)


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in JSON")
