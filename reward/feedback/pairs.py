"""From opinions to preference pairs: what all feedback kinds share.

Opinions of all kinds on the same two answers by the same criterion are merged into one pair, so a
pair and its reverse never both exist. First the votes of one kind, group (prompt, criterion and
source) and two answers are counted; where several kinds or sources judged the same two answers,
each speaks for the number of its records, and the pair stays in the first of the groups by name.

Legend: R records, A answers, O opinions, L counts of votes, M pairs, E entries of "this rests on
that record", V verdicts (the low one is worse, equal, better). Of two answers, the low one has the
smaller id.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import numpy as np

from align.data.arrays import (
    Flags,
    Floats,
    Ints,
    joint_codes,
    run_means,
    run_sums,
    runs,
)
from align.reward.feedback.pool import Pool

Ties = Literal["soft", "drop"]
EVEN = 1e-12  # an edge smaller than this is the rounding of votes that cancel out


@dataclass(frozen=True)
class Counts:
    """The votes of one kind and group on two answers (places in A)."""

    low_L: Ints
    high_L: Ints
    prob_L: Floats  # that the low one is better
    gap_L: Floats  # by how much; nan: unknown
    score_low_L: Floats  # nan: not scored
    score_high_L: Floats
    people_LV: Ints  # opinions in which people had a part
    models_LV: Ints  # those of judge models alone
    group_weight_L: Floats
    first_L: Ints  # the record with the smallest id
    owner_E: Ints
    record_E: Ints  # in the order of their ids

    def __len__(self) -> int:
        return len(self.low_L)


@dataclass(frozen=True)
class Pairs:
    """Pairs of answers (places in A), each two once by each criterion."""

    chosen_M: Ints
    rejected_M: Ints
    prob_M: Floats  # that the chosen one is better, 1/2 to 1
    margin_M: Floats
    score_chosen_M: Floats
    score_rejected_M: Floats
    agreement_M: Floats  # nan for one opinion
    group_weight_M: Floats
    first_M: Ints  # the record with the smallest id in the first group by name
    kinds_M: Ints  # the kinds it rests on, a bit for each
    owner_E: Ints
    record_E: Ints

    def __len__(self) -> int:
        return len(self.chosen_M)


Rows = TypeVar("Rows", Counts, Pairs)


def picked(rows: Rows, places: Ints) -> Rows:
    """Some of the rows, in the order given."""
    new = np.full(len(rows), -1)
    new[places] = np.arange(len(places))
    owner_E = new[rows.owner_E]
    order = np.argsort(owner_E, kind="stable")
    order = order[owner_E[order] >= 0]
    values: dict[str, Any] = {
        field.name: getattr(rows, field.name)[places]
        for field in fields(rows)
        if not field.name.endswith("_E")
    }
    return type(rows)(**values, owner_E=owner_E[order], record_E=rows.record_E[order])


def pairs_of(pool: Pool, ties: Ties) -> Pairs:
    """One pair per two answers and criterion; with `ties` drop, tie votes and even pairs go.

    `prob` is the mean over the opinions, turned so that the chosen answer is the better one; the
    low answer of an even pair is the chosen one. Answers of the same text make no pair.
    """
    pairs = _merged(pool, _counted(pool, ties))
    return picked(pairs, np.flatnonzero(pairs.prob_M != 0.5)) if ties == "drop" else pairs


def _counted(pool: Pool, ties: Ties) -> Counts:
    """`group_weight` is the number of opinions, 1 on average over the kind and group.

    That is the likelihood of the votes, at equal weight per prompt.
    """
    said = pool.opinions
    kept_O = pool.text_A[said.first_O] != pool.text_A[said.second_O]
    if ties == "drop":
        kept_O &= said.prob_O != 0.5
    swap_O = pool.answer_A[said.first_O] > pool.answer_A[said.second_O]
    low_O = np.where(swap_O, said.second_O, said.first_O)
    high_O = np.where(swap_O, said.first_O, said.second_O)
    record_O = pool.record_A[said.first_O]
    group_R = joint_codes(pool.prompt_R, pool.criterion_R, pool.source_R)
    group_O, kind_O = group_R[record_O], pool.kind_R[record_O]
    kept = np.flatnonzero(kept_O)
    keys = (group_O, pool.answer_A[low_O], pool.answer_A[high_O], kind_O)
    order, start_L1 = runs(*(key[kept] for key in keys), then=pool.feedback_R[record_O[kept]])
    order = kept[order]
    first, votes_L = order[start_L1[:-1]], np.diff(start_L1)
    people_O = np.zeros(len(kept_O), dtype=bool)
    people_O[said.opinion_E[pool.person_R[said.record_E]]] = True

    swap = swap_O[order]
    ours, theirs = said.score_first_O[order], said.score_second_O[order]
    prob = np.where(swap, 1 - said.prob_O[order], said.prob_O[order])
    owner_E, record_E = _entries(pool, _owners(order, start_L1, len(kept_O)))
    return Counts(
        low_L=low_O[first],
        high_L=high_O[first],
        prob_L=run_means(prob, start_L1),
        gap_L=run_means(np.where(swap, -1, 1) * said.gap_O[order], start_L1),
        score_low_L=run_means(np.where(swap, theirs, ours), start_L1),
        score_high_L=run_means(np.where(swap, ours, theirs), start_L1),
        people_LV=_tally(prob, people_O[order], start_L1),
        models_LV=_tally(prob, ~people_O[order], start_L1),
        group_weight_L=votes_L / _means_by(joint_codes(group_O[first], kind_O[first]), votes_L),
        first_L=record_E[np.searchsorted(owner_E, np.arange(len(votes_L)))],
        owner_E=owner_E,
        record_E=record_E,
    )


def _owners(order: Ints, start_N1: Ints, size: int) -> Ints:
    """The run that each item went into; -1: none."""
    owner = np.full(size, -1)
    owner[order] = np.repeat(np.arange(len(start_N1) - 1), np.diff(start_N1))
    return owner


def _entries(pool: Pool, owner_O: Ints) -> tuple[Ints, Ints]:
    """Which records each count rests on, in the order of their ids."""
    owner_E, record_E = owner_O[pool.opinions.opinion_E], pool.opinions.record_E
    order = np.lexsort((pool.feedback_R[record_E], owner_E))
    order = order[owner_E[order] >= 0]
    return owner_E[order], record_E[order]


def _tally(prob: Floats, counted: Flags, start_L1: Ints) -> Ints:
    """How many of the opinions that are counted give each verdict."""
    verdict = np.sign(prob - 0.5).astype(np.int64) + 1
    tally_LV: Ints = run_sums(np.eye(3, dtype=np.int64)[verdict] * counted[:, None], start_L1)
    return tally_LV


def _agreement(people_MV: Ints, models_MV: Ints) -> Floats:
    """The share of opinions for the commonest verdict; of models alone where no person judged."""
    alone_M = people_MV.sum(axis=1) == 0
    tally_MV = np.where(alone_M[:, None], models_MV, people_MV)
    votes_M = tally_MV.sum(axis=1)
    return np.where(votes_M > 1, tally_MV.max(axis=1) / votes_M, np.nan)


def _means_by(group_L: Ints, votes_L: Ints) -> Floats:
    """The mean votes of each row's group."""
    means: Floats = (np.bincount(group_L, votes_L) / np.bincount(group_L))[group_L]
    return means


