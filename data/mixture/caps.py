"""Which rows of a task are used where there are too many: those with the least hash.

A row's hash depends on its content, so a choice depends neither on the order of rows nor on what
other tasks have. Legend: N rows.
"""

import numpy as np

from align.data.arrays import Ints, runs
from align.data.hashing import Words, mixed


def capped(hash_N: Words, task_N: Ints, cap: int, class_N: Ints | None = None) -> Ints:
    """At most `cap` rows of each task, in their order (Wang et al. 2022, section 4.2).

    With classes, each has as many rows as the others, or all that it has: rows are taken in rounds,
    one of every class in each.
    """
    if class_N is None:
        class_N = np.zeros_like(task_N)
    order, start = runs(task_N, class_N, then=hash_N)
    round_N = np.empty(len(order), dtype=np.int64)
    round_N[order] = _places(start)
    turn_N = mixed(class_N.astype(np.uint64) + np.uint64(1))  # who comes first in the last round
    order, start = runs(task_N, round_N, then=turn_N)
    _, start = runs(task_N[order])
    return np.sort(order[_places(start) < cap])


def firsts(key_N: Words) -> Ints:
    """The first row of each key, in the order of the rows."""
    return np.sort(np.unique(key_N, return_index=True)[1]).astype(np.int64)


def _places(start_N1: Ints) -> Ints:
    """0, 1, 2... within every run."""
    return np.arange(start_N1[-1]) - np.repeat(start_N1[:-1], np.diff(start_N1))
