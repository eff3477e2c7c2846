"""Where a rule and another criterion disagree about two answers, and what hard rules then do.

Legend: R records, M pairs, C conflicts.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from align.data.arrays import Flags, Ints, combinations, gathered, name_codes, one_array, runs
from align.data.criteria import RULE
from align.data.schemas import CONFLICT
from align.reward.feedback.pairs import Pairs, picked
from align.reward.feedback.pool import Pool


def disagreements(pool: Pool, pairs: Pairs) -> tuple[Ints, Ints]:
    """Two pairs of the same answers, one of them by a rule, that prefer different ones."""
    first, second = _same_answers(pool, pairs)
    rule_R = np.array([name.startswith(RULE) for name in pool.criteria])[pool.criterion_R]
    rule_M = rule_R[pairs.first_M]
    certain = (pairs.prob_M[first] != 0.5) & (pairs.prob_M[second] != 0.5)
    kept = _opposed(pool, pairs, first, second) & certain & (rule_M[first] | rule_M[second])
    return first[kept], second[kept]


def hard_rules_first(pool: Pool, pairs: Pairs) -> tuple[Pool, Pairs, pa.Table]:
    """Verdicts of the hard rules become `overall`; the table tells which pairs they outvoted.

    Of the answers they tell apart, `overall` pairs of people go, and pairs by other criteria that
    do not prefer the same one.
    """
    verdict_M = pool.verdict_R[pairs.first_M]
    overall = pool.criteria.index("overall") if "overall" in pool.criteria else -1
    overall_M = pool.criterion_R[pairs.first_M] == overall
    first, second = _same_answers(pool, pairs)
    decided = verdict_M[first] ^ verdict_M[second]
    first, second = first[decided], second[decided]
    verdict = np.where(verdict_M[first], first, second)
    other = np.where(verdict_M[first], second, first)
    against = _opposed(pool, pairs, verdict, other) | (pairs.prob_M[other] == 0.5)
    outvoted = conflict_table(pool, pairs, verdict[against], other[against], outvoted=True)
    kept_M = np.ones(len(pairs), dtype=bool)
    kept_M[other[against | overall_M[other]]] = False
    criterion = np.where(pool.verdict_R, "overall", one_array(pool.table["criterion"]).to_pylist())
    return _renamed(pool, pa.array(criterion)), picked(pairs, np.flatnonzero(kept_M)), outvoted


def conflict_table(pool: Pool, pairs: Pairs, ours: Ints, theirs: Ints, outvoted: bool) -> pa.Table:
    """A row for each two pairs (places in M) that disagree, as `ours` sees it."""
    record_C, ids = pa.array(pairs.first_M[ours]), pool.answer_ids
    criterion = one_array(pool.table["criterion"])
    columns = [
        one_array(pool.table["prompt_id"]).take(record_C),
        ids.take(pa.array(pairs.chosen_M[ours])),
        ids.take(pa.array(pairs.rejected_M[ours])),
        criterion.take(record_C),
        criterion.take(pa.array(pairs.first_M[theirs])),
        _feedback_ids(pool, pairs, ours),
        _feedback_ids(pool, pairs, theirs),
        pa.array(np.full(len(ours), outvoted)),
    ]
    return pa.Table.from_arrays(columns, schema=CONFLICT)


def _same_answers(pool: Pool, pairs: Pairs) -> tuple[Ints, Ints]:
    chosen, rejected = pool.answer_A[pairs.chosen_M], pool.answer_A[pairs.rejected_M]
    order, start = runs(np.minimum(chosen, rejected), np.maximum(chosen, rejected))
    first, second = combinations(start)
    return order[first], order[second]


def _opposed(pool: Pool, pairs: Pairs, ours: Ints, theirs: Ints) -> Flags:
    opposed: Flags = pool.answer_A[pairs.chosen_M[ours]] != pool.answer_A[pairs.chosen_M[theirs]]
    return opposed


def _feedback_ids(pool: Pool, pairs: Pairs, places: Ints) -> pa.ListArray:
    start_M1 = np.searchsorted(pairs.owner_E, np.arange(len(pairs) + 1))
    owner, entry = gathered(start_M1, places)
    names = one_array(pool.table["feedback_id"]).take(pa.array(pairs.record_E[entry]))
    offsets = np.searchsorted(owner, np.arange(len(places) + 1)).astype(np.int32)
    kind = CONFLICT.field("feedback_ids").type
    return pa.ListArray.from_arrays(pa.array(offsets), names, type=kind)


def _renamed(pool: Pool, criterion: pa.Array) -> Pool:
    codes_R, names = name_codes(criterion)
    place = pool.table.column_names.index("criterion")
    table = pool.table.set_column(place, "criterion", criterion)
    return replace(pool, table=table, criterion_R=codes_R, criteria=names.to_pylist())
