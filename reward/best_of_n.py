"""What a better score is worth: the best of n answers by the reward model, judged by a gold judge.

While the reward model is right, both rise with n; where only its own score still rises, it is
over-optimised. Source: Gao, Schulman and Hilton 2023 (arXiv:2210.10760), section 2.

Shapes: P prompts, N sampled answers of each.
"""

import math
from dataclasses import dataclass

import numpy as np

from align.data.arrays import Floats


@dataclass(frozen=True)
class BestOf:
    """The best of n answers, on average over prompts and draws."""

    n: int
    kl: float
    """KL from the sampling policy, in nats an answer."""
    proxy: float
    """Score by the reward model, which picked it."""
    gold: float


@dataclass(frozen=True)
class Declined:
    """Answers kept when those that score below a threshold are declined ("I don't know")."""

    share: float
    """Of answers that are declined."""
    threshold: float
    gold: float
    """Mean of those that are kept."""


def best_of(proxy_PN: Floats, gold_PN: Floats, n: int) -> BestOf:
    """Expectation over all subsets of n of the N answers.

    In ascending order of the proxy, the i-th answer (from 1) is the best of C(i - 1, n - 1) of the
    C(N, n) subsets. KL(best of n) = log n - (n - 1) / n.
    """
    count = proxy_PN.shape[1]
    assert 1 <= n <= count
    order_PN = np.argsort(proxy_PN, axis=1, kind="stable")
    share_N = np.array([math.comb(i, n - 1) for i in range(count)]) / math.comb(count, n)
    proxy, gold = (
        float((np.take_along_axis(x_PN, order_PN, axis=1) @ share_N).mean())
        for x_PN in (proxy_PN, gold_PN)
    )
    return BestOf(n, math.log(n) - (n - 1) / n, proxy, gold)


def declined(proxy_PN: Floats, gold_PN: Floats, share: float) -> Declined:
    """Abstain where the reward model scores lowest (GopherCite: Menick et al. 2022,
    arXiv:2203.11147)."""
    threshold = float(np.quantile(proxy_PN, share))
    return Declined(share, threshold, float(gold_PN[proxy_PN >= threshold].mean()))
