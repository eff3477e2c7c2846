"""Prompts that are nearly the same: clusters that must not be split between training and test.

A text is the set of its 5-grams of characters, which finds near-duplicates in languages without
spaces too. MinHash (Broder 1997) estimates the Jaccard similarity of two sets by the share of equal
minima under random hashes; locality-sensitive hashing (Indyk and Motwani 1998) looks only at texts
of which a whole band of minima is equal. Candidates are then compared exactly.
Legend: T texts, G grams, B bands, C candidate pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.data.arrays import Ints, combinations, runs
from align.data.hashing import Words, mixed
from align.data.messages import folded

SIMILAR = 0.8  # Jaccard similarity of near-duplicates
GRAM = 5  # characters
BANDS = 32
CHUNK = 4096  # grams hashed at once
MANY = 50  # texts alike: not all two of them are compared
ROWS = 4  # minima in a band: a pair at 0.8 is missed with (1 - 0.8^4)^32 = 5e-8

# Random and odd: they lose no bit modulo 2^64.
MULTIPLIERS: Words = (
    np.random.default_rng(1).integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * 2 + 1
)


def near_duplicates(texts: Sequence[str], clusters: Sequence[str]) -> Ints:
    """The component of each text: the place of its first member.

    Similar texts are connected, and so are those that are in one cluster already.
    """
    grams = [grams_of(text) for text in texts]
    first, second = _candidates(grams)
    similar = np.array(
        [jaccard(grams[i], grams[j]) >= SIMILAR for i, j in zip(first, second, strict=True)], bool
    )
    known = _stars(np.unique(np.array(clusters, dtype=object), return_inverse=True)[1])
    return _components(
        len(texts),
        np.concatenate([first[similar], known[0]]),
        np.concatenate([second[similar], known[1]]),
    )


def grams_of(text: str) -> Words:
    """Hashes of the different 5-grams of a text, whatever its case, spaces and Unicode form."""
    codes = np.frombuffer(folded(text).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < GRAM:
        codes = np.pad(codes, (0, GRAM - len(codes)))
    windows = np.lib.stride_tricks.sliding_window_view(codes, GRAM)
    return np.unique(mixed(windows @ MULTIPLIERS[:GRAM]))


def jaccard(ours: Words, theirs: Words) -> float:
    """|intersection| / |union| of two sets of grams."""
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / (len(ours) + len(theirs) - common)


def signature(grams: Words) -> Words:
    """The least hash of any gram under each of BANDS * ROWS random hashes."""
    minima = np.full(BANDS * ROWS, np.iinfo(np.uint64).max)
    for start in range(0, len(grams), CHUNK):
        some = mixed(grams[start : start + CHUNK, None] * MULTIPLIERS)
        np.minimum(minima, some.min(axis=0), out=minima)
    return minima


def _candidates(grams: list[Words]) -> tuple[Ints, Ints]:
    """Pairs of texts (C) that agree in all minima of some band; i < j, each once."""
    bands_TB = np.array([_band_hashes(signature(one)) for one in grams]).reshape(-1, BANDS)
    pairs = [_stars(band_T) for band_T in bands_TB.T]
    first, second = np.unique(np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1), axis=1)
    return first, second


def _stars(key_T: NDArray[Any]) -> Ints:
    """Places with equal keys, all two of a few; of MANY or more, each with the first."""
    order, start = runs(key_T)
    few = np.diff(start) < MANY
    inside = np.repeat(few, np.diff(start))
    first, second = combinations(runs(key_T[order[inside]])[1])
    center = np.repeat(order[start[:-1]], np.diff(start))[~inside]
    members = order[~inside]
    return np.stack(
        [
            np.concatenate([order[inside][first], center[center != members]]),
            np.concatenate([order[inside][second], members[center != members]]),
        ]
    )


def _band_hashes(minima: Words) -> Words:
    bands: Words = mixed(minima.reshape(BANDS, ROWS) @ MULTIPLIERS[:ROWS])
    return bands


def _components(count: int, first: Ints, second: Ints) -> Ints:
    """The smallest member of each text's component, by union-find."""
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return np.array([root(place) for place in range(count)], dtype=np.int64)
