"""Which row of which source stands at any position of a mixture's stream.

A pass has a whole number of draws of each source, in random order; a source's own rows come in
shuffled epochs that go on from pass to pass. Position -> row is a function of the seed alone, so
the stream needs no memory and goes on anywhere. Legend: M sources, P positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from align.data.arrays import Floats, Ints
from align.data.chance import unit
from align.data.errors import UserError
from align.data.hashing import Words, mixed, permuted
from align.data.mixture.rates import (
    UNLIMITED,
    examples_proportional,
    upsampled,
    whole,
    with_token_shares,
)
from align.data.mixture_config import Mixture, SourceShare

BLOCK = 4096
"""Positions computed at once."""


@dataclass(frozen=True)
class Plan:
    """How often each source is drawn in a pass, and in which order."""

    names: tuple[str, ...]
    rows_M: Ints
    """Rows that may be drawn."""
    draws_M: Ints
    """Draws in one pass."""
    seed: int

    @property
    def length(self) -> int:
        """Draws in one pass."""
        return int(self.draws_M.sum())

    def at(self, position_P: Ints) -> tuple[Ints, Ints]:
        """Source and row at each position."""
        passes_P, place_P = np.divmod(position_P, self.length)
        length_P = np.full_like(place_P, self.length)
        place_P = permuted(place_P, length_P, self._keys("order", passes_P))
        end_M = np.cumsum(self.draws_M)
        source_P = np.searchsorted(end_M, place_P, side="right").astype(np.int64)
        draw_P = place_P - (end_M - self.draws_M)[source_P]
        draw_P += passes_P * self.draws_M[source_P]
        epoch_P, place_P = np.divmod(draw_P, self.rows_M[source_P])
        key_M = np.array([_word(self.seed, name) for name in self.names], dtype=np.uint64)
        key_P = mixed(key_M[source_P] + epoch_P.astype(np.uint64))
        return source_P, permuted(place_P, self.rows_M[source_P], key_P)

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """(source, row) from a position on, without end or up to `stop`."""
        while stop is None or start < stop:
            end = start + BLOCK if stop is None else min(start + BLOCK, stop)
            source_P, row_P = self.at(np.arange(start, end))
            yield from zip(source_P.tolist(), row_P.tolist(), strict=True)
            start = end

    def _keys(self, name: str, number_P: Ints) -> Words:
        return mixed(np.uint64(_word(self.seed, name)) + number_P.astype(np.uint64))


def planned(
    mixture: Mixture, names: Sequence[str], rows_M: Ints, tokens_M: Floats, seed: int
) -> Plan:
    """The plan for sources with so many rows of so many tokens on average.

    Raises: UserError if a source is empty, or the limits allow fewer draws than are asked for.
    """
    for name, rows in zip(names, rows_M.tolist(), strict=True):
        if not rows:
            raise UserError(f"mixture: source {name} has no row left after its filters and caps")
    draws_M = _draws(mixture, [_share(mixture, name) for name in names], rows_M, tokens_M)
    return Plan(tuple(names), rows_M, draws_M, seed)


def _draws(mixture: Mixture, shares: Sequence[SourceShare], rows_M: Ints, tokens_M: Floats) -> Ints:
    cap = mixture.rate_cap or UNLIMITED
    share_M = np.array([share.token_share or 0.0 for share in shares])
    quality_M = np.array([share.quality for share in shares]) * (share_M == 0)
    limit_M = rows_M * np.array([share.max_epochs or UNLIMITED for share in shares])
    rate_M = upsampled(examples_proportional(rows_M, cap, mixture.temperature), quality_M)
    key, cost_M = ("tokens", tokens_M) if mixture.tokens else ("rows", np.ones(len(rows_M)))
    total = mixture.tokens or mixture.rows
    total = total or _default_total(rows_M, cap, share_M, rate_M, tokens_M)
    draws_M = with_token_shares(rate_M, limit_M, tokens_M, share_M, cost_M, total)
    if (most := float(draws_M @ cost_M)) < total - 0.5:
        raise UserError(
            f"mixture.{key} ({total}) is more than max_epochs allows ({most:.0f}): lower "
            f"mixture.{key}, or raise a max_epochs"
        )
    if draws_M.sum() < 0.5:
        raise UserError(f"mixture.tokens ({total}) is less than one row: raise it")
    return whole(draws_M)


def _share(mixture: Mixture, name: str) -> SourceShare:
    found = [source for source in mixture.sources if source.name == name]
    return found[0] if found else SourceShare(name=name)


def _default_total(
    rows_M: Ints, cap: float, share_M: Floats, rate_M: Floats, tokens_M: Floats
) -> int:
    """All rows of the sources that go by rows, each source up to the cap, and text beside them."""
    rows = float(np.minimum(rows_M, cap)[share_M == 0].sum())
    tokens = rows * float(rate_M @ tokens_M)
    beside = float((share_M / (1 - share_M.sum()) * tokens / tokens_M).sum())
    return round(rows + beside)


def _word(*key: object) -> int:
    return int(unit(*key) * 2**53)
