"""Reliability numbers against their definitions, by hand."""

import math
import random
from itertools import pairwise

import pytest

from align.reward.reliability import (
    Bin,
    Outcome,
    auc,
    calibration,
    expected_calibration_error,
    length_bias,
    risk_coverage,
    slices,
    summarise,
    wilson,
)


def gap_of(probability: float) -> float:
    """The gap at which a model is so sure."""
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("target", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("gap", [-5.0, -0.3, 0.0, 1.2, 8.0])
def test_the_log_loss_is_the_cross_entropy(gap: float, target: float) -> None:
    p = 1 / (1 + math.exp(-gap))
    outcome = Outcome(gap, target)
    assert outcome.probability == pytest.approx(p)
    expected = -target * math.log(p) - (1 - target) * math.log(1 - p)
    assert outcome.log_loss == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gap", "target", "loss"),
    [(1e5, 1.0, 0), (-1e5, 1.0, 1e5), (1e5, 0.5, 5e4), (-1e5, 0.5, 5e4), (-1e5, 0.9, 9e4)],
)
def test_a_huge_gap_has_a_finite_log_loss(gap: float, target: float, loss: float) -> None:
    outcome = Outcome(gap, target)
    assert outcome.log_loss == pytest.approx(loss)
    assert outcome.probability in (0, 1)


# Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, n: int, low: float, high: float
) -> None:
    share = wilson(successes, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)
    assert share.accuracy == successes / n and share.n == n


def test_wilson_is_symmetric_and_stays_within_zero_and_one() -> None:
    for n in (1, 5, 50):
        for successes in range(n + 1):
            share, mirror = wilson(successes, n), wilson(n - successes, n)
            assert 0 <= share.low <= share.high <= 1
            assert share.low - 1e-12 <= share.accuracy <= share.high + 1e-12
            assert share.low == pytest.approx(1 - mirror.high, abs=1e-12)


def test_calibration_bins_by_hand() -> None:
    outcomes = [
        Outcome(gap_of(0.62), 1.0),
        Outcome(gap_of(0.64), 1.0),
        Outcome(-gap_of(0.63), 1.0),  # 63 % sure of the wrong answer
        Outcome(gap_of(0.97), 1.0),
        Outcome(-gap_of(0.99), 0.5),
        Outcome(0.0, 1.0),
        Outcome(1e5, 1.0),
    ]
    bins = calibration(outcomes)
    assert [part.n for part in bins] == [1, 3, 3]
    assert [part.confidence for part in bins] == pytest.approx([0.5, 0.63, (0.97 + 0.99 + 1) / 3])
    assert [part.accuracy for part in bins] == pytest.approx([1, 2 / 3, (1 + 0.5 + 1) / 3])