def _margins(counts: Counts) -> Floats:
    """How much the better answer is better, at least 0; 0 for a tie and where it is unknown."""
    sign_L = np.where(counts.prob_L < 0.5, -1.0, 1.0)
    scored = counts.score_low_L - counts.score_high_L
    gap_L = np.nan_to_num(np.where(np.isnan(scored), counts.gap_L, scored))
    return np.where(counts.prob_L == 0.5, 0.0, np.maximum(gap_L * sign_L, 0.0))


def _merged(pool: Pool, counts: Counts) -> Pairs:
    """Counts of different kinds and sources on the same two answers by the same criterion."""
    topic_R = joint_codes(pool.prompt_R, pool.criterion_R)
    name_L = joint_codes(pool.source_R[counts.first_L], pool.kind_R[counts.first_L])
    keys = (topic_R[counts.first_L], pool.answer_A[counts.low_L], pool.answer_A[counts.high_L])
    order, start_M1 = runs(*keys, then=name_L)
    first, single_M = order[start_M1[:-1]], np.diff(start_M1) == 1
    prob_L, margin_L = np.maximum(counts.prob_L, 1 - counts.prob_L), _margins(counts)

    records_L = np.bincount(counts.owner_E, minlength=len(prob_L))[order]
    sign_L = np.where(counts.prob_L < 0.5, -1.0, 1.0)[order]
    total_M = run_sums(records_L, start_M1)
    edge_M = run_sums(records_L * sign_L * (prob_L[order] - 0.5), start_M1) / total_M
    edge_M = np.where(np.abs(edge_M) < EVEN, 0.0, edge_M)
    gap_M = run_sums(records_L * sign_L * margin_L[order], start_M1) / total_M
    swap_M = edge_M < 0
    merged_margin = np.where(edge_M == 0, 0.0, np.maximum(np.where(swap_M, -gap_M, gap_M), 0.0))

    low, high = counts.low_L[first], counts.high_L[first]
    # Scores of different kinds have no common scale.
    score_low = np.where(single_M, counts.score_low_L[first], np.nan)
    score_high = np.where(single_M, counts.score_high_L[first], np.nan)
    owner_E = _owners(order, start_M1, len(order))[counts.owner_E]
    by_id = np.lexsort((pool.feedback_R[counts.record_E], owner_E))
    kind_bits = (1 << pool.kind_R[counts.first_L])[order]
    return Pairs(
        chosen_M=np.where(swap_M, high, low),
        rejected_M=np.where(swap_M, low, high),
        prob_M=np.where(single_M, prob_L[first], 0.5 + np.abs(edge_M)),
        margin_M=np.where(single_M, margin_L[first], merged_margin),
        score_chosen_M=np.where(swap_M, score_high, score_low),
        score_rejected_M=np.where(swap_M, score_low, score_high),
        agreement_M=_agreement(
            run_sums(counts.people_LV[order], start_M1), run_sums(counts.models_LV[order], start_M1)
        ),
        group_weight_M=counts.group_weight_L[first],
        first_M=counts.first_L[first],
        kinds_M=np.bitwise_or.reduceat(kind_bits, start_M1[:-1]) if len(first) else kind_bits,
        owner_E=owner_E[by_id],
        record_E=counts.record_E[by_id],
    )
