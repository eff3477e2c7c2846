"""The Elo scale: 400 points for odds of 10 to 1 (Elo 1978, "The Rating of Chessplayers").

Shapes: B battles, N players.
"""

import math

import numpy as np

from align.reward.ratings.battles import Battles, Floats

ELO_PER_NAT = 400 / math.log(10)  # 173.7178; Bai et al. 2022 (arXiv:2204.05862), eq. 2.1


def to_elo(strength: Floats, mean: float = 0.0) -> Floats:
    """Elo points of strengths in nats, with `mean` points for the strength 0."""
    return mean + ELO_PER_NAT * strength


def online_elo(battles: Battles, k: float = 32.0, start: float = 1000.0) -> Floats:
    """Ratings after each battle moved k (score - expected score) points from one to the other.

    For display only: unlike `bradley_terry.fit` it depends on the order of the battles. The sum of
    the ratings stays what it was. Shape (N,).
    """
    elo = [start] * battles.players
    for first, second, score in zip(
        battles.first_B.tolist(),
        battles.second_B.tolist(),
        battles.outcome_B.tolist(),
        strict=True,
    ):
        expected = (1 + math.tanh((elo[first] - elo[second]) / (2 * ELO_PER_NAT))) / 2
        points = k * (score - expected)
        elo[first] += points
        elo[second] -= points
    return np.array(elo)
