"""What to do about labels that may be wrong: learn less from them, and look at them again.

A pair whose label is wrong with probability e is learnt with `preference_loss` (`reward/loss.py`)
at a `smoothed` target. The unbiased loss, [(1 - e) l(d) - e l(-d)] / (1 - 2 e), has no lower bound:
on planted tastes it learnt less than no correction at all, so there is none.

Shapes: P preference pairs.
"""

import numpy as np

from align.reward.annotators.votes import Floats, Ints


def smoothed(target_prob: float, noise_prob: float) -> float:
    """The target t' = (1 - e) t + e (1 - t), at which the loss is (1 - e) l(d) + e l(-d).

    l is the loss at target t, d the score gap; e = 0 changes nothing. Source: label smoothing by
    the noise that is known, as in Natarajan et al. 2013, "Learning with noisy labels", section 1.
    """
    return (1 - noise_prob) * target_prob + noise_prob * (1 - target_prob)


def disagreements(predicted_P: Floats, most: float = 0.1) -> Ints:
    """Pairs to look at again, the most doubtful first.

    `predicted_P` is P(chosen is better) by a model that did not train on the pair (out of fold);
    listed are the pairs for which it is `most` or less. Source: Northcutt, Jiang and Chuang 2021,
    "Confident learning", section 3.
    """
    order_P = np.argsort(predicted_P, kind="stable")
    return order_P[predicted_P[order_P] <= most]
