"""Questionnaires: questions about each answer become a score, and score gaps become pairs.

score = sum of weight * value / sum of weight over the questions that were answered (N/A leaves the
denominator), or FAILED if a gate was failed. Values are 0 to 1, where 1 is good: whoever records an
answer to a negative question turns its value around.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from align.data.schemas import Preference, Record
from align.reward.feedback.pairs import (
    Conversion,
    Opinion,
    Scored,
    Ties,
    answers_of,
    exportable,
    opinions_apart,
    pairs_of,
)

LEAST_GAP = 0.1  # scores closer than this are a tie
FAILED = -1.0  # below every sum of values, so that a gate beats any sum
GATE = 0.5  # a gate with a lower value is failed

Given = dict[str, Any]  # one answer to one question


def to_pairs(records: Iterable[Record], ties: Ties, held_out: float) -> list[Preference]:
    """Pairs inside records of several answers, and between records that judge one each."""
    together: list[Record] = []
    apart: list[Scored] = []
    for record in exportable(records):
        if len(record["completions"]) > 1:
            together.append(record)
        elif (score := score_of(record["answers"])) is not None:
            apart.append(Scored(record, score))
    opinions = [one for record in together for one in _opinions(record)]
    opinions += opinions_apart(apart, LEAST_GAP)
    return pairs_of(opinions, Conversion("question", ties, held_out, {"least_gap": LEAST_GAP}))


def score_of(answers: Sequence[Given]) -> float | None:
    """The score of one answer, 0 to 1 or FAILED; None if every question was N/A."""
    answered = [given for given in answers if given["value"] is not None]
    if any(given["gate"] and given["value"] < GATE for given in answered):
        return FAILED
    total = math.fsum(given["weight"] for given in answered)
    if total == 0:
        return None
    return math.fsum(given["weight"] * given["value"] for given in answered) / total


def _opinions(record: Record) -> Iterator[Opinion]:
    scores = _scores(record)
    for (first, ours), (second, theirs) in combinations(
        zip(answers_of(record), scores, strict=True), 2
    ):
        if ours is None or theirs is None:
            continue
        is_tie = abs(ours - theirs) < LEAST_GAP
        prob = 0.5 if is_tie else float(ours > theirs)
        yield Opinion((record,), first, second, prob, (ours, theirs))


def _scores(record: Record) -> list[float | None]:
    """The score of each answer: from its block of questions, else from the overall judgement."""
    answers, count = record["answers"], len(record["completions"])
    if not answers:
        overall = record["overall"] / 2  # -2 to 2, above 0 where the first is better
        return [max(overall, 0.0), max(-overall, 0.0)]
    size = len(answers) // count
    return [score_of(answers[start : start + size]) for start in range(0, len(answers), size)]
