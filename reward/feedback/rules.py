"""Rule judgements: of two answers to one prompt, the one that breaks a rule less is better.

Severity goes from 1 (clearly follows) to 5 (clearly breaks); 3 is unsure and says nothing. Each
rule is a criterion of its own, `rule:<id>`. Source: Glaese et al. 2022 (Sparrow,
arXiv:2209.14375); the scale is ours. `verdicts` put the hard rules before everything else, for
`feedback.rules.pairs: lexicographic`. Legend: R records, U units (one answer by one rule), V pairs
of answers, H hard rules.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import (
    Floats,
    Ints,
    combinations,
    name_codes,
    numbers,
    one_array,
    ragged,
    run_means,
    runs,
)
from align.reward.feedback.opinions import Opinions, answer_codes, apart, evidence

UNSURE = 3
SCALE = 4  # from clearly follows to clearly breaks


def opinions(table: pa.Table) -> Opinions:
    """Pairs of answers with different severity; margin = difference / 4. Equal ones make none."""
    return apart(table, (5 - _severities(table)) / SCALE, least_gap=0)


def verdicts(table: pa.Table, hard: Sequence[str]) -> Opinions:
    """Pairs of answers of which one breaks the first hard rule, by the order given, that tells.

    A rule tells where both answers were judged by it and exactly one breaks it (mean severity
    above 3). So an answer that keeps all rules is never worse than one that breaks any.
    """
    start_R1, _ = ragged(table["completion_ids"])
    severity_R, rule_R = _severities(table), _places(one_array(table["rule_id"]), hard)
    record_S = np.flatnonzero(~np.isnan(severity_R) & (rule_R >= 0))
    answer_D, answer_S = np.unique(answer_codes(table)[start_R1[record_S]], return_inverse=True)
    feedback_S = name_codes(one_array(table["feedback_id"]))[0][record_S]
    order, start_U1 = runs(answer_S, rule_R[record_S], then=feedback_S)
    record_S, answer_U = record_S[order], answer_S[order][start_U1[:-1]]
    rule_U = rule_R[record_S[start_U1[:-1]]]
    severity_DH = np.full((len(answer_D), len(hard)), np.nan)
    severity_DH[answer_U, rule_U] = run_means(severity_R[record_S], start_U1)
    unit_DH = np.zeros(severity_DH.shape, dtype=np.int64)
    unit_DH[answer_U, rule_U] = np.arange(len(answer_U))

    prompt_D = name_codes(one_array(table["prompt_id"]))[0][
        record_S[start_U1[:-1]][np.searchsorted(answer_U, np.arange(len(answer_D)))]
    ]
    first, second = combinations(runs(prompt_D)[1])
    known_VH = ~np.isnan(severity_DH[first] - severity_DH[second])
    tells_VH = known_VH & ((severity_DH[first] > UNSURE) != (severity_DH[second] > UNSURE))
    kept = tells_VH.any(axis=1)
    first, second, rule = first[kept], second[kept], tells_VH[kept].argmax(axis=1)
    gap = (severity_DH[second, rule] - severity_DH[first, rule]) / SCALE
    unknown = np.full(len(gap), np.nan)
    ours, theirs = unit_DH[first, rule], unit_DH[second, rule]
    return Opinions(
        start_R1[record_S[start_U1[ours]]],
        start_R1[record_S[start_U1[theirs]]],
        (gap > 0).astype(float),
        gap,
        unknown,
        unknown,
        *evidence(record_S, start_U1, ours, theirs),
    )


def _severities(table: pa.Table) -> Floats:
    """Of each record; nan where the annotator was unsure."""
    severity_R = numbers(table["severity"])
    return np.where(severity_R == UNSURE, np.nan, severity_R)


def _places(rules: pa.Array, hard: Sequence[str]) -> Ints:
    """The place of each record's rule among the hard ones; -1 for another rule."""
    places = pc.index_in(rules, pa.array(hard, pa.string()))
    places_R: Ints = places.fill_null(-1).to_numpy().astype(np.int64)
    return places_R
