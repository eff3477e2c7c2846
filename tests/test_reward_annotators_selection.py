"""Vote-k on a graph small enough to count by hand, and on planted clusters."""

import numpy as np
import pytest

from align.reward.annotators.selection import (
    neighbours,
    vote_k,
    vote_k_by_confidence,
    vote_scores,
)

# Items 1, 2 and 3 look to the hub 0 first, 5 and 6 to the smaller hub 4.
GRAPH = np.array([[1, 2], [0, 2], [0, 3], [0, 1], [5, 6], [4, 6], [4, 0]])


def test_without_picks_the_score_counts_who_looks_at_an_item() -> None:
    assert vote_scores(GRAPH, []).tolist() == [4, 2, 2, 1, 2, 1, 2]


def test_after_picking_a_hub_its_neighbours_votes_drop_by_the_discount() -> None:
    assert vote_k(GRAPH, 1) == [0]
    score_I = vote_scores(GRAPH, [0], discount=10)
    # 1, 2, 3 and 6 look at 0 and count a tenth; 0 itself does not vote any more.
    assert score_I.tolist() == pytest.approx([-np.inf, 0.1, 0.1, 0.1, 1.1, 1, 2])
    assert vote_scores(GRAPH, [0], discount=2)[1] == 0.5
    twice_I = vote_scores(GRAPH, [0, 2], discount=10)
    assert twice_I[1] == pytest.approx(0.1)  # 3 alone is left to vote for it
    assert vote_scores(GRAPH, [0, 1], discount=10)[0] == -np.inf


def test_a_voter_with_two_picked_neighbours_is_discounted_twice() -> None:
    graph = np.array([[1, 2], [2, 0], [0, 1], [1, 2], [1, 3]])
    assert vote_scores(graph, [1, 2], discount=10)[[0, 3]] == pytest.approx([0, 0.1])
    assert vote_scores(np.array([[1, 2, 3]] * 4), [1, 2], discount=10)[3] == pytest.approx(0.02)


def test_the_picks_go_on_from_earlier_ones_and_end_with_the_items() -> None:
    everything = vote_k(GRAPH, 99)
    assert sorted(everything) == list(range(7))
    assert vote_k(GRAPH, 2, picked=everything[:3]) == everything[3:5]
    assert vote_k(GRAPH, 0) == []


def test_neighbours_are_the_most_alike_by_cosine() -> None:
    rng = np.random.default_rng(0)
    embedding_ID = rng.normal(size=(60, 5)) * rng.uniform(0.1, 9, (60, 1))
    near_IK = neighbours(embedding_ID, 4)
    for item in range(60):
        cosine = [
            (a @ embedding_ID[item]) / np.linalg.norm(a) if other != item else -np.inf
            for other, a in enumerate(embedding_ID)
        ]
        assert near_IK[item].tolist() == sorted(range(60), key=lambda i: -cosine[i])[:4]


def test_an_empty_embedding_is_like_nothing_and_harms_nothing() -> None:
    near_IK = neighbours(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]), 1)
    assert near_IK[1:].tolist() == [[2], [1]]


def test_one_pick_comes_from_every_planted_cluster() -> None:
    rng = np.random.default_rng(1)
    sizes = (60, 40, 30, 20)
    centre_CD = np.eye(4) * 10
    cluster_I = np.repeat(np.arange(4), sizes)
    near_IK = neighbours(centre_CD[cluster_I] + rng.normal(size=(150, 4)), 15)
    assert {int(cluster_I[item]) for item in vote_k(near_IK, 4)} == {0, 1, 2, 3}


def test_the_second_stage_takes_one_item_from_each_level_of_doubt() -> None:
    rng = np.random.default_rng(2)
    near_IK = neighbours(rng.normal(size=(101, 3)), 5)
    confidence_I = rng.permutation(101) / 100
    first = vote_k(near_IK, 1)
    chosen = vote_k_by_confidence(near_IK, confidence_I, 9, first)
    assert len({*chosen, *first}) == 10
    left = sorted(set(range(101)) - set(first), key=lambda item: confidence_I[item])
    assert [left.index(item) // 10 for item in chosen] == list(range(9))  # not the surest tenth


def test_the_second_stage_ends_when_nothing_is_left() -> None:
    chosen = vote_k_by_confidence(GRAPH, np.arange(7.0), 5, [0, 1, 2, 3])
    assert sorted(chosen) == [4, 5, 6]
