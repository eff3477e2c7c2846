"""Which rows go together: shuffled epochs, micro-batches under a token budget, equal ranks."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Item:
    """Something that stays in one micro-batch: a text, or a group of answers."""

    rows: int
    """Texts it holds."""
    length: int
    """Tokens of its longest text."""
    tokens: int | None = None
    """Tokens of all its texts, where they are packed; elsewhere each is padded to the longest."""

    def size(self, longest: int) -> int:
        """Tokens it takes beside others of which the longest has so many."""
        return self.rows * longest if self.tokens is None else self.tokens


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation that depends on nothing but its arguments."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return [int(index) for index in generator.permutation(count)]


def stream(count: int, seed: int, start: int, length: int) -> Iterator[tuple[int, int]]:
    """(position, row) for a part of the endless stream of shuffled epochs over `count` rows."""
    epoch, order = -1, []
    for position in range(start, start + length):
        if position // count != epoch:
            epoch = position // count
            order = epoch_order(count, seed, epoch)
        yield position, order[position % count]


def fingerprint(*columns: Iterable[Sequence[int]]) -> str:
    """Names columns of token sequences: the same ones in the same order, and nothing else."""
    digest = hashlib.sha256()
    for column in columns:
        for row in column:
            tokens = array("q", row)
            digest.update(len(tokens).to_bytes(8, "little"))
            digest.update(tokens)
        digest.update(b"end of column")
    return digest.hexdigest()


def micro_batches(items: Sequence[Item], budget: int, ranks: int) -> list[list[list[int]]]:
    """For every rank, its micro-batches as lists of item indices.

    Items of like length share a micro-batch that stays within `budget` tokens, padding included; an
    item larger than the budget has one to itself. Every rank runs the same number of them, some
    possibly empty: ZeRO 2 and 3 reduce inside the backward pass and hang or crash otherwise.
    """
    order = sorted(range(len(items)), key=lambda i: (-items[i].length, i))
    batches: list[list[int]] = []
    used = longest = 0
    for index in order:
        item = items[index]
        if batches and used + item.size(longest) <= budget:
            batches[-1].append(index)
            used += item.size(longest)
        else:
            batches.append([index])
            longest = item.length
            used = item.size(longest)
    batches += [[] for _ in range(-len(batches) % ranks)]
    return [batches[rank::ranks] for rank in range(ranks)]
