"""Encoded instructions on the disk: an Arrow stream, memory-mapped, one file a source and split.

Any row can be read without the others, so a source of any size costs no memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.data.arrays import Ints
from align.data.atomic import written_whole
from align.data.chat import Encoded
from align.data.hashing import Words
from align.data.mixture.choose import Choosable

BATCH = 8192
"""Rows in a record batch; the last one may have fewer."""
TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("prompt_ids", TOKENS),
        ("completion_ids", TOKENS),
        ("truncated", pa.bool_()),
        ("content", pa.uint64()),
        ("task_id", pa.string()),
        ("license", pa.string()),
        ("template_id", pa.string()),
        ("label", pa.string()),
    ]
)


@dataclass(frozen=True)
class Stored:
    """A row: what the model sees, and where it came from."""

    encoded: Encoded
    content: int
    """Hash of prompt and answer, or of a piece of a long text; see `data/text_hashes.py`."""
    task_id: str
    license: str
    template_id: str
    label: str


class Writer:
    """Collects rows into record batches."""

    def __init__(self, file: Any) -> None:
        self._stream = pa.ipc.new_stream(file, SCHEMA)
        self._waiting: list[Stored] = []

    def add(self, row: Stored) -> None:
        """One more row."""
        self._waiting.append(row)
        if len(self._waiting) == BATCH:
            self._flush()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._flush()
        self._stream.close()

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        columns = [
            [row.encoded.prompt_ids for row in rows],
            [row.encoded.completion_ids for row in rows],
            [row.encoded.truncated for row in rows],
            *([getattr(row, name) for row in rows] for name in SCHEMA.names[3:]),
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        self._stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))


@contextmanager
def writer(path: Path) -> Iterator[Writer]:
    """The file appears whole when the block ends well."""
    with written_whole(path) as file:
        made = Writer(file)
        yield made
        made.close()


class Store:
    """The rows of one file."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            self.table = pa.ipc.open_stream(source).read_all()
        self._ids = [
            [_ragged(chunk) for chunk in self.table.column(name).chunks]
            for name in ("prompt_ids", "completion_ids")
        ]
        self._truncated = self.table.column("truncated")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def encoded(self, row: int) -> Encoded:
        """What the model sees of a row."""
        prompt, completion = self.ids(row)
        return Encoded(prompt.tolist(), completion.tolist(), self._truncated[row].as_py())

    def ids(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Prompt and completion of a row, as views of the file."""
        batch, place = divmod(row, BATCH)
        (starts, ids), (answer_starts, answer_ids) = self._ids[0][batch], self._ids[1][batch]
        return (
            ids[starts[place] : starts[place + 1]],
            answer_ids[answer_starts[place] : answer_starts[place + 1]],
        )

    def lengths(self, batch: int) -> Ints:
        """Prompt and completion tokens of each row of a record batch."""
        (starts, _), (answer_starts, _) = (column[batch] for column in self._ids)
        lengths: Ints = np.diff(starts) + np.diff(answer_starts)
        return lengths

    def tokens(self, rows: Ints | None = None) -> int:
        """Prompt and completion tokens of some rows, or of all."""
        total = 0
        for first in range(self.table.column(0).num_chunks):
            lengths = self.lengths(first)
            if rows is not None:
                mine = rows[(rows >= first * BATCH) & (rows < (first + 1) * BATCH)]
                lengths = lengths[mine - first * BATCH]
            total += int(lengths.sum())
        return total

    def learnt_tokens(self) -> int:
        """Completion tokens of all rows."""
        return sum(int(starts[-1] - starts[0]) for starts, _ in self._ids[1])

    def choosable(self, name: str) -> Choosable:
        """What a mixture chooses by."""
        return Choosable(name, self.words("content"), self.names("task_id"), self.names("label"))

    def words(self, name: str) -> Words:
        """A column of hashes."""
        words: Words = self.table.column(name).to_numpy()
        return words

    def names(self, name: str) -> pa.ChunkedArray:
        """A column of names."""
        return self.table.column(name)


def _ragged(lists: pa.ListArray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return lists.offsets.to_numpy(), lists.values.to_numpy()


def concatenated(stores: Sequence[Store], name: str) -> Words:
    """A column of hashes of several stores, one after the other."""
    return np.concatenate([store.words(name) for store in stores])
