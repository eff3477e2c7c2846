"""What each annotator said of every two answers: records of any kind, as votes on pairs.

Each kind's own converter says which of two answers is better, for one annotator at a time: answers
graded one by one are compared with others that the same person graded. An item is a pair_id.
Legend: R records, A answers, O opinions, N votes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from align.data.arrays import Ints, one_array
from align.data.by_prompt import Slice
from align.reward.annotators.votes import LARGER, SMALLER, TIE, Times, Votes, times_of, votes_of
from align.reward.config import ComparisonsConfig, RulesConfig
from align.reward.feedback.kinds import Options, judged
from align.reward.feedback.pair_ids import pair_ids
from align.reward.feedback.pool import Pool, pooled


@dataclass(frozen=True)
class Said:
    """The votes of some records, in the order of time."""

    pair_ids: pa.Array
    annotator_ids: pa.Array
    annotator_kinds: pa.Array
    label_N: Ints
    time_N: Times


def votes_on_pairs(slices: Iterable[Slice], options: Options) -> Votes:
    """The votes in all slices, each of which has all records of its prompts.

    Of somebody who judged two answers several times the newest judgement counts. Only the votes
    stay in memory, no text. Raises: UserError if one annotator_id has two kinds.
    """
    parts = [_said(one, options) for one in slices if one]
    pairs, annotators, kinds = (
        pa.concat_arrays([pa.array([], pa.string()), *columns])
        for columns in (
            [part.pair_ids for part in parts],
            [part.annotator_ids for part in parts],
            [part.annotator_kinds for part in parts],
        )
    )
    labels = np.concatenate([np.empty(0, np.int64), *(part.label_N for part in parts)])
    times = np.concatenate([times_of([]), *(part.time_N for part in parts)])
    return votes_of(pairs, annotators, kinds, labels, times=times)


def _said(tables: Slice, options: Options) -> Said:
    plain = {"comparisons": ComparisonsConfig(), "rules": RulesConfig()}
    options = replace(options, config=options.config.model_copy(update=plain))
    pool = pooled(judged({kind: _by_annotator(table) for kind, table in tables.items()}, options))
    said = pool.opinions
    record_O = pool.record_A[said.first_O]
    time_R = one_array(pool.table["created_at"]).to_numpy(zero_copy_only=False)
    order = np.lexsort((pool.feedback_R[record_O], time_R[record_O]))
    order = order[pool.text_A[said.first_O[order]] != pool.text_A[said.second_O[order]]]
    record_N = pa.array(record_O[order])
    return Said(
        _pair_ids(pool, order),
        one_array(pool.table["annotator_id"]).take(record_N),
        one_array(pool.table["annotator_kind"]).take(record_N),
        _labels(pool, order),
        time_R[record_O[order]],
    )


def _by_annotator(table: pa.Table) -> pa.Table:
    """Everybody as a source of their own: answers of two sources are never compared."""
    place = table.schema.get_field_index("source")
    return table.set_column(place, table.schema.field(place), table["annotator_id"])


def _pair_ids(pool: Pool, order: Ints) -> pa.Array:
    first_N, second_N = pool.opinions.first_O[order], pool.opinions.second_O[order]
    record_N = pa.array(pool.record_A[first_N])
    return pair_ids(
        one_array(pool.table["prompt_id"]).take(record_N),
        pool.answer_ids.take(pa.array(first_N)),
        pool.answer_ids.take(pa.array(second_N)),
        one_array(pool.table["criterion"]).take(record_N),
    )


def _labels(pool: Pool, order: Ints) -> Ints:
    """SMALLER, TIE or LARGER, by the ids of the answers."""
    said = pool.opinions
    is_smaller_N = pool.answer_A[said.first_O[order]] < pool.answer_A[said.second_O[order]]
    prob_N = np.where(is_smaller_N, said.prob_O[order], 1 - said.prob_O[order])
    return np.where(prob_N == 0.5, TIE, np.where(prob_N > 0.5, SMALLER, LARGER))
