"""Reliability numbers against their definitions, by hand."""

import math

import pytest

from align.reward.reliability import (
    Bin,
    Outcome,
    calibration,
    expected_calibration_error,
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
