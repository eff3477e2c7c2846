"""Question weights learned from judgements: logistic regression on differences of values.

P(first is better) = sigmoid(w . (v_first - v_second)), where v holds the values that questionnaires
gave an answer; the judgements are overall ones and battles of the same answers. Legend: R records,
A answers, Q questions, J judgements.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from align.data.arrays import Floats, Ints, name_codes, numbers, ragged
from align.data.errors import DataError
from align.data.record_batches import plain
from align.data.schemas import FEEDBACK
from align.reward.feedback.comparisons import votes
from align.reward.feedback.opinions import answer_codes
from align.reward.feedback.questions import blocks

RIDGE = 1.0  # prior precision of a weight: as much as a few judgements say
STEPS = 50
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Differences:
    """What there is to learn from: how the values of two answers differ, and which is better."""

    questions: list[str]
    value_JQ: Floats  # of the first less that of the second; 0 where one of them is N/A
    outcome_J: Floats  # 1, 1/2 or 0 for the first


def learned_weights(parts: Iterable[Differences]) -> dict[str, float]:
    """The weight of each question, scaled so that their sizes sum to 1.

    Raises: DataError if no two answers have both values and a judgement.
    """
    found = list(parts)
    questions = sorted({name for part in found for name in part.questions})
    value_JQ = np.concatenate([np.zeros((0, len(questions))), *(_in(p, questions) for p in found)])
    outcome_J = np.concatenate([np.zeros(0), *(part.outcome_J for part in found)])
    if not value_JQ.any():
        raise DataError(
            "feedback.questions.mode: learned has nothing to learn from: no two answers to one "
            "prompt have differing values and an overall judgement or a battle: use `weighted`"
        )
    # The same judgements in another order must give the same weights, to the bit.
    order = np.lexsort((outcome_J, *value_JQ.T[::-1]))
    weight_Q = logistic_regression(value_JQ[order], outcome_J[order], RIDGE)
    return dict(zip(questions, (weight_Q / np.abs(weight_Q).sum()).tolist(), strict=True))


def logistic_regression(value_JQ: Floats, outcome_J: Floats, ridge: float) -> Floats:
    """Weights that maximise sum log P(outcome) - ridge/2 |w|^2, by Newton's method.

    Outcomes of 1/2 count half for each side. Source: Bishop 2006, section 4.3.3, with a prior.
    """
    weight_Q = np.zeros(value_JQ.shape[1])
    for _ in range(STEPS):
        prob_J = 1 / (1 + np.exp(-value_JQ @ weight_Q))
        gradient = value_JQ.T @ (outcome_J - prob_J) - ridge * weight_Q
        curvature_J = (prob_J * (1 - prob_J))[:, None]
        hessian = value_JQ.T @ (curvature_J * value_JQ) + ridge * np.eye(len(weight_Q))
        step = np.linalg.solve(hessian, gradient)
        weight_Q = weight_Q + step
        if np.abs(step).max() < TOLERANCE:
            break
    return weight_Q


def _in(part: Differences, questions: list[str]) -> Floats:
    """The part's values in the columns of all questions."""
    value_JQ = np.zeros((len(part.outcome_J), len(questions)))
    value_JQ[:, [questions.index(name) for name in part.questions]] = part.value_JQ
    return value_JQ


def differences(tables: Mapping[str, pa.Table]) -> Differences:
    """The judged pairs of answers among the records of some prompts that have values for both."""
    questions, comparisons = (
        tables.get(kind, plain(FEEDBACK[kind]).empty_table()) for kind in ("question", "comparison")
    )
    questions = questions.select(
        ["prompt_id", "completion_ids", "feedback_id", "answers", "overall"]
    ).sort_by("feedback_id")  # sums of floats depend on their order
    # One table, so that an answer has one number in both.
    columns = ["prompt_id", "completion_ids"]
    both = pa.concat_tables([questions.select(columns), comparisons.select(columns)])
    codes_A = answer_codes(both)
    names, value_DQ = _values(questions, codes_A)
    first, second, outcome = _judgements(questions, comparisons, codes_A)
    gap = np.nan_to_num(value_DQ[first] - value_DQ[second])
    return Differences(names, gap, outcome)


def _values(questions: pa.Table, codes_A: Ints) -> tuple[list[str], Floats]:
    """The mean value of every answer code (D) by every question; nan: never answered."""
    _, given = ragged(questions["answers"])
    question_G, names = name_codes(given.field("question_id"))
    value_G = numbers(given.field("value"))
    known = ~np.isnan(value_G)
    shape = (int(codes_A.max(initial=-1)) + 1, len(names))
    cell = (codes_A[blocks(questions)] * len(names) + question_G)[known]
    size = shape[0] * shape[1]
    count = np.bincount(cell, minlength=size)
    total = np.bincount(cell, value_G[known], minlength=size)
    mean = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return names.to_pylist(), mean.reshape(shape)


def _judgements(
    questions: pa.Table, comparisons: pa.Table, codes_A: Ints
) -> tuple[Ints, Ints, Floats]:
    """First and second answer (codes) and outcome of overall judgements and battles."""
    start_R1, _ = ragged(questions["completion_ids"])
    overall_R = numbers(questions["overall"])
    judged = ~np.isnan(overall_R)
    start_B1, outcome_B = votes(comparisons)
    voted = ~np.isnan(outcome_B)
    first = np.concatenate([start_R1[:-1][judged], start_R1[-1] + start_B1[:-1][voted]])
    outcome = np.concatenate([(1 + np.sign(overall_R[judged])) / 2, outcome_B[voted]])
    return codes_A[first], codes_A[first + 1], outcome
