"""Questionnaires: questions about each answer become a score, and score gaps become pairs.

A criterion's score is the sum of weight * value over the sum of weights, of its questions that were
answered: N/A leaves the denominator. The score of an answer is the mean over criteria, weighted by
W_c; or below all such means if a gate was failed. Values are 0 to 1, where 1 is good: whoever
records an answer to a negative question turns its value around (`data/questionnaires.py`). WebGPT
(Nakano et al. 2021, arXiv:2112.09332, section 3.2) collected such answers and trained on the
overall judgement alone: mode `overall`.
Legend: R records, A answers, G given answers to questions, C criteria scored.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from align.data.arrays import Floats, Ints, name_codes, numbers, one_array, ragged
from align.reward.feedback.opinions import Opinions, apart, by_score, joined, owners

# Below every mean of values, so that a gate beats any sum. Learned weights may be negative: means
# by them go down to -1.
FAILED, FAILED_LEARNED = -1.0, -2.0
GATE = 0.5  # a gate with a lower value is failed
STRONGEST = 2  # overall judgements go from -2 to 2


def opinions(table: pa.Table, score_A: Floats, least_gap: float) -> Opinions:
    """Pairs by score: inside records of several answers, and between records of one each."""
    start_R1, _ = ragged(table["completion_ids"])
    alone_R = np.where(np.diff(start_R1) == 1, score_A[start_R1[:-1]], np.nan)
    return joined(by_score(start_R1, score_A, least_gap), apart(table, alone_R, least_gap))


def overall_scores(table: pa.Table) -> Floats:
    """Half the overall judgement for the better of two answers, 0 for the other; else nan."""
    start_R1, _ = ragged(table["completion_ids"])
    record_A = owners(start_R1)
    is_second_A = np.arange(len(record_A)) != start_R1[:-1][record_A]
    overall_A = numbers(table["overall"])[record_A] / STRONGEST
    return np.maximum(np.where(is_second_A, -overall_A, overall_A), 0.0)


def weighted_scores(
    table: pa.Table,
    criterion_weights: Mapping[str, float],
    question_weights: Mapping[str, float] | None = None,
) -> Floats:
    """The score of each answer, 0 to 1 or FAILED; nan if every question was N/A.

    W_c is 1 for a criterion that is not named. `question_weights` stand in for the weights in the
    records; they may be negative, and the sum below the fraction is of their sizes: the score is
    then -1 to 1 or FAILED_LEARNED. Where the record has nothing but an overall judgement, that is
    the score.
    """
    start_R1, _ = ragged(table["completion_ids"])
    record_G, given = _given(table)
    answer_G = blocks(table)
    value_G = numbers(given.field("value"))
    weight_G = numbers(given.field("weight"))
    if question_weights is not None:
        codes_G, names = name_codes(given.field("question_id"))
        weights = [question_weights.get(name, 0.0) for name in names.to_pylist()]
        weight_G = np.array(weights, dtype=float)[codes_G]
    criterion_G, criteria = name_codes(given.field("criterion"))
    weight_C = np.array([criterion_weights.get(name, 1.0) for name in criteria.to_pylist()])
    shape = (int(start_R1[-1]), len(criteria))
    cell_G = answer_G * len(criteria) + criterion_G
    weight_G = np.where(np.isnan(value_G), 0.0, weight_G)
    total_AC = _sums(cell_G, np.abs(weight_G), shape)
    value_AC = _sums(cell_G, weight_G * np.nan_to_num(value_G), shape)
    answered_AC = total_AC > 0
    score_AC = np.divide(value_AC, total_AC, out=np.zeros(shape), where=answered_AC)
    mass_A = answered_AC @ weight_C
    score_A = np.divide(
        score_AC @ weight_C, mass_A, out=np.full(shape[0], np.nan), where=mass_A > 0
    )
    is_gate = one_array(given.field("gate")).to_numpy(zero_copy_only=False)
    failed = FAILED if question_weights is None else FAILED_LEARNED
    score_A[answer_G[is_gate & (value_G < GATE)]] = failed
    asked_R = np.bincount(record_G, minlength=len(start_R1) - 1) > 0
    return np.where(asked_R[owners(start_R1)], score_A, overall_scores(table))


def blocks(table: pa.Table) -> Ints:
    """The answer (A) that each given answer is about: K blocks of the same questions."""
    start_R1, _ = ragged(table["completion_ids"])
    start_G1, _ = ragged(table["answers"])
    record_G = owners(start_G1)
    size_R = np.diff(start_G1) // np.diff(start_R1)
    place_G = np.arange(len(record_G)) - start_G1[:-1][record_G]
    answer_G: Ints = start_R1[:-1][record_G] + place_G // size_R[record_G]
    return answer_G


def _given(table: pa.Table) -> tuple[Ints, pa.StructArray]:
    start_G1, given = ragged(table["answers"])
    return owners(start_G1), given


def _sums(cells: Ints, values: Floats, shape: tuple[int, int]) -> Floats:
    sums: Floats = np.bincount(cells, values, minlength=shape[0] * shape[1]).astype(float)
    return sums.reshape(shape)
