"""Screening: how well annotators agree with the people whose intent they are to follow.

Researchers label gold items, annotators meet them among the others, and who agrees well enough may
go on. Source: Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155), appendix B.1. Ranking by the
lower end of Wilson's interval instead of the share makes 190 of 200 outrank 3 of 3.

Models are measured like people and stand in the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.reward.annotators.agreement import Statistic, cohen, credit_matrix
from align.reward.annotators.votes import TIE, UNKNOWN, Ints, Votes
from align.reward.reliability import Share, wilson


@dataclass(frozen=True)
class Screening:
    """One annotator against the gold labels."""

    annotator_id: str
    kind: str
    agreement: Share | None  # over the gold items they judged; None if there are none
    kappa: Statistic

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval; 0 if nothing is known."""
        return self.agreement.low if self.agreement else 0.0


def screen(votes: Votes, gold_I: Ints, tie: int | None = TIE) -> list[Screening]:
    """All annotators, in the order of `votes.annotators`.

    Agreement is the mean of 1[l_a = l_gold], with 1/2 where just one of the two is a tie. Gold
    items that an annotator did not judge say nothing about them.
    """
    labels = votes.label_count
    seen_N = gold_I[votes.item_N] != UNKNOWN
    gold_N, label_N = gold_I[votes.item_N[seen_N]], votes.label_N[seen_N]
    cell_N = (votes.annotator_N[seen_N] * labels + gold_N) * labels + label_N
    table_ALL = np.bincount(cell_N, minlength=len(votes.annotators) * labels**2)
    credit_LL = credit_matrix(labels, tie)
    return [
        Screening(
            name, kind, _share(float((table_LL * credit_LL).sum()), table_LL), cohen(table_LL)
        )
        for name, kind, table_LL in zip(
            votes.annotators, votes.kinds, table_ALL.reshape(-1, labels, labels), strict=True
        )
    ]


def _share(agreed: float, table_LL: Ints) -> Share | None:
    n = int(table_LL.sum())
    return wilson(agreed, n) if n else None


def ranked(screenings: Sequence[Screening]) -> list[Screening]:
    """Best first, by the lower bound; then by name."""
    return sorted(screenings, key=lambda one: (-one.low, one.annotator_id))
