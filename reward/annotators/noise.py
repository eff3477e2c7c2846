"""From the Dawid-Skene posterior to how far a pair or a vote can be trusted.

A pair whose label is wrong with probability e is learnt with `preference_loss` at a `smoothed`
target, or with `unbiased_loss` (both in `reward/loss.py`).

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


def smoothed(target_prob: float, noise_prob: float) -> float:
    """The target t' = (1 - e) t + e (1 - t), at which the loss is (1 - e) l(d) + e l(-d).

    l is the loss at target t, d the score gap; e = 0 changes nothing. Source: label smoothing by
    the noise that is known, as in Natarajan et al. 2013, "Learning with noisy labels", section 1.
    """
    return (1 - noise_prob) * target_prob + noise_prob * (1 - target_prob)


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
