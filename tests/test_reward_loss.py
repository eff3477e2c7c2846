"""The losses of reward modelling against scalar formulas."""

import math

import pytest
import torch
from torch import Tensor

from align.reward.loss import (
    centering_loss,
    choice_loss,
    compliance,
    preference_loss,
    violation_loss,
)


def slow_loss(gap: float, target: float, margin: float) -> float:
    """-t log sigmoid(d - m) - (1 - t) log sigmoid(m - d)."""
    better = 1 / (1 + math.exp(margin - gap))
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


def test_a_margin_asks_for_more_and_no_margin_is_plain_bradley_terry() -> None:
    assert gradient(1.0, 1.0, margin=2.0) < gradient(1.0, 1.0)
    gap, one, zero = torch.tensor([0.3]), torch.ones(1), torch.zeros(1)
    losses = [preference_loss(gap, zero, one, torch.tensor([m])).item() for m in (0.0, 0.5, 2.0)]
    assert losses == sorted(losses) and losses[0] == pytest.approx(math.log1p(math.exp(-0.3)))


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


def slow_choice(scores: list[float], winner: int, candidates: list[int]) -> float:
    """-log of the winner's share of exp(score) among the candidates."""
    return -math.log(math.exp(scores[winner]) / sum(math.exp(scores[j]) for j in candidates))


def chosen_from(scores: Tensor, choices: list[tuple[int, list[int]]]) -> Tensor:
    mask_SB = torch.zeros(len(choices), len(scores), dtype=torch.bool)
    for row, (_, candidates) in enumerate(choices):
        mask_SB[row, candidates] = True
    return choice_loss(scores, torch.tensor([winner for winner, _ in choices]), mask_SB)


def test_a_choice_equals_the_softmax_over_its_candidates() -> None:
    scores = [0.3, -1.2, 2.0, 0.7]
    choices = [(0, [0, 1, 2, 3]), (2, [1, 2]), (3, [0, 3])]
    found = chosen_from(torch.tensor(scores, dtype=torch.float64), choices)
    expected = [slow_choice(scores, winner, candidates) for winner, candidates in choices]
    assert found.tolist() == pytest.approx(expected)


def test_two_answers_make_bradley_terry_of_plackett_luce_and_of_best_of() -> None:
    scores = torch.tensor([0.9, 0.4], dtype=torch.float64)
    choice = chosen_from(scores, [(0, [0, 1])]).item()
    one, zero = torch.ones(1), torch.zeros(1)
    pair = preference_loss(scores[:1], scores[1:], one, zero).item()
    assert choice == pytest.approx(pair) == pytest.approx(0.474077, abs=1e-6)


def test_a_choice_among_huge_scores_stays_finite_and_ignores_who_is_no_candidate() -> None:
    scores = torch.tensor([1e4, -1e4, 3e4], requires_grad=True)
    loss = chosen_from(scores, [(1, [0, 1])])
    assert loss.item() == pytest.approx(2e4)
    (slope,) = torch.autograd.grad(loss.sum(), scores)
    assert slope.tolist() == pytest.approx([1, -1, 0])


def test_no_loss_but_centering_moves_the_mean_score_of_a_prompt() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, dtype=torch.float64, requires_grad=True)
    better, worse = torch.triu_indices(4, 4, offset=1)
    target, margin = torch.rand(6) / 2 + 0.5, torch.rand(6)
    pairs = preference_loss(scores[better], scores[worse], target, margin).sum()
    ranking = chosen_from(scores, [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3])]).sum()
    for loss in (pairs, ranking):
        (slope,) = torch.autograd.grad(loss, scores)
        assert slope.abs().max() > 0.1 and slope.sum().item() == pytest.approx(0, abs=1e-12)


def test_the_violation_loss_and_the_compliance_reward_by_hand() -> None:
    logits = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    severity = torch.tensor([5.0, 1.0, 2.0], dtype=torch.float64)
    for logit, target, loss in zip(
        logits.tolist(), (1.0, 0.0, 0.25), violation_loss(logits, severity).tolist(), strict=True
    ):
        broken = 1 / (1 + math.exp(-logit))
        expected = -target * math.log(broken) - (1 - target) * math.log(1 - broken)
        assert loss == pytest.approx(expected)
    kept = [math.log(1 - 1 / (1 + math.exp(-logit))) for logit in (0.4, -1.0)]
    assert compliance(logits[:2, None]).item() == pytest.approx(sum(kept) / 2)
