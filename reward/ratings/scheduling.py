"""Which players should meet next.

Shapes: N players, P pairs that met, C candidate pairs, Q pairs chosen.
"""

import heapq
from collections.abc import Iterator

import numpy as np

from align.reward.ratings.battles import Counts, Floats, Ints

CHUNK = 2**20  # candidate pairs looked at together: all N^2 / 2 of them may not fit


def most_informative(strengths_N: Floats, counts: Counts, batch: int) -> tuple[Ints, Ints]:
    """The next `batch` battles, as (i_Q, j_Q): those with the largest p (1 - p) / n, best first.

    That is the information in one more vote over the votes already there. Unplayed pairs come
    first, the closest of them ahead; equal pairs go by their indices. A pair may come again,
    counted as played once more each time.
    """
    played_C, information_C, i_C, j_C = _most_urgent(strengths_N, counts, batch)
    urgency_C = _urgency(played_C, information_C)
    waiting = list(zip(-urgency_C, i_C.tolist(), j_C.tolist(), range(len(i_C)), strict=True))
    heapq.heapify(waiting)
    chosen = []
    for _ in range(batch if waiting else 0):
        _, i, j, index = waiting[0]
        chosen.append(index)
        played_C[index] += 1
        heapq.heapreplace(waiting, (-information_C[index] / played_C[index], i, j, index))
    return i_C[chosen], j_C[chosen]


def _most_urgent(
    strengths_N: Floats, counts: Counts, batch: int
) -> tuple[Floats, Floats, Ints, Ints]:
    """The first `batch` candidates in order: (played, information, i, j), shapes (C,)."""
    best = (np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    for candidates in _candidates(strengths_N, counts):
        pool = [np.concatenate(both) for both in zip(best, candidates, strict=True)]
        urgency_C = _urgency(pool[0], pool[1])
        if 0 < batch < len(urgency_C):
            likely_C = urgency_C >= np.partition(urgency_C, -batch)[-batch]
            pool, urgency_C = [part[likely_C] for part in pool], urgency_C[likely_C]
        # Candidates come by i, then j, and a stable sort leaves equal ones so.
        first = np.argsort(-urgency_C, kind="stable")[:batch]
        best = (pool[0][first], pool[1][first], pool[2][first], pool[3][first])
    return best


def _candidates(strengths_N: Floats, counts: Counts) -> Iterator[tuple[Floats, Floats, Ints, Ints]]:
    """All pairs i < j, some rows of i at a time: (battles played, p (1 - p), i, j)."""
    players = counts.players
    width = max(CHUNK // max(players, 1), 1)
    for start in range(0, players - 1, width):
        rows = np.arange(start, min(start + width, players))
        here = slice(*np.searchsorted(counts.i_P, [rows[0], rows[-1] + 1]))
        cell_P = (counts.i_P[here] - start) * players + counts.j_P[here]
        played = np.bincount(cell_P, counts.battles_P[here], minlength=len(rows) * players)
        row_C, j_C = np.nonzero(rows[:, None] < np.arange(players))
        small_C = np.exp(-np.abs(strengths_N[row_C + start] - strengths_N[j_C]))
        yield played[row_C * players + j_C], small_C / (1 + small_C) ** 2, row_C + start, j_C


def _urgency(played_C: Floats, information_C: Floats) -> Floats:
    """p (1 - p) / n, which is at most 1/4, and more than 1 for pairs that never met."""
    return np.where(played_C > 0, information_C / np.maximum(played_C, 1), 1 + information_C)
