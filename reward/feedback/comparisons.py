"""Elo battles: votes on pairs of answers, used as they are or smoothed by fitted strengths.

`raw`: the votes on two answers become one pair with target_prob = (wins + ties / 2) / votes, from
the side of the answer that won more often. `fitted`: all pairs of the answers to a prompt, also of
those that never met, by the strengths that explain the votes (Bradley and Terry 1952).
Legend: R records, B battles, P players (answers), O opinions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from align.data.arrays import (
    Floats,
    Ints,
    combinations,
    joint_codes,
    name_codes,
    numbers,
    one_array,
    ragged,
    runs,
)
from align.reward.feedback.opinions import Opinions, answer_codes, evidence, joined, together

PROBS = {"a": 1.0, "b": 0.0, "tie": 0.5, "skip": np.nan}
STRONGEST = 3


@dataclass(frozen=True)
class Strengths:
    """How good the players are, in logits; only those of one component are on one scale."""

    strength_P: Floats
    component_P: Ints
    errors: Callable[[Ints, Ints], Floats]
    """The standard errors of the differences s_i - s_j of some i and j."""


Fit = Callable[[Ints, Ints, Floats], Strengths]
"""From first_B, second_B (players, 0 to P - 1, all of whom play) and outcome_B (1, 1/2 or 0 for the
first) to the strengths of all players."""


def opinions(table: pa.Table, margins: bool) -> Opinions:
    """One opinion a vote; `skip` says nothing.

    With `margins`, the strength of the vote is the gap, as a share of the strongest: 1, 2/3, 1/3
    or 0 (Touvron et al. 2023, arXiv:2307.09288, table 27).
    """
    start_R1, prob_R = votes(table)
    voted = np.flatnonzero(~np.isnan(prob_R))
    first, prob = start_R1[voted], prob_R[voted]
    if not margins:
        return together(start_R1, first, first + 1, prob)
    gap = (2 * prob - 1) * numbers(table["strength"])[voted] / STRONGEST
    return together(start_R1, first, first + 1, prob, gap)


def votes(table: pa.Table) -> tuple[Ints, Floats]:
    start_R1, _ = ragged(table["completion_ids"])
    codes_R, outcomes = name_codes(one_array(table["outcome"]))
    probs = np.array([PROBS[outcome] for outcome in outcomes.to_pylist()], dtype=float)
    return start_R1, probs[codes_R]


def separated(strengths: Strengths, z: float) -> tuple[Ints, Ints, Floats]:
    """Players that the strengths tell apart: first_O, second_O and the gap s_i - s_j.

    They are of one component, and |s_i - s_j| is at least z standard errors of the difference.
    """
    order, start = runs(strengths.component_P)
    i, j = combinations(start)
    first, second = order[i], order[j]
    gap = strengths.strength_P[first] - strengths.strength_P[second]
    kept = (np.abs(gap) >= z * strengths.errors(first, second)) & (gap != 0)
    return first[kept], second[kept], gap[kept]


def fitted_opinions(table: pa.Table, fit: Fit, z: float) -> Opinions:
    """All pairs of each prompt, criterion and source that the fitted strengths tell apart.

    target_prob = sigmoid(s_i - s_j) and margin = |s_i - s_j|. A pair names the battles in which one
    of its two answers took part; the strengths rest on all of its group.
    """
    start_R1, prob_R = votes(table)
    codes_A = answer_codes(table)
    # An answer that met itself, as two answers of one text do, says nothing of its strength.
    met_R = codes_A[start_R1[:-1]] != codes_A[start_R1[:-1] + 1]
    record_S = np.flatnonzero(~np.isnan(prob_R) & met_R)
    columns = [name_codes(one_array(table[n]))[0] for n in ("prompt_id", "criterion", "source")]
    group_R = joint_codes(*columns)
    feedback_R, _ = name_codes(one_array(table["feedback_id"]))
    order, start_G1 = runs(group_R[record_S], then=feedback_R[record_S])
    parts = []
    for record_B in np.split(record_S[order], start_G1[1:-1]) if len(order) else []:
        parts.append(_fitted(record_B, start_R1, codes_A, prob_R[record_B], fit, z))
    return joined(*parts)


def _fitted(
    record_B: Ints, start_R1: Ints, codes_A: Ints, outcome_B: Floats, fit: Fit, z: float
) -> Opinions:
    """The opinions of one group of battles."""
    place_E = np.concatenate([start_R1[record_B], start_R1[record_B] + 1])  # answers that took part
    _, place_P, player_E = np.unique(codes_A[place_E], return_index=True, return_inverse=True)
    count = len(record_B)
    first, second, gap = separated(fit(player_E[:count], player_E[count:], outcome_B), z)
    order, start_P1 = runs(player_E)
    battle_E = np.concatenate([record_B, record_B])[order]
    # A battle between the two of a pair would be named twice.
    entries = np.unique(np.stack(evidence(battle_E, start_P1, first, second)), axis=1)
    unknown = np.full(len(first), np.nan)
    answer_P = place_E[place_P]
    prob = 1 / (1 + np.exp(-gap))
    return Opinions(answer_P[first], answer_P[second], prob, gap, unknown, unknown, *entries)
