"""The losses of reward modelling against scalar formulas."""

import math

import pytest
import torch
from torch import Tensor

from align.reward.loss import centering_loss, preference_loss


def slow_loss(gap: float, target: float, margin: float) -> float:
    """-t log sigmoid(d) - (1 - t) log sigmoid(-d), the margin taken off d if t is 1."""
    d = gap - margin if target == 1 else gap
    better = 1 / (1 + math.exp(-d))
    return -target * math.log(better) - (1 - target) * math.log(1 - better)


def gradient(gap: float, target: float, margin: float = 0.0) -> float:
    """Of the loss with respect to the score of the chosen answer."""
    chosen = torch.tensor([gap], requires_grad=True)
    zero = torch.zeros(1)
    loss = preference_loss(chosen, zero, torch.tensor([target]), torch.tensor([margin]))
    (slope,) = torch.autograd.grad(loss.sum(), chosen)
    return float(slope)


def test_the_preference_loss_equals_the_scalar_formula() -> None:
    cases = [
        (gap, target, margin)
        for gap in (-3.0, -0.5, 0.0, 0.7, 4.0)
        for target in (0.5, 0.8, 1.0)
        for margin in (0.0, 1.0)
    ]
    gaps, targets, margins = torch.tensor(cases, dtype=torch.float64).T
    rejected = torch.linspace(-2, 2, len(cases), dtype=torch.float64)
    losses = preference_loss(rejected + gaps, rejected, targets, margins)
    assert losses.tolist() == pytest.approx([slow_loss(*case) for case in cases])


def test_a_tie_pulls_the_scores_together() -> None:
    assert gradient(2.0, target=0.5) > 0 > gradient(-2.0, target=0.5)
    assert gradient(0.0, target=0.5) == pytest.approx(0)


def test_a_doubtful_preference_asks_for_the_gap_of_its_probability() -> None:
    wanted = math.log(0.8 / 0.2)
    assert gradient(wanted, target=0.8) == pytest.approx(0, abs=1e-6)
    assert gradient(wanted + 1, target=0.8) > 0 > gradient(wanted - 1, target=0.8)


def test_the_margin_counts_for_certain_preferences_alone() -> None:
    assert gradient(1.0, 1.0, margin=2.0) < gradient(1.0, 1.0)
    for target in (0.5, 0.8, 0.99):
        assert gradient(1.0, target, margin=2.0) == gradient(1.0, target)


def test_huge_gaps_stay_finite() -> None:
    gaps = torch.tensor([1e4, -1e4], requires_grad=True)
    zero, one = torch.zeros(2), torch.ones(2)
    loss = preference_loss(gaps, zero, one, zero)
    assert loss.tolist() == pytest.approx([0, 1e4])
    (slope,) = torch.autograd.grad(loss.sum(), gaps)
    assert slope.tolist() == pytest.approx([0, -1])


def test_centering_pulls_the_sum_of_scores_to_zero() -> None:
    chosen: Tensor = torch.tensor([3.0, 1.0, -2.0])
    rejected = torch.tensor([1.0, -1.0, -2.0])
    assert centering_loss(chosen, rejected).tolist() == [16, 0, 16]
