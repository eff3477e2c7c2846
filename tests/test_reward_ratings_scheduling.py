"""Which players meet next."""

import numpy as np
import pytest

from align.reward.ratings import scheduling
from align.reward.ratings.battles import Battles, Counts, count_battles
from align.reward.ratings.scheduling import most_informative


def played(players: int, *games: tuple[int, int, int]) -> Counts:
    """Counts of (i, j, how often they met)."""
    i, j, times = (np.array(part, dtype=np.int64) for part in zip(*games, strict=True))
    first, second = np.repeat(i, times), np.repeat(j, times)
    return count_battles(Battles(players, first, second, np.ones(len(first))))


def listed(pairs: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))


def by_definition(strengths: np.ndarray, counts: Counts, batch: int) -> list[tuple[int, int]]:
    """Takes one battle after the other by what the docstring says."""
    games = dict.fromkeys([(i, j) for i in range(9) for j in range(i + 1, 9)], 0.0)
    for i, j, n in zip(counts.i_P.tolist(), counts.j_P.tolist(), counts.battles_P, strict=True):
        games[i, j] += n

    def key(pair: tuple[int, int]) -> tuple[bool, float, tuple[int, int]]:
        gap = abs(strengths[pair[0]] - strengths[pair[1]])
        p = 1 / (1 + np.exp(gap))
        n = games[pair]
        return n > 0, -round(p * (1 - p) / (n or 1), 12), pair

    chosen = []
    for _ in range(batch):
        chosen.append(min(games, key=key))
        games[chosen[-1]] += 1
    return chosen


@pytest.mark.parametrize("chunk", [1, 20, 2**20])
@pytest.mark.parametrize("batch", [0, 1, 5, 30, 60])
def test_the_next_pairs_are_the_best_by_definition(
    batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "CHUNK", chunk)
    generator = np.random.default_rng(0)
    strengths = np.round(generator.normal(0, 1, 9), 1)
    first = generator.integers(0, 9, 60)
    second = (first + generator.integers(1, 9, 60)) % 9
    shown = generator.choice([-1, 1], 60)
    battles = Battles(9, first, second, np.ones(60), shown_first_B=shown)
    for by_position in (False, True):
        counts = count_battles(battles, by_position)
        found = listed(most_informative(strengths, counts, batch))
        assert found == by_definition(strengths, counts, batch)


def test_unplayed_pairs_come_first_the_closest_of_them_ahead() -> None:
    counts = played(3, (0, 1, 1))
    found = listed(most_informative(np.array([0.0, 0.1, 3.0]), counts, 3))
    assert found == [(1, 2), (0, 2), (0, 1)]


def test_a_pair_comes_again_where_it_tells_most() -> None:
    counts = played(3, (0, 1, 2), (0, 2, 50), (1, 2, 40))
    assert listed(most_informative(np.zeros(3), counts, 5)) == [(0, 1)] * 5


def test_a_repeated_batch_is_one_pair_after_the_other() -> None:
    """As if each pair were played before the next is chosen."""
    games = [(0, 1, 3), (0, 2, 1), (1, 2, 0), (0, 3, 2), (1, 3, 0), (2, 3, 1)]
    strengths = np.array([0.0, 0.4, -0.9, 1.3])
    batch = listed(most_informative(strengths, played(4, *games), 12))
    for chosen in batch:
        assert listed(most_informative(strengths, played(4, *games), 1)) == [chosen]
        games = [(i, j, n + ((i, j) == chosen)) for i, j, n in games]


@pytest.mark.parametrize("players", [0, 1])
def test_nobody_to_meet_is_an_empty_batch(players: int) -> None:
    none = np.empty(0, dtype=np.int64)
    counts = count_battles(Battles(players, none, none, np.empty(0)))
    assert listed(most_informative(np.zeros(players), counts, 4)) == []
