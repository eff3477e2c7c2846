"""Best-of-n and abstention against all subsets, and an over-optimised judge that was planted."""

import math
from itertools import combinations

import numpy as np
import pytest

from align.reward.best_of_n import best_of, declined


def slow_best_of(proxy: list[float], gold: list[float], n: int) -> tuple[float, float]:
    """Mean over every subset of n answers of the one with the highest proxy."""
    picked = [max(subset, key=lambda i: proxy[i]) for subset in combinations(range(len(proxy)), n)]
    return float(np.mean([proxy[i] for i in picked])), float(np.mean([gold[i] for i in picked]))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    proxy_PN, gold_PN = np.random.default_rng(0).normal(size=(2, 4, 6))
    found = best_of(proxy_PN, gold_PN, n)
    slow = [
        slow_best_of(proxy, gold, n)
        for proxy, gold in zip(proxy_PN.tolist(), gold_PN.tolist(), strict=True)
    ]
    assert (found.proxy, found.gold) == pytest.approx(tuple(np.mean(slow, axis=0)))
    assert found.kl == pytest.approx(math.log(n) - 1 + 1 / n)


def test_a_judge_that_is_right_gains_with_n_and_one_that_is_hacked_loses() -> None:
    gold_PN = np.random.default_rng(1).normal(size=(200, 16))
    curve = [best_of(gold_PN, gold_PN, n).gold for n in (1, 2, 4, 16)]
    assert curve == sorted(curve) and curve[-1] > curve[0] + 1
    # Where an answer hacks the judge, it scores high and is bad.
    hacked_PN = np.where(gold_PN < -1.5, 9.0, gold_PN)
    curve = [best_of(hacked_PN, gold_PN, n).gold for n in (1, 2, 16)]
    assert curve[-1] < curve[0] < curve[0] + 1


def test_declining_what_scores_lowest_keeps_better_answers() -> None:
    rng = np.random.default_rng(2)
    gold_PN = rng.normal(size=(100, 8))
    proxy_PN = gold_PN + rng.normal(size=gold_PN.shape)
    kept = [declined(proxy_PN, gold_PN, share).gold for share in (0, 1 / 3, 0.6)]
    assert kept == sorted(kept) and kept[1] > kept[0] + 0.2
    third = declined(proxy_PN, gold_PN, 1 / 3)
    assert float((proxy_PN < third.threshold).mean()) == pytest.approx(1 / 3, abs=0.01)
