"""Which answer of a pair is truly better, by Dawid-Skene, and so how far its label can be trusted.

Votes of all kinds, prompts and criteria together tell how reliable each annotator is. Nothing is
known of somebody who never judged what another one did.
Shapes: M pairs.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Flags, Floats
from align.reward.annotators import dawid_skene
from align.reward.annotators.votes import SMALLER, TIE, Votes

MOST_NOISE = 0.499  # of a label that is no better than a coin; at 1/2 there is nothing to learn


@dataclass(frozen=True)
class Truth:
    """What is true of each pair on which somebody voted who can be compared with others."""

    pair_ids: pa.Array
    smaller_is_better: Floats  # P(the answer with the smaller id is better), a tie is half of it


def truth_of(votes: Votes) -> Truth:
    """From everybody's votes on all pairs."""
    known_I = np.bincount(votes.item_N, votes.compared()[votes.annotator_N]) > 0
    posterior_IL = dawid_skene.fit(votes).posterior_IL[known_I]
    better = posterior_IL[:, SMALLER] + posterior_IL[:, TIE] / 2
    return Truth(pa.array(votes.items, pa.string()).filter(pa.array(known_I)), better)


def noise_of(
    truth: Truth, pair_ids: pa.Array, chosen_is_smaller_M: Flags, certain_M: Flags
) -> pa.Array:
    """The probability that the rejected answer of each pair is the better one, as `noise_prob`.

    Null where nothing is known, and for `certain` pairs, of which there is nothing to doubt. The
    chosen answer is that of the votes: where Dawid-Skene is for the other one, the pair says next
    to nothing, it is not turned round.
    """
    place = pc.index_in(pair_ids, truth.pair_ids)
    smaller_M = pa.array(truth.smaller_is_better, pa.float64()).take(place)
    smaller_M = smaller_M.to_numpy(zero_copy_only=False)
    noise_M = np.where(chosen_is_smaller_M, 1 - smaller_M, smaller_M)
    noise_M = np.clip(noise_M, 0.0, MOST_NOISE)
    return pa.array(np.where(certain_M, np.nan, noise_M), pa.float32(), from_pandas=True)
