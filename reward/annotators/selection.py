"""Vote-k: which prompts to send to annotators next, so that a few stand for many.

Every item votes for those nearest to it. The item with most votes is picked; voters who now have a
picked neighbour count less, so the next pick comes from elsewhere. Source: Su et al. 2022,
"Selective annotation makes language models better few-shot learners" (arXiv:2209.01975), section 2.

Shapes: I items, D dimensions, K neighbours.
"""

from collections.abc import Sequence

import numpy as np

from align.reward.annotators.votes import Floats, Ints

BLOCK = 1024  # items compared with all others at once


def neighbours(embedding_ID: Floats, k: int) -> Ints:
    """(I, K): the items most alike by cosine, without the item itself; nearest first."""
    length_I = np.linalg.norm(embedding_ID, axis=1, keepdims=True)
    unit_ID = embedding_ID / np.maximum(length_I, np.finfo(np.float64).tiny)
    assert 0 < k < len(unit_ID), f"{len(unit_ID)} items do not have {k} neighbours each"
    rows = []
    for start in range(0, len(unit_ID), BLOCK):
        cosine_BI = unit_ID[start : start + BLOCK] @ unit_ID.T
        place_B = np.arange(len(cosine_BI))
        cosine_BI[place_B, start + place_B] = -np.inf
        near_BK = np.argpartition(-cosine_BI, k, axis=1)[:, :k]
        order_BK = np.argsort(-np.take_along_axis(cosine_BI, near_BK, 1), axis=1, kind="stable")
        rows.append(np.take_along_axis(near_BK, order_BK, 1))
    return np.concatenate(rows)


def vote_scores(near_IK: Ints, picked: Sequence[int], discount: float = 10.0) -> Floats:
    """(I,): sum of s(v) over the voters v of each item, s(v) = discount^-(v's picked neighbours).

    Picked items neither vote nor can be picked again: their score is -inf.
    """
    picked_neighbours_I = np.isin(near_IK, picked).sum(axis=1)
    vote_I = discount ** -picked_neighbours_I.astype(np.float64)
    vote_I[list(picked)] = 0.0
    vote_IK = np.broadcast_to(vote_I[:, None], near_IK.shape)
    score_I = np.zeros(len(near_IK))
    np.add.at(score_I, near_IK, vote_IK)
    score_I[list(picked)] = -np.inf
    return score_I


def vote_k(near_IK: Ints, count: int, picked: Sequence[int] = ()) -> list[int]:
    """The next `count` items after those already picked, one by one; the first of equals."""
    chosen = list(picked)
    for _ in range(min(count, len(near_IK) - len(chosen))):
        chosen.append(int(vote_scores(near_IK, chosen).argmax()))
    return chosen[len(picked) :]


def vote_k_by_confidence(
    near_IK: Ints, confidence_I: Floats, count: int, picked: Sequence[int]
) -> list[int]:
    """Second stage: one item from each level of confidence of a model that learnt the first picks.

    The items that are left, least confident first, make `count` / 0.9 buckets of one size. The
    best by votes comes from each of the first `count`: what the model is surest of is left out.
    """
    left = np.setdiff1d(np.arange(len(near_IK)), picked)
    by_doubt = left[np.argsort(confidence_I[left], kind="stable")]
    chosen = list(picked)
    for bucket in np.array_split(by_doubt, round(count / 0.9))[:count]:
        if len(bucket):
            score_I = vote_scores(near_IK, chosen)
            chosen.append(int(bucket[score_I[bucket].argmax()]))
    return chosen[len(picked) :]
