"""How far annotators agree: observed agreement, Cohen's, Fleiss' and Krippendorff's coefficients.

The coefficients compare what was seen with what chance would give. Where chance alone gives perfect
agreement (every vote is the same label) they say nothing, so they are undefined: never 1, never
NaN.

Shapes: N votes, I items, A annotators, L labels.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from align.reward.annotators.votes import Floats, Ints, Votes

NO_PAIRS = "no item has votes by two annotators"
ONE_LABEL = "every vote is the same label"


@dataclass(frozen=True)
class Statistic:
    """A number, or the reason why there is none."""

    value: float | None
    n: int  # how many items it rests on
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.value is None) == (self.reason is not None)


def credit_matrix(labels: int, tie: int | None = None) -> Floats:
    """(L, L): how much two votes agree; 1 for the same label, else 0.

    With `tie`, that label and any other agree by half (Nakano et al. 2021, WebGPT,
    arXiv:2112.09332: the convention of its agreement rates).
    """
    credit_LL = np.eye(labels)
    if tie is not None:
        credit_LL[tie, :] = credit_LL[:, tie] = 0.5
        credit_LL[tie, tie] = 1.0
    return credit_LL


def observed(votes: Votes, tie: int | None = None) -> Statistic:
    """The mean agreement of two votes on one item, over all such pairs of votes."""
    counts_IL = _judged_twice(votes)
    credit_LL = credit_matrix(votes.label_count, tie)
    # n_k n_l ordered pairs of votes for k and l, but n_k (n_k - 1) for k and k.
    agreed = (counts_IL @ credit_LL * counts_IL).sum() - (counts_IL @ np.diag(credit_LL)).sum()
    total_I = counts_IL.sum(axis=1)
    pairs = (total_I * (total_I - 1)).sum()
    if not pairs:
        return Statistic(None, 0, NO_PAIRS)
    return Statistic(float(agreed / pairs), len(counts_IL))


def unanimity(votes: Votes) -> Statistic:
    """The share of the items with several votes on which all of them are the same."""
    counts_IL = _judged_twice(votes)
    if not len(counts_IL):
        return Statistic(None, 0, NO_PAIRS)
    return Statistic(float((counts_IL.max(axis=1) == counts_IL.sum(axis=1)).mean()), len(counts_IL))


def contingency(votes: Votes, first: int, second: int) -> Ints:
    """(L, L): items by the labels that annotators `first` (rows) and `second` (columns) gave."""
    label_2I = np.full((2, len(votes.items)), votes.label_count)  # one more label: did not judge
    for row, annotator in enumerate((first, second)):
        mine_N = votes.annotator_N == annotator
        label_2I[row, votes.item_N[mine_N]] = votes.label_N[mine_N]
    size = votes.label_count + 1
    table = np.bincount(label_2I[0] * size + label_2I[1], minlength=size * size)
    return table.reshape(size, size)[:-1, :-1]


def cohen(table_LL: Ints, weighting: Literal["none", "linear", "quadratic"] = "none") -> Statistic:
    """Cohen's kappa of two raters: 1 - sum(w O) / sum(w E), with E from their marginals.

    O is `contingency`. Without weighting w is 1 off the diagonal, which gives
    (p_o - p_e) / (1 - p_e) (Cohen 1960); else |k - l| or (k - l)^2 for ordered labels (Cohen 1968).
    """
    n = int(table_LL.sum())
    if not n:
        return Statistic(None, 0, NO_PAIRS)
    label_L = np.arange(len(table_LL))
    distance_LL = np.abs(label_L[:, None] - label_L)
    power = {"none": 0, "linear": 1, "quadratic": 2}[weighting]
    weight_LL = np.where(distance_LL > 0, distance_LL**power, 0)
    expected_LL = np.outer(table_LL.sum(axis=1), table_LL.sum(axis=0)) / n
    by_chance = (weight_LL * expected_LL).sum()
    if not by_chance:
        return Statistic(None, n, ONE_LABEL)
    return Statistic(float(1 - (weight_LL * table_LL).sum() / by_chance), n)


def fleiss(votes: Votes) -> Statistic:
    """Fleiss' kappa: (mean P_i - P_e) / (1 - P_e) (Fleiss 1971).

    P_i is the share of agreeing pairs among the votes on item i, P_e = sum_k p_k^2. Items with one
    vote are left out. The paper has equally many votes per item; elsewhere every item still counts
    the same in P and every vote in p.
    """
    counts_IL = _judged_twice(votes)
    if not len(counts_IL):
        return Statistic(None, 0, NO_PAIRS)
    total_I = counts_IL.sum(axis=1)
    agreed_I = (counts_IL * (counts_IL - 1)).sum(axis=1) / (total_I * (total_I - 1))
    share_L = counts_IL.sum(axis=0) / total_I.sum()
    by_chance = (share_L**2).sum()
    if share_L.max() == 1:
        return Statistic(None, len(counts_IL), ONE_LABEL)
    return Statistic(float((agreed_I.mean() - by_chance) / (1 - by_chance)), len(counts_IL))


def krippendorff(
    votes: Votes, level: Literal["nominal", "ordinal", "interval"] = "nominal"
) -> Statistic:
    """Krippendorff's alpha: 1 - D_o / D_e from the matrix of coincidences; votes may be missing.

    Items with one vote are left out. Source: Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability", sections C and D.
    """
    counts_IL = _judged_twice(votes)
    if not len(counts_IL):
        return Statistic(None, 0, NO_PAIRS)
    per_other_IL = counts_IL / (counts_IL.sum(axis=1, keepdims=True) - 1)
    coincidence_LL = per_other_IL.T @ counts_IL - np.diag(per_other_IL.sum(axis=0))
    total_L = coincidence_LL.sum(axis=1)
    distance_LL = _distance(total_L, level)
    by_chance = (np.outer(total_L, total_L) * distance_LL).sum()
    if not by_chance:
        return Statistic(None, len(counts_IL), ONE_LABEL)
    seen = (coincidence_LL * distance_LL).sum() * (total_L.sum() - 1)
    return Statistic(float(1 - seen / by_chance), len(counts_IL))


def mirrored(votes: Votes) -> Votes:
    """Every item twice, the second time with its labels from the other end.

    Which of two answers has the smaller id means nothing, but chance agreement is computed from how
    often each label was given: by these votes it does not depend on that order.
    """
    return replace(
        votes,
        item_N=np.concatenate([votes.item_N, votes.item_N + len(votes.items)]),
        annotator_N=np.tile(votes.annotator_N, 2),
        label_N=np.concatenate([votes.label_N, votes.label_count - 1 - votes.label_N]),
        items=votes.items * 2,
        time_N=None if votes.time_N is None else np.tile(votes.time_N, 2),
    )


def _distance(total_L: Floats, level: Literal["nominal", "ordinal", "interval"]) -> Floats:
    """(L, L): the squared difference of two labels."""
    if level == "nominal":
        return 1 - np.eye(len(total_L))
    # An ordinal label stands in the middle of its votes, when all votes are put in order.
    place_L = np.arange(len(total_L)) if level == "interval" else total_L.cumsum() - total_L / 2
    return np.asarray((place_L[:, None] - place_L) ** 2, np.float64)


def _judged_twice(votes: Votes) -> Ints:
    """The counts of the items that have at least two votes."""
    counts_IL = votes.counts()
    return np.compress(counts_IL.sum(axis=1) >= 2, counts_IL, axis=0)
