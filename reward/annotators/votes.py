"""Votes: who said what of which item, as arrays. All statistics on annotators start from them.

An item is what several people judged, say two answers to one prompt by one criterion. Labels of
such a pair follow the completion ids, never the side of the screen: `SMALLER` (the answer with the
smaller id is better), `TIE` or `LARGER`.

Shapes: N votes, I items, A annotators, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from align.data.errors import UserError
from align.data.messages import printable
from align.data.schemas import TIME

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Times = NDArray[np.datetime64]

SMALLER, TIE, LARGER = range(3)
UNKNOWN = -1  # the label of an item that has none


@dataclass(frozen=True)
class Votes:
    """At most one vote per item and annotator, sorted by item and then by annotator."""

    item_N: Ints
    annotator_N: Ints
    label_N: Ints
    items: tuple[str, ...]
    annotators: tuple[str, ...]
    kinds: tuple[str, ...]  # of the annotators: human, model or programmatic
    label_count: int
    time_N: Times | None = None  # of each vote, in UTC; None where nobody asks

    def __post_init__(self) -> None:
        place_N = self.item_N * len(self.annotators) + self.annotator_N
        assert (np.diff(place_N) > 0).all(), "unsorted votes, or two on one item by one annotator"
        assert ((self.label_N >= 0) & (self.label_N < self.label_count)).all(), "no such label"

    def counts(self) -> Ints:
        """(I, L): how often each item got each label."""
        cell_N = self.item_N * self.label_count + self.label_N
        shape = len(self.items), self.label_count
        return np.bincount(cell_N, minlength=shape[0] * shape[1]).reshape(shape)

    def majority(self) -> Ints:
        """(I,): the commonest label of each item; UNKNOWN where two share the first place."""
        counts_IL = self.counts()
        most_I = counts_IL.max(axis=1)
        alone_I = (counts_IL == most_I[:, None]).sum(axis=1) == 1
        return np.where(alone_I, counts_IL.argmax(axis=1), UNKNOWN)

    def compared(self) -> Flags:
        """(A,): who voted on an item on which another one did."""
        shared_N = np.bincount(self.item_N)[self.item_N] > 1
        count = len(self.annotators)
        return np.bincount(self.annotator_N[shared_N], minlength=count) > 0

    def known(self, labels: Mapping[str, int]) -> Ints:
        """(I,): labels that were given by item id, such as those of gold items, else UNKNOWN."""
        return np.array([labels.get(item, UNKNOWN) for item in self.items], np.int64)

    def of_kind(self, kind: str) -> "Votes":
        """The votes of one kind of annotator. Items and annotators keep their numbers."""
        kept_N = np.array([one == kind for one in self.kinds], bool)[self.annotator_N]
        return replace(
            self,
            item_N=self.item_N[kept_N],
            annotator_N=self.annotator_N[kept_N],
            label_N=self.label_N[kept_N],
            time_N=None if self.time_N is None else self.time_N[kept_N],
        )


def votes_of(
    item_ids: Sequence[str],
    annotator_ids: Sequence[str],
    kinds: Sequence[str],
    labels: Sequence[int] | Ints,
    label_count: int = 3,
    times: Times | None = None,
) -> Votes:
    """Votes from columns of length N, in the order in which people voted; Arrow arrays do as well.

    `kinds` holds the annotator_kind of each vote. Who votes on an item again changes their mind:
    the last vote counts. Items and annotators are numbered in the order of their ids, so the order
    of the rows matters to nothing else.

    Raises: UserError if one annotator_id has two kinds.
    """
    item_N, items = numbered(item_ids)
    annotator_N, annotators = numbered(annotator_ids)
    key_N = item_N * len(annotators) + annotator_N
    _, from_end_N = np.unique(key_N[::-1], return_index=True)
    last_N = len(key_N) - 1 - from_end_N
    return Votes(
        item_N[last_N],
        annotator_N[last_N],
        np.asarray(labels, np.int64)[last_N],
        items,
        annotators,
        _kind_of_each(annotators, annotator_N, kinds),
        label_count,
        None if times is None else times[last_N],
    )


def numbered(names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """(N,): the place of each name in the sorted different names, and these."""
    encoded = pa.array(names, pa.string()).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], tuple(encoded.dictionary.take(order).to_pylist())


def times_of(times: Sequence[datetime | None]) -> Times:
    """(N,): in UTC. None becomes NaT, which is neither before nor after anything."""
    made: Times = pa.array(times, TIME).to_numpy(zero_copy_only=False)
    return made


def _kind_of_each(
    annotators: tuple[str, ...], annotator_N: Ints, kinds: Sequence[str]
) -> tuple[str, ...]:
    kind_N, names = numbered(kinds)
    kind_A = np.zeros(len(annotators), np.int64)
    kind_A[annotator_N] = kind_N
    differing_N = np.flatnonzero(kind_A[annotator_N] != kind_N)
    if len(differing_N):
        vote = differing_N[0]
        annotator = annotator_N[vote]
        both = names[kind_N[vote]], names[kind_A[annotator]]
        raise UserError(
            f"annotator {printable(annotators[annotator])} is {both[0]} in one vote and {both[1]} "
            f"in another: give each annotator one annotator_id and one annotator_kind"
        )
    return tuple(names[kind] for kind in kind_A)
