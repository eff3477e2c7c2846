"""From the Dawid-Skene posterior to how far a pair or a vote can be trusted.

A pair whose label is wrong with probability e is learnt with `preference_loss` at
target_prob = 1 - e, or with `unbiased_loss` (both in `reward/loss.py`).

Shapes: N votes, I items, L labels, P pairs.
"""

import numpy as np

from align.reward.annotators.votes import Floats, Ints, Votes


def noise_probabilities(posterior_IL: Floats) -> Floats:
    """(I,): the probability that the better answer is the other one; a tie is half of each.

    For two labels it is 1 - posterior of the winning label. For SMALLER, TIE, LARGER the true
    answer is a soft target, P(smaller) + P(tie) / 2, and this is its distance from the winning
    side. It never exceeds 1/2, and is 1/2 exactly where neither side wins: such a pair is a tie,
    which has no direction that could be wrong, and no noise probability.
    """
    lean_I = posterior_IL[:, 0] - posterior_IL[:, -1]
    return np.asarray((1 - np.abs(lean_I)) / 2)


def vote_quality(posterior_IL: Floats, votes: Votes) -> Floats:
    """(N,): the probability that each vote says what is true, given all the others and itself.

    Their sum over the votes of an item is the expected number of right votes: a `group_weight`
    that neither a liar nor a coin adds much to.
    """
    return posterior_IL[votes.item_N, votes.label_N]


def disagreements(predicted_P: Floats, most: float = 0.1) -> Ints:
    """Pairs to look at again, the most doubtful first.

    `predicted_P` is P(chosen is better) by a model that did not train on the pair (out of fold);
    listed are the pairs for which it is `most` or less. Source: Northcutt, Jiang and Chuang 2021,
    "Confident learning", section 3.
    """
    order_P = np.argsort(predicted_P, kind="stable")
    return order_P[predicted_P[order_P] <= most]
