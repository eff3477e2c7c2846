"""Hashes of 64-bit words, and permutations that need no memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.data.arrays import Ints

Words = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 6
"""Four make a Feistel network look random (Luby and Rackoff 1988), but few rows leave them few
bits: at ten rows their bias shows in 20,000 draws."""


def mixed(values: Words) -> Words:
    """Every bit of the result depends on all bits (the finaliser of splitmix64, Steele 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permuted(index_N: Ints, count_N: Ints, key_N: Words) -> Ints:
    """Where a random permutation of range(count) puts each index; a key names the permutation.

    A Feistel network permutes the next larger power of four, and is applied again to what falls
    outside of range(count) (cycle walking: Black and Rogaway 2002). Nothing is stored, so the
    10-millionth row costs what the first does, and any place can be asked for on its own.
    """
    half_N = _half_bits(count_N)
    value_N = _feistel(index_N.astype(np.uint64), half_N, key_N)
    while len(outside := np.flatnonzero(value_N >= count_N.astype(np.uint64))):
        value_N[outside] = _feistel(value_N[outside], half_N[outside], key_N[outside])
    places_N: Ints = value_N.astype(np.int64)
    return places_N


def _half_bits(count_N: NDArray[Any]) -> Words:
    """Half of the bits that count - 1 needs, rounded up; at least one."""
    bits_N: Words = np.ceil(np.log2(np.maximum(count_N, 2))).astype(np.uint64)
    return (bits_N + np.uint64(1)) >> np.uint64(1)


def _feistel(value_N: Words, half_N: Words, key_N: Words) -> Words:
    mask_N = (np.uint64(1) << half_N) - np.uint64(1)
    left_N, right_N = value_N >> half_N, value_N & mask_N
    for _ in range(ROUNDS):
        key_N = mixed(key_N + GOLDEN)  # splitmix64: a generator of round keys
        left_N, right_N = right_N, left_N ^ (mixed(right_N ^ key_N) & mask_N)
    permuted_N: Words = (left_N << half_N) | right_N
    return permuted_N
