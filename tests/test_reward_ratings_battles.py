"""Counting battles, and who is linked with whom."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from align.reward.ratings.battles import Battles, Floats, Ints, count_battles, count_by_cluster
from align.reward.ratings.connectivity import connectivity, strong_components


def random_battles(players: int, battles: int, seed: int = 0) -> Battles:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, players, battles)
    return Battles(
        players,
        first,
        (first + generator.integers(1, players, battles)) % players,
        generator.choice([0.0, 0.5, 1.0], battles),
        cluster_B=generator.integers(0, 7, battles) * 3,
        shown_first_B=generator.choice([-1, 0, 1], battles),
    )


def counted_one_by_one(battles: Battles, by_position: bool) -> dict[tuple[int, ...], list[int]]:
    """(i, j, position): [wins, ties, losses]."""
    assert battles.shown_first_B is not None
    table: dict[tuple[int, ...], list[int]] = {}
    for first, second, outcome, shown in zip(
        battles.first_B.tolist(),
        battles.second_B.tolist(),
        battles.outcome_B.tolist(),
        battles.shown_first_B.tolist(),
        strict=True,
    ):
        position = shown if by_position else 0
        if first > second:
            first, second, outcome, position = second, first, 1 - outcome, -position
        row = table.setdefault((first, second, position), [0, 0, 0])
        row[int(2 - 2 * outcome)] += 1
    return table


@pytest.mark.parametrize("by_position", [False, True])
def test_counting_at_once_is_counting_one_by_one(by_position: bool) -> None:
    battles = random_battles(6, 400)
    counts = count_battles(battles, by_position)
    rows = zip(counts.i_P, counts.j_P, counts.position_P, strict=True)
    tallies = zip(counts.wins_P, counts.ties_P, counts.losses_P, strict=True)
    found = {
        (int(i), int(j), int(position)): [int(n) for n in tally]
        for (i, j, position), tally in zip(rows, tallies, strict=True)
    }
    expected = counted_one_by_one(battles, by_position)
    assert found == expected and list(found) == sorted(expected)


@pytest.mark.parametrize("by_position", [False, True])
def test_the_clusters_add_up_to_the_counts(by_position: bool) -> None:
    battles = random_battles(6, 400)
    counts, parts = count_battles(battles, by_position), count_by_cluster(battles, by_position)
    assert parts.clusters == 7 and parts.cluster_G.max() == 6
    whole: list[Floats] = [counts.wins_P, counts.losses_P, counts.ties_P]
    for tally_G, tally_P in zip(parts.tallies_G, whole, strict=True):
        summed = np.bincount(parts.row_G, tally_G, minlength=len(tally_P))
        np.testing.assert_array_equal(summed, tally_P)
    of_one = np.asarray(battles.cluster_B) == 6  # the third cluster
    assert sum(tally[parts.cluster_G == 2].sum() for tally in parts.tallies_G) == of_one.sum()


def test_a_hundred_thousand_battles_of_two_players_are_one_row() -> None:
    ones: Ints = np.ones(100_000, dtype=np.int64)
    outcome = np.tile([1.0, 0.5, 0.0, 0.0], 25_000)
    counts = count_battles(Battles(2, ones, 1 - ones, outcome))
    assert (counts.i_P.tolist(), counts.j_P.tolist()) == ([0], [1])
    tallies = [counts.wins_P.item(), counts.ties_P.item(), counts.losses_P.item()]
    assert tallies == [50_000, 25_000, 25_000]


@pytest.mark.parametrize(
    ("first", "second", "outcome"), [(0, 0, 1.0), (0, 2, 1.0), (-1, 0, 1.0), (0, 1, 0.7)]
)
def test_battles_that_cannot_be_are_our_bug(first: int, second: int, outcome: float) -> None:
    with pytest.raises(AssertionError):
        Battles(2, np.array([first]), np.array([second]), np.array([outcome]))


def same_partition(left: Ints, right: Ints) -> bool:
    return bool(((left[:, None] == left) == (right[:, None] == right)).all())


@pytest.mark.parametrize("battles", [0, 3, 10, 20, 40])
def test_components_are_those_of_scipy(battles: int) -> None:
    for seed in range(10):
        played = random_battles(12, battles, seed)
        beats = np.zeros((12, 12))
        np.add.at(beats, (played.first_B, played.second_B), played.outcome_B > 0)
        np.add.at(beats, (played.second_B, played.first_B), played.outcome_B < 1)
        linked = connectivity(count_battles(played))
        strong = connected_components(beats, connection="strong")
        weak = connected_components(beats, directed=False)
        assert same_partition(linked.strong_N, strong[1])
        assert same_partition(linked.weak_N, weak[1])
        assert linked.estimate_exists == (strong[0] == 1)


def test_components_are_numbered_by_their_lowest_player() -> None:
    source, target = np.array([1, 3, 2, 4]), np.array([3, 1, 4, 2])
    assert strong_components(6, source, target).tolist() == [0, 1, 2, 1, 2, 3]


def test_a_long_chain_of_wins_is_no_recursion_error() -> None:
    players = np.arange(5_000)
    chain = count_battles(Battles(5_000, players[:-1], players[1:], np.ones(4_999)))
    linked = connectivity(chain)
    assert linked.weak_N.max() == 0
    np.testing.assert_array_equal(linked.strong_N, players)
