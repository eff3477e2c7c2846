"""Lists of different lengths, and names, as flat numpy arrays.

A ragged list is its `start`: the items of row r are start[r] to start[r + 1]. The letter at the end
of a name is the axis; N1 means N + 1 entries.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column of a table in one piece."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def ragged(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Where the items of each row start (N1), and the items of all rows."""
    lists = one_array(column)
    start_N1 = lists.offsets.to_numpy().astype(np.int64)
    return start_N1 - start_N1[0], lists.flatten()


def flags_of(values: pa.Array) -> Flags:
    """A column of true and false without nulls."""
    flags: Flags = values.to_numpy(zero_copy_only=False)
    return flags


def texts_of(completions: pa.ChunkedArray) -> pa.Array:
    """The text of every answer: each is one assistant turn."""
    _, answers = ragged(completions)
    return answers.flatten().field("content")


def name_codes(names: pa.Array) -> tuple[Ints, pa.Array]:
    """A number for each name, in the order of the names, and the distinct names in that order."""
    encoded = one_array(pc.dictionary_encode(names))
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def joint_codes(*keys: Ints) -> Ints:
    """A number for each combination of keys, in the order of the combinations, without gaps."""
    order, start = runs(*keys)
    codes = np.empty(len(order), dtype=np.int64)
    codes[order] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return codes


def runs(*keys: Ints, then: NDArray[Any] | None = None) -> tuple[Ints, Ints]:
    """The order that sorts by the keys, first key first, and where in it equal keys start (N1).

    `then` orders those whose keys are equal.
    """
    order = np.lexsort(keys[::-1] if then is None else (then, *keys[::-1]))
    changes = np.zeros(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        changes |= key[order][1:] != key[order][:-1]
    first = np.ones(min(len(order), 1), dtype=bool)
    start = np.flatnonzero(np.concatenate([first, changes]))
    return order, np.append(start, len(order))


def first_of(group_N: Ints) -> Ints:
    """The first row of each row's group."""
    order, start = runs(group_N)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = np.repeat(order[start[:-1]], np.diff(start))
    return first


def combinations(start_N1: Ints) -> tuple[Ints, Ints]:
    """All two items of the same row, by their places among all items."""
    count_N = np.diff(start_N1)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for size in np.unique(count_N[count_N > 1]):
        i, j = np.triu_indices(size, 1)
        start = start_N1[:-1][count_N == size][:, None]
        first.append((start + i).ravel())
        second.append((start + j).ravel())
    return np.concatenate(first), np.concatenate(second)


def gathered(start_N1: Ints, picked: Ints) -> tuple[Ints, Ints]:
    """The items of the picked rows: whose they are (a place in `picked`), and which."""
    count = np.diff(start_N1)[picked]
    owner = np.repeat(np.arange(len(picked)), count)
    before = np.repeat(np.cumsum(count) - count, count)
    return owner, np.arange(len(owner)) - before + np.repeat(start_N1[picked], count)


def run_sums(values: NDArray[Any], start_N1: Ints) -> NDArray[Any]:
    """The sum of each run; no run may be empty."""
    return np.add.reduceat(values, start_N1[:-1]) if len(start_N1) > 1 else values[:0]


def run_means(values: Floats, start_N1: Ints) -> Floats:
    """The mean of each run, without the values that are nan; nan if all are."""
    known = ~np.isnan(values)
    total, count = (
        run_sums(np.where(known, values, 0.0), start_N1),
        run_sums(known.astype(np.int64), start_N1),
    )
    means: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return means


def numbers(column: pa.ChunkedArray) -> Floats:
    """A column of numbers; nan where it is null."""
    values: Floats = one_array(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def text_codes(texts: pa.Array) -> Ints:
    """A number for each different text (or other value, or null), in no order."""
    encoded = one_array(pc.dictionary_encode(texts, null_encoding="encode"))
    codes: Ints = encoded.indices.to_numpy().astype(np.int64)
    return codes
