"""Rankings: K answers in order, ties allowed, become all pairs of better and worse.

Source: Ouyang et al. 2022 (InstructGPT), section 3.5: the K(K-1)/2 pairs of a prompt are one batch
element, here a group whose weights sum to 1. Legend: R records, A answers, O opinions.
"""

import numpy as np
import pyarrow as pa

from align.data.arrays import combinations, ragged
from align.reward.feedback.opinions import Opinions, owners, together


def opinions(table: pa.Table, margins: bool) -> Opinions:
    """All pairs of each ranking; equal ranks are ties.

    With `margins`, the gap is that of the ranks, as a share of the widest one in the ranking.
    """
    start_R1, ranks = ragged(table["ranks"])
    rank_A = ranks.to_numpy().astype(np.int64)
    first, second = combinations(start_R1)
    gap = (rank_A[second] - rank_A[first]).astype(float)
    prob = (1 + np.sign(gap)) / 2
    if not margins:
        return together(start_R1, first, second, prob)
    worst_R = np.maximum.reduceat(rank_A, start_R1[:-1]) if len(rank_A) else rank_A
    widest = np.maximum(worst_R - 1, 1)[owners(start_R1)[first]]
    return together(start_R1, first, second, prob, gap / widest)
