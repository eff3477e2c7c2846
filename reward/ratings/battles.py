"""Battles: one vote on two players each, and how often which of two players won.

A player is whatever is compared: an answer, or the policy that wrote it.

Shapes: B battles, N players, P pairs of players that met (at most three rows for each pair where
the position counts: one player shown first, the other, unknown), G groups of battles with one key.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CELLS_PER_BATTLE = 16  # as long as a table of all values is no larger than this, it is used


@dataclass(frozen=True)
class Battles:
    """Votes in the order in which they came. Players and clusters are indices from 0."""

    players: int
    """N; players without a battle count too."""
    first_B: Ints
    second_B: Ints
    outcome_B: Floats
    """1: `first` won, 0.5: tie, 0: `second` won."""
    cluster_B: Ints | None = None
    """Who voted: votes of one annotator are not independent."""
    shown_first_B: Ints | None = None
    """1: `first` was shown first, -1: `second` was, 0: unknown."""

    def __post_init__(self) -> None:
        size = len(self.outcome_B)
        for players_B in (self.first_B, self.second_B):
            assert len(players_B) == size
            assert not size or (players_B.min() >= 0 and players_B.max() < self.players)
        assert not (self.first_B == self.second_B).any(), "a player cannot meet itself"
        assert np.isin(self.outcome_B, (0.0, 0.5, 1.0)).all(), "an outcome is 1, 0.5 or 0"
        if self.cluster_B is not None:
            assert len(self.cluster_B) == size and (self.cluster_B >= 0).all()
        if self.shown_first_B is not None:
            assert len(self.shown_first_B) == size and np.isin(self.shown_first_B, (-1, 0, 1)).all()


@dataclass(frozen=True)
class Counts:
    """Votes by unordered pair, from the side of the player with the lower index: i < j.

    This is all that a rating fit needs. Resampled counts have the shape (R, P) where these have
    (P,): they differ in how often who won, not in who met whom.
    """

    players: int
    i_P: Ints
    j_P: Ints
    position_P: Floats
    """1: i was shown first, -1: j was, 0: unknown, or all of them taken together."""
    wins_P: Floats
    """Battles that i won."""
    losses_P: Floats
    ties_P: Floats

    @property
    def battles_P(self) -> Floats:
        """Number of battles of each row."""
        return self.wins_P + self.losses_P + self.ties_P


def count_battles(battles: Battles, by_position: bool = False) -> Counts:
    """Rows sorted by i, then j, then position. `by_position` keeps apart who was shown first."""
    key_P, wins_P, losses_P, ties_P = _tally(_pair_keys(battles, by_position), _codes(battles))
    pair_P, place_P = np.divmod(key_P, 3) if by_position else (key_P, np.ones_like(key_P))
    i_P, j_P = np.divmod(pair_P, max(battles.players, 1))
    position_P = (place_P - 1).astype(np.float64)
    return Counts(battles.players, i_P, j_P, position_P, wins_P, losses_P, ties_P)


@dataclass(frozen=True)
class ClusterCounts:
    """What each cluster adds to the rows of `Counts`, one group for each cluster and row."""

    clusters: int
    cluster_G: Ints
    row_G: Ints
    tallies_G: tuple[Floats, Floats, Floats]
    """wins, losses and ties."""


def count_by_cluster(battles: Battles, by_position: bool = False) -> ClusterCounts:
    """The counts of `count_battles(battles, by_position)`, cut up by `cluster_B`.

    Clusters are renumbered: those without a battle are not there.
    """
    assert battles.cluster_B is not None
    cluster_B = np.unique(battles.cluster_B, return_inverse=True)[1]
    row_keys_P, row_B = np.unique(_pair_keys(battles, by_position), return_inverse=True)
    rows = max(len(row_keys_P), 1)
    key_G, *tallies_G = _tally(cluster_B * rows + row_B, _codes(battles))
    wins_G, losses_G, ties_G = tallies_G
    clusters = int(cluster_B.max(initial=-1)) + 1
    return ClusterCounts(clusters, key_G // rows, key_G % rows, (wins_G, losses_G, ties_G))


def _pair_keys(battles: Battles, by_position: bool) -> Ints:
    """One number for each row of the counts: i N + j, or (i N + j) 3 + position + 1. Shape (B,)."""
    low_B = np.minimum(battles.first_B, battles.second_B)
    high_B = np.maximum(battles.first_B, battles.second_B)
    pair_B = low_B * battles.players + high_B
    if not by_position:
        return pair_B
    shown_first_B = 0 if battles.shown_first_B is None else battles.shown_first_B
    return pair_B * 3 + 1 + np.where(low_B == battles.first_B, shown_first_B, -shown_first_B)


def _codes(battles: Battles) -> Ints:
    """0: the lower player lost, 1: tie, 2: it won. Shape (B,)."""
    code_B: Ints = (2 * battles.outcome_B).astype(np.int64)
    return np.where(battles.first_B < battles.second_B, code_B, 2 - code_B)


def _tally(key_B: Ints, code_B: Ints) -> tuple[Ints, Floats, Floats, Floats]:
    """The distinct keys in order, with their wins, losses and ties. Shapes (G,)."""
    cell, size = _occurrences(key_B << 2 | code_B)
    key, code = cell >> 2, cell & 3
    starts = np.diff(key, prepend=-1) > 0
    group = np.cumsum(starts) - 1
    losses_G, ties_G, wins_G = (
        np.bincount(group, size * (code == outcome), minlength=int(starts.sum())).astype(np.float64)
        for outcome in (0, 1, 2)
    )
    return key[starts], wins_G, losses_G, ties_G


def _occurrences(value_B: Ints) -> tuple[Ints, Ints]:
    """The distinct values in order, and how often each occurs."""
    if value_B.max(initial=0) < CELLS_PER_BATTLE * len(value_B):
        sizes = np.bincount(value_B)  # several times faster than the sort that `unique` is
        values = np.flatnonzero(sizes)
        return values, sizes[values]
    return np.unique(value_B, return_counts=True)
