"""What the converters say: of two answers to one prompt, how likely the first is the better one.

R records of one kind, A answers that they judge (those of a record follow each other), O opinions,
E entries of "this opinion rests on that record".
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from align.data.arrays import (
    Flags,
    Floats,
    Ints,
    combinations,
    gathered,
    joint_codes,
    name_codes,
    one_array,
    ragged,
    run_means,
    runs,
)

ROUNDING = 1e-9  # means of the same scores, summed in another order, differ by less


@dataclass(frozen=True)
class Opinions:
    """Opinions on answers, which go by their place among all answers of the records."""

    first_O: Ints
    second_O: Ints
    prob_O: Floats  # that the first is better: 1, 0, or 1/2 for a tie
    gap_O: Floats  # by how much the first is better, below 0 if it is worse; nan: unknown
    score_first_O: Floats  # nan: not scored
    score_second_O: Floats
    opinion_E: Ints
    record_E: Ints


def owners(start_R1: Ints) -> Ints:
    """The record of each answer (A)."""
    return np.repeat(np.arange(len(start_R1) - 1), np.diff(start_R1))


def together(
    start_R1: Ints,
    first_O: Ints,
    second_O: Ints,
    prob_O: Floats,
    gap_O: Floats | None = None,
    scores: tuple[Floats, Floats] | None = None,
) -> Opinions:
    """Opinions on two answers of one record each; with scores, the gap is theirs."""
    unknown = np.full(len(first_O), np.nan)
    ours, theirs = scores or (unknown, unknown)
    return Opinions(
        first_O,
        second_O,
        prob_O,
        ours - theirs if gap_O is None else gap_O,
        ours,
        theirs,
        np.arange(len(first_O)),
        owners(start_R1)[first_O],
    )


def by_score(start_R1: Ints, score_A: Floats, least_gap: float) -> Opinions:
    """All two answers of a record by their scores; equal or closer than `least_gap` is a tie.

    An answer without a score (nan) is in no pair.
    """
    first, second = combinations(start_R1)
    known = ~np.isnan(score_A[first] - score_A[second])
    first, second = first[known], second[known]
    gap = score_A[first] - score_A[second]
    prob = np.where(_is_apart(gap, least_gap), (gap > 0).astype(float), 0.5)
    return together(start_R1, first, second, prob, scores=(score_A[first], score_A[second]))


def _is_apart(gap_O: Floats, least_gap: float) -> Flags:
    """Which scores differ, by `least_gap` or more."""
    return np.asarray(np.abs(gap_O) >= max(least_gap, ROUNDING))


def answer_codes(table: pa.Table) -> Ints:
    """A number for each different answer to a prompt (A), in the order of prompt and answer id."""
    start_R1, names = ragged(table["completion_ids"])
    prompt_R, _ = name_codes(one_array(table["prompt_id"]))
    return joint_codes(prompt_R[owners(start_R1)], name_codes(names)[0])


def apart(
    table: pa.Table, score_R: Floats, least_gap: float, also: tuple[str, ...] = ()
) -> Opinions:
    """Compare answers that were judged one at a time: same prompt, criterion and source.

    Several scores of one answer are averaged. Equal scores, or closer ones than `least_gap`, say
    nothing: nobody saw the two answers together and called them equal. `also` names further columns
    in which the records of a group agree. Records without a score (nan) say nothing.
    """
    start_R1, _ = ragged(table["completion_ids"])
    record_S = np.flatnonzero(~np.isnan(score_R))
    names = ("prompt_id", "criterion", "source", *also)
    group_R = joint_codes(*(name_codes(one_array(table[name]))[0] for name in names))
    group_S, answer_S = group_R[record_S], answer_codes(table)[start_R1[record_S]]
    # A unit is one answer in a group. Sums of floats depend on their order: it is that of the ids.
    feedback_S = name_codes(one_array(table["feedback_id"]))[0][record_S]
    order, start_U1 = runs(group_S, answer_S, then=feedback_S)
    record_S, group_U = record_S[order], group_S[order][start_U1[:-1]]
    score_U = run_means(score_R[record_S], start_U1)
    first, second = combinations(runs(group_U)[1])
    kept = _is_apart(score_U[first] - score_U[second], least_gap)
    first, second = first[kept], second[kept]
    return Opinions(
        start_R1[record_S[start_U1[first]]],
        start_R1[record_S[start_U1[second]]],
        (score_U[first] > score_U[second]).astype(float),
        score_U[first] - score_U[second],
        score_U[first],
        score_U[second],
        *evidence(record_S, start_U1, first, second),
    )


def evidence(record_S: Ints, start_U1: Ints, first_O: Ints, second_O: Ints) -> tuple[Ints, Ints]:
    """The entries of opinions that rest on the records of two units each (opinion_E, record_E)."""
    (ours, mine), (theirs, other) = gathered(start_U1, first_O), gathered(start_U1, second_O)
    return np.concatenate([ours, theirs]), record_S[np.concatenate([mine, other])]


def joined(*parts: Opinions) -> Opinions:
    """Opinions on the answers of one table, in one piece."""
    offset = np.cumsum([0, *(len(part.first_O) for part in parts)])
    shifted = [
        replace(part, opinion_E=part.opinion_E + before)
        for part, before in zip(parts, offset[:-1], strict=True)
    ]
    return Opinions(
        *(
            np.concatenate([getattr(part, name.name) for part in (NOTHING, *shifted)])
            for name in fields(Opinions)
        )
    )


def _nothing() -> Opinions:
    integers, numbers = np.empty(0, np.int64), np.empty(0)
    return Opinions(integers, integers, numbers, numbers, numbers, numbers, integers, integers)


NOTHING = _nothing()
