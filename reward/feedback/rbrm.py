"""Judge models (rule-based reward models): a rubric's expected reward of each answer, as pairs.

Source: OpenAI 2023 (GPT-4 technical report, arXiv:2303.08774, section 6): a zero-shot classifier
answers a multiple-choice rubric, and each choice has a reward that depends on the class of the
prompt. Here `reward` is its expectation over the judge's probabilities.
"""

import pyarrow as pa

from align.data.arrays import numbers
from align.reward.feedback.opinions import Opinions, apart

RUBRIC = ("rubric_id", "rubric_version", "judge_id")  # rewards of different ones have no one scale


def opinions(table: pa.Table, least_gap: float) -> Opinions:
    """Pairs of answers by one judge and rubric whose expected rewards are at least `least_gap`
    apart; margin = gap.

    A judge that always says the same gives every answer the same reward, and so no pair.
    """
    return apart(table, numbers(table["reward"]), least_gap, also=RUBRIC)
