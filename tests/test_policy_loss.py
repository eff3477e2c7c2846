"""The clipped losses against scalar loops, and their gradients."""

import math

import pytest
import torch
from torch import Tensor

from align.policy.loss import policy_loss, truncated_weights, value_loss

LENGTHS = [7, 1, 4, 6, 2, 3, 7, 5]


def mask_of(lengths: list[int]) -> Tensor:
    """1.0 on real tokens."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).double()


def draws(count: int, seed: int = 0) -> Tensor:
    """Random (count, B, T) in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, len(LENGTHS), max(LENGTHS))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_the_policy_loss_equals_a_scalar_loop() -> None:
    new, old, advantages = 0.3 * draws(3)
    total, clipped = 0.0, 0
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            ratio = math.exp(float(new[row, t] - old[row, t]))
            a = float(advantages[row, t])
            plain, held = -a * ratio, -a * min(max(ratio, 0.8), 1.2)
            total += max(plain, held)
            clipped += held > plain
    loss = policy_loss(new, old, advantages, mask_of(LENGTHS), clip_range=0.2)
    assert float(loss.loss) == pytest.approx(total)
    assert 0 < clipped == float(loss.clipped)


def test_the_value_loss_equals_a_scalar_loop() -> None:
    values, old, returns = draws(3, seed=1)
    total, clipped = 0.0, 0
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            v, before, goal = (float(x[row, t]) for x in (values, old, returns))
            near = before + min(max(v - before, -0.2), 0.2)
            total += 0.5 * max((v - goal) ** 2, (near - goal) ** 2)
            clipped += (near - goal) ** 2 > (v - goal) ** 2
    loss = value_loss(values, old, returns, mask_of(LENGTHS), clip_range=0.2)
    assert float(loss.loss) == pytest.approx(total)
    assert 0 < clipped == float(loss.clipped)


def test_padding_gets_no_gradient() -> None:
    new, old, advantages = draws(3, seed=2)
    mask = mask_of(LENGTHS)
    new.requires_grad_()
    policy = policy_loss(new, old, advantages, mask, 0.2).loss
    value = value_loss(new, old, advantages, mask, 0.2).loss
    (gradient,) = torch.autograd.grad(policy + value, new)
    assert (gradient[mask == 0] == 0).all() and (gradient[mask == 1] != 0).any()


def test_in_the_first_pass_the_ratio_is_one_and_nothing_is_clipped() -> None:
    new, advantages = draws(2, seed=3)
    new.requires_grad_()
    mask = mask_of(LENGTHS)
    loss = policy_loss(new, new.detach(), advantages, mask, clip_range=0.2)
    assert float(loss.loss.detach()) == pytest.approx(-float((advantages * mask).sum()))
    assert float(loss.clipped) == 0
    (gradient,) = torch.autograd.grad(loss.loss, new)
    assert torch.allclose(gradient, -advantages * mask)  # the plain policy gradient


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5])
def test_the_clip_stops_only_the_gradient_that_would_lead_further_away(
    advantage: float, ratio: float
) -> None:
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    loss = policy_loss(new, torch.zeros(1, 1), advantage * one, one, clip_range=0.2)
    (gradient,) = torch.autograd.grad(loss.loss, new)
    stopped = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert float(gradient) == pytest.approx(0 if stopped else -advantage * ratio)
    assert bool(loss.clipped) == stopped


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_micro_batches_change_no_gradient(cut: int) -> None:
    new, old, advantages = 0.3 * draws(3, seed=4)
    new.requires_grad_()
    mask = mask_of(LENGTHS)
    tokens = mask.sum()
    whole = policy_loss(new, old, advantages, mask, 0.2).loss / tokens
    parts = [
        policy_loss(new[rows], old[rows], advantages[rows], mask[rows], 0.2).loss / tokens
        for rows in (slice(0, cut), slice(cut, None))
    ]
    (expected,) = torch.autograd.grad(whole, new, retain_graph=True)
    (found,) = torch.autograd.grad(parts[0] + parts[1], new)
    assert torch.allclose(found, expected, atol=1e-15)


def test_truncated_weights_equal_a_scalar_loop_and_carry_no_gradient() -> None:
    now, sampled = draws(2, seed=5)
    weights = truncated_weights(now.requires_grad_(), sampled, cap=2.0)
    now = now.detach()
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            ratio = math.exp(float(now[row, t] - sampled[row, t]))
            assert float(weights[row, t]) == pytest.approx(min(ratio, 2.0))
    assert not weights.requires_grad and float(weights.max()) == 2.0


def test_weights_turn_tokens_of_another_policy_into_those_of_this_one() -> None:
    """The gradient of the loss over all tokens, as often as an older policy draws them."""
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    older = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    now, one = logits.log_softmax(0), torch.ones(1, 1, dtype=torch.float64)

    def gradient(often: Tensor, sampled: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for token in range(3):
            new = now[token].reshape(1, 1)
            weight = truncated_weights(new, sampled[token].reshape(1, 1), cap=10.0)
            loss = policy_loss(new, new.detach(), weight * advantages[token], one, 0.2).loss
            total = total + often[token] * loss
        (found,) = torch.autograd.grad(total, logits, retain_graph=True)
        return found

    on_policy = gradient(now.exp().detach(), now.detach())
    assert torch.allclose(gradient(older, older.log()), on_policy)
    unweighted = gradient(older, now.detach())
    assert not torch.allclose(unweighted, on_policy, atol=0.01)