def test_the_risk_at_each_coverage_by_hand() -> None:
    """Ten predictions; the surest five are right, of the others three are wrong."""
    gaps = [5.0, -4.5, 4.0, 3.5, 3.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    right = [True] * 5 + [False, True, False, False, True]
    outcomes = [
        Outcome(gap, 1.0 if (gap > 0) == said else 0.0)
        for gap, said in zip(gaps, right, strict=True)
    ]
    points = risk_coverage(outcomes[::-1])
    assert [point.coverage for point in points] == pytest.approx([i / 10 for i in range(1, 11)])
    expected = [0, 0, 0, 0, 0, 1 / 6, 1 / 7, 2 / 8, 3 / 9, 3 / 10]
    assert [point.risk for point in points] == pytest.approx(expected)
    assert risk_coverage([]) == []


def test_abstaining_from_what_it_does_not_know_lowers_the_risk_only_if_it_knows() -> None:
    """Planted: one model is as right as it says, the other is as sure of what it gets wrong."""
    draw = random.Random(5)
    gaps = [draw.uniform(-4, 4) for _ in range(4000)]
    knows = [Outcome(gap, float(draw.random() < 1 / (1 + math.exp(-gap)))) for gap in gaps]
    bluffs = [Outcome(gap, float((gap > 0) == (draw.random() < 0.7))) for gap in gaps]
    honest, other = risk_coverage(knows), risk_coverage(bluffs)
    risks = [point.risk for point in honest]
    assert all(more >= less - 0.015 for less, more in pairwise(risks))
    assert risks[0] < 0.05 < 0.15 < risks[-1]
    assert other[0].risk == pytest.approx(other[-1].risk, abs=0.06)


def test_the_calibration_error_by_hand() -> None:
    bins = [Bin(0.6, 0.5, 30), Bin(0.9, 0.95, 10)]
    expected = (30 * 0.1 + 10 * 0.05) / 40
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    right = [Outcome(gap_of(0.75), 1.0)] * 3
    assert summarise([*right, Outcome(-gap_of(0.75), 1.0)])["ece"] == pytest.approx(0)
    assert summarise([Outcome(gap_of(0.75), 0.75)])["ece"] == pytest.approx(0)


def test_the_summary_leaves_ties_out_of_accuracy_and_margin() -> None:
    outcomes = [Outcome(2.0, 1.0), Outcome(-1.0, 1.0), Outcome(0.5, 0.8), Outcome(9.0, 0.5)]
    found = summarise(outcomes)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["margin"] == pytest.approx(0.5)
    assert found["log_loss"] == pytest.approx(sum(one.log_loss for one in outcomes) / 4)


def test_the_log_loss_weighs_pairs_as_training_does() -> None:
    heavy, light = Outcome(2.0, 1.0, weight=3.0), Outcome(-2.0, 1.0, weight=1.0)
    expected = (3 * heavy.log_loss + light.log_loss) / 4
    assert summarise([heavy, light])["log_loss"] == pytest.approx(expected)


def test_ties_alone_have_no_accuracy() -> None:
    found = summarise([Outcome(1.0, 0.5)])
    assert math.isnan(found["accuracy"]) and math.isfinite(found["ece"])


def test_slices_count_a_pair_under_each_of_its_labels() -> None:
    outcomes = [Outcome(2.0, 1.0), Outcome(-1.0, 1.0), Outcome(0.5, 0.5)]
    found = slices(outcomes, [["ann", "bob"], ["ann"], ["bob", "tied"]])
    assert set(found) == {"ann", "bob"}  # of ties alone there is no accuracy
    assert (found["ann"].n, found["ann"].accuracy) == (2, 0.5)
    assert (found["bob"].n, found["bob"].accuracy) == (1, 1.0)
    bob = [outcomes[0], outcomes[2]]
    assert found["bob"].log_loss == pytest.approx(sum(one.log_loss for one in bob) / 2)
    assert found["bob"].ece == pytest.approx(summarise(bob)["ece"])
    assert (found["ann"].low, found["ann"].high) == (wilson(1, 2).low, wilson(1, 2).high)


def test_length_bias_by_hand() -> None:
    outcomes = [Outcome(1.0, 1.0), Outcome(-2.0, 1.0), Outcome(3.0, 1.0), Outcome(1.0, 0.5)]
    bias = length_bias(outcomes, [10, -5, -1, 7])  # the tie says nothing
    assert bias is not None and bias.n == 3
    assert bias.longer_chosen == pytest.approx(1 / 3)
    assert bias.longer_scored == pytest.approx(2 / 3)
    assert length_bias(outcomes, [0, 0, 0, 9]) is None


def test_a_model_that_counts_tokens_is_found_out() -> None:
    lengths = [9, -4, 3, -8, 5, -2]
    bias = length_bias([Outcome(0.1 * tokens, 1.0) for tokens in lengths], lengths)
    assert bias is not None
    assert bias.longer_scored == 1 and bias.correlation == pytest.approx(1)
    assert bias.longer_chosen == 0.5


def test_the_auc_counts_all_pairs_of_a_positive_and_a_negative_case() -> None:
    scores, positive = [0.9, 0.4, 0.4, 0.1, 0.8], [True, True, False, False, False]
    won = [
        (s > t) + 0.5 * (s == t)
        for s, yes in zip(scores, positive, strict=True)
        for t, other in zip(scores, positive, strict=True)
        if yes and not other
    ]
    assert auc(scores, positive) == pytest.approx(sum(won) / len(won))
    assert auc(scores, [True] * 5) is None
