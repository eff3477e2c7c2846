"""How good the answers to a prompt are, by the battles among them: Bradley-Terry with errors.

The `fit` of `comparisons.pairs: fitted`. Answers that never lost get finite strengths from the
prior of `ratings/bradley_terry.py`.
"""

from functools import partial

import numpy as np

from align.data.arrays import Floats, Ints
from align.reward.feedback.comparisons import Strengths
from align.reward.ratings import bradley_terry
from align.reward.ratings.battles import Battles, count_battles
from align.reward.ratings.uncertainty import difference_errors


def strengths(first_B: Ints, second_B: Ints, outcome_B: Floats) -> Strengths:
    """Strengths of the players 0 to P - 1 of one group of battles; a tie is half a win."""
    players = int(max(first_B.max(), second_B.max())) + 1
    battles = Battles(players, first_B, second_B, np.asarray(outcome_B, np.float64))
    fitted = bradley_terry.fit(count_battles(battles))
    errors = partial(difference_errors, fitted)
    return Strengths(fitted.strengths_N, fitted.connectivity.weak_N, errors)
