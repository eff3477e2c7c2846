"""Best-of: the best of K answers is better than each of the others, which are not compared.

Source: Ziegler et al. 2019 (arXiv:1909.08593) train a K-way softmax on such choices, equation 1; as
pairs it is K - 1 of them, which share the weight of one group. Legend: R records, A answers.
"""

import numpy as np
import pyarrow as pa

from align.data.arrays import one_array, ragged
from align.reward.feedback.opinions import Opinions, owners, together


def opinions(table: pa.Table) -> Opinions:
    """K - 1 pairs of each record; where no answer was acceptable, none."""
    start_R1, _ = ragged(table["completion_ids"])
    best = one_array(table["best_index"]).fill_null(-1)
    best_R = best.to_numpy().astype(np.int64)
    best_A = np.where(best_R < 0, -1, start_R1[:-1] + best_R)[owners(start_R1)]
    other = np.flatnonzero((best_A >= 0) & (best_A != np.arange(len(best_A))))
    return together(start_R1, best_A[other], other, np.ones(len(other)))
