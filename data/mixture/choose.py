"""Which rows of which source may be drawn: after removing copies, and up to the caps."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Ints
from align.data.chance import unit
from align.data.hashing import Words
from align.data.mixture.caps import capped, firsts
from align.data.mixture_config import Mixture


@dataclass(frozen=True)
class Choosable:
    """What the choice among the rows of a source depends on."""

    name: str
    content_N: Words
    """Hashes of the rows; see `data/text_hashes.py`."""
    tasks: pa.ChunkedArray
    labels: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.content_N)


def chosen(mixture: Mixture, sources: Sequence[Choosable]) -> list[Ints | None]:
    """The rows of each source, in their order; None for all of them, so that nothing is held."""
    limits = {share.name: share.max_rows for share in mixture.sources}
    found: list[Ints | None] = [None] * len(sources)
    content_N = np.concatenate([source.content_N for source in sources])
    if mixture.dedup != "none":
        found = list(by_source(firsts(content_N), sources))
    if mixture.max_rows_per_task is not None:
        kept = _joined(sources, found)  # a task may have rows in several sources
        task_N = _codes([source.tasks for source in sources])[kept]
        class_N = _codes([source.labels for source in sources])[kept]
        balanced = class_N if mixture.balance_classes else None
        kept = kept[capped(content_N[kept], task_N, mixture.max_rows_per_task, balanced)]
        found = list(by_source(kept, sources))
    return [
        rows if (limit := limits.get(source.name)) is None else _by_hash(source, rows, limit)
        for source, rows in zip(sources, found, strict=True)
    ]


def _by_hash(source: Choosable, rows: Ints | None, most: int) -> Ints:
    rows = np.arange(len(source)) if rows is None else rows
    one_task = np.zeros(len(rows), dtype=np.int64)
    kept: Ints = rows[capped(source.content_N[rows], one_task, most)]
    return kept


def _joined(sources: Sequence[Choosable], found: Sequence[Ints | None]) -> Ints:
    """Rows of each source as places among the rows of all."""
    first, places = 0, []
    for source, rows in zip(sources, found, strict=True):
        places.append(first + (np.arange(len(source)) if rows is None else rows))
        first += len(source)
    return np.concatenate(places)


def by_source(places: Ints, sources: Sequence[Sized]) -> list[Ints]:
    """Places among the rows of all sources as rows of each."""
    ends = np.cumsum([len(source) for source in sources])
    cuts = np.searchsorted(places, ends[:-1])
    starts = [0, *ends[:-1].tolist()]
    return [part - start for part, start in zip(np.split(places, cuts), starts, strict=True)]


def _codes(columns: Sequence[pa.ChunkedArray]) -> Ints:
    """A hash of each name: the same name has the same code in every run."""
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    encoded = pc.dictionary_encode(joined.combine_chunks())
    words = np.array([int(unit(name) * 2**53) for name in encoded.dictionary.to_pylist()])
    codes: Ints = words.astype(np.int64)[encoded.indices.to_numpy()]
    return codes
