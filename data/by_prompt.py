"""Records in any order, regrouped so that all records of a prompt come together, at flat memory.

An external merge sort (Knuth 1998, volume 3, section 5.4): records are gathered until they fill the
memory allowed for them, sorted by prompt_id and written to a temporary file as a run; then each
range of prompt ids is read from all runs at once. What fits the memory is never written.
"""

import hashlib
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Ints, runs
from align.data.errors import naming
from align.data.record_batches import plain
from align.data.schemas import FEEDBACK

Slice = dict[str, pa.Table]  # the records of some prompts, whole, by kind

RUN_BYTES = 2**25  # of the records in memory
BLOCKS = 512  # of a run, read whole: a range holds up to two of each run that it does not need


@dataclass(frozen=True)
class Run:
    """Sorted records of one kind in a file, in blocks."""

    path: Path
    kind: str
    first: list[str]  # the prompt id that each block starts with
    last: list[str]
    bytes: list[int]


@dataclass(frozen=True)
class Slices:
    """The records of all prompts, some prompts at a time; they can be read again."""

    repeated: Ints  # places in the input of records with the feedback_id of an earlier one
    memory: Slice
    runs: list[Run]
    run_bytes: int

    def __iter__(self) -> Iterator[Slice]:
        if not self.runs:
            yield self.memory
            return
        ends = _range_ends(self.runs, self.run_bytes)
        for low, high in zip([None, *ends], [*ends, None], strict=True):
            yield _range(self.runs, low, high)


@contextmanager
def by_prompt(
    batches: Iterable[pa.RecordBatch], folder: Path | None, run_bytes: int = RUN_BYTES
) -> Iterator[Slices]:
    """Take all batches in, and give slices of whole prompts, in the order of the prompt ids.

    A batch holds records of one kind, whose schema it carries; further columns travel with it.
    `arrival`, the place in the input, is added where it is missing. Of every record 16 bytes are
    kept until all are in. Temporary files lie in `folder` (None: the system's) and are gone at the
    end of the block.
    """
    with tempfile.TemporaryDirectory(prefix=".records.", dir=folder) as place:
        runs: list[Run] = []
        held: dict[str, list[pa.RecordBatch]] = {}
        digests: list[Ints] = []
        arrivals: list[Ints] = []
        size = count = 0
        for batch in batches:
            if "arrival" not in batch.schema.names:
                arrival = pa.array(np.arange(count, count + len(batch)))
                batch = batch.append_column("arrival", arrival)
            arrivals.append(batch["arrival"].to_numpy())
            digests.append(_digests(batch["feedback_id"]))
            held.setdefault(kind_of(batch.schema), []).append(_without_dictionaries(batch))
            count += len(batch)
            size += batch.nbytes
            if size >= run_bytes:
                runs += _written(held, Path(place), len(runs))
                held, size = {}, 0
        if runs and held:
            runs += _written(held, Path(place), len(runs))
            held = {}
        memory = {kind: pa.Table.from_batches(mine).combine_chunks() for kind, mine in held.items()}
        repeated = _repeated(digests, arrivals)
        del digests, arrivals  # 16 bytes a record, which nobody needs while slices are read
        yield Slices(repeated, memory, runs, run_bytes)


def _digests(names: pa.Array) -> Ints:
    """The first 8 bytes of a hash of each name: among 10^8, the odds of a clash are 1 to 4000."""
    digests = [
        hashlib.blake2b(name, digest_size=8).digest() for name in names.cast("binary").to_pylist()
    ]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def _repeated(digests: list[Ints], arrivals: list[Ints]) -> Ints:
    """The arrivals of all but the first of those that are equal."""
    arrival_R = np.concatenate([np.empty(0, np.int64), *arrivals])
    order, start = runs(np.concatenate([np.empty(0, np.int64), *digests]), then=arrival_R)
    again = np.ones(len(order), dtype=bool)
    again[start[:-1]] = False
    return arrival_R[order[again]]


def kind_of(schema: pa.Schema) -> str:
    """The kind of feedback that a schema's metadata names."""
    kind: str = (schema.metadata or {}).get(b"align.schema", b"").decode()
    assert kind in FEEDBACK, f"records in a schema of {kind or 'no name'}"
    return kind


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Choices as plain text: an Arrow file holds one dictionary a column."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=plain(batch.schema))


def _written(held: dict[str, list[pa.RecordBatch]], folder: Path, number: int) -> list[Run]:
    """Sort what is held into one file for each kind."""
    runs = []
    for kind in list(held):
        table = pa.Table.from_batches(held.pop(kind))
        table = table.take(pc.sort_indices(table["prompt_id"]))
        rows = -(-len(table) // BLOCKS)
        blocks = table.combine_chunks().to_batches(max_chunksize=rows)
        path = folder / f"{number}-{kind}.arrow"
        with (
            naming(path),
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            for block in blocks:
                writer.write_batch(block)
        runs.append(
            Run(
                path,
                kind,
                [block["prompt_id"][0].as_py() for block in blocks],
                [block["prompt_id"][-1].as_py() for block in blocks],
                [block.nbytes for block in blocks],
            )
        )
    return runs


def _range_ends(runs: list[Run], run_bytes: int) -> list[str]:
    """Prompt ids that cut all records into ranges of about `run_bytes`."""
    starts = sorted(
        (first, size) for run in runs for first, size in zip(run.first, run.bytes, strict=True)
    )
    filled = np.cumsum([size for _, size in starts]) // run_bytes
    new = np.flatnonzero(np.diff(filled, prepend=0))
    smallest = starts[0][0]
    return sorted({starts[place][0] for place in new.tolist()} - {smallest})


def _range(runs: list[Run], low: str | None, high: str | None) -> Slice:
    """All records whose prompt id is at least `low` and below `high`."""
    found: dict[str, list[pa.RecordBatch]] = {}
    for run in runs:
        begin = 0 if low is None else bisect_left(run.last, low)
        end = len(run.first) if high is None else bisect_left(run.first, high)
        if begin >= end:
            continue
        with pa.OSFile(str(run.path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(begin, end):
                found.setdefault(run.kind, []).append(_inside(reader.get_batch(number), low, high))
    return {kind: pa.Table.from_batches(mine).combine_chunks() for kind, mine in found.items()}


def _inside(block: pa.RecordBatch, low: str | None, high: str | None) -> pa.RecordBatch:
    """The part of a sorted block that is in the range."""
    names = block["prompt_id"]
    begin = 0 if low is None else pc.sum(pc.less(names, low)).as_py()
    end = len(block) if high is None else pc.sum(pc.less(names, high)).as_py()
    return block.slice(begin, end - begin)
