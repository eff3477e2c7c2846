"""Advantages against the double sum that defines them."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from align.policy.advantage import (
    ESTIMATORS,
    Credit,
    gae,
    grpo,
    masked_mean,
    reinforce_plus_plus,
    rloo,
    whiten,
    with_critic,
)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask of six answers of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    mask = (torch.arange(9) < torch.tensor([9, 1, 4, 8, 2, 9])[:, None]).double()
    return rewards, values, mask


def slow_gae(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, for one answer without padding."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [
        sum((gamma * gae_lambda) ** (s - t) * deltas[s] for s in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_advantages_equal_the_double_sum(gamma: float, gae_lambda: float) -> None:
    rewards, values, mask = batch()
    advantages, returns = gae(rewards * mask, values, mask, gamma, gae_lambda)
    for row in range(6):
        length = int(mask[row].sum())
        r, v = rewards[row, :length].tolist(), values[row, :length].tolist()
        expected = slow_gae(r, v, gamma, gae_lambda)
        assert advantages[row, :length].tolist() == pytest.approx(expected)
        assert returns[row, :length].tolist() == pytest.approx(
            [a + b for a, b in zip(expected, v, strict=True)]
        )
        assert (advantages[row, length:] == 0).all() and (returns[row, length:] == 0).all()


def test_with_lambda_one_a_return_is_the_discounted_sum_of_rewards() -> None:
    rewards, values, mask = batch(1)
    _, returns = gae(rewards * mask, values, mask, gamma=0.9, gae_lambda=1.0)
    for row in range(6):
        length = int(mask[row].sum())
        for t in range(length):
            later = rewards[row, t:length].tolist()
            assert float(returns[row, t]) == pytest.approx(
                sum(0.9**i * reward for i, reward in enumerate(later))
            )


def test_what_lies_in_the_padding_changes_no_advantage() -> None:
    rewards, values, mask = batch(2)
    clean = gae(rewards * mask, values * mask, mask, 1.0, 0.95)
    dirty = gae(rewards * mask, values + 1e6 * (1 - mask), mask, 1.0, 0.95)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_whitened_tokens_have_mean_zero_and_variance_one() -> None:
    x, _, mask = batch(3)
    white = whiten(7 + 3 * x, mask)
    kept = white[mask.bool()]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (white[~mask.bool()] == 0).all()


def test_padding_changes_no_whitened_token() -> None:
    x, _, mask = batch(4)
    narrow = whiten(x, mask)
    wide = whiten(pad(x, (0, 5), value=1e6), pad(mask, (0, 5)))
    assert torch.allclose(wide[:, :9], narrow, atol=1e-12) and (wide[:, 9:] == 0).all()


def test_equal_advantages_whiten_to_zero() -> None:
    _, _, mask = batch()
    assert (whiten(torch.full_like(mask, 3.0), mask).abs() < 1e-6).all()


def test_masked_mean_counts_real_tokens_only() -> None:
    x = torch.tensor([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert float(masked_mean(x, mask)) == 3


def test_whitened_rewards_keep_their_mean() -> None:
    x, _, mask = batch(5)
    white = whiten(7 + 3 * x, mask, keep_mean=True)
    kept = white[mask.bool()]
    assert float(kept.mean()) == pytest.approx(float((7 + 3 * x)[mask.bool()].mean()))
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (white[~mask.bool()] == 0).all()


def totals(rewards: Tensor, mask: Tensor) -> list[float]:
    """What each answer was rewarded with, token by token."""
    return [
        sum(float(rewards[row, t]) for t in range(int(mask[row].sum())))
        for row in range(len(rewards))
    ]


THREE = Credit(gamma=0.9, gae_lambda=0.95, samples_per_prompt=3)


def test_rloo_compares_an_answer_with_the_mean_of_the_others() -> None:
    rewards, values, mask = batch(6)
    found, _ = rloo(rewards * mask, values, mask, THREE)
    total = totals(rewards, mask)
    for row in range(6):
        first = row - row % 3
        others = [total[other] for other in range(first, first + 3) if other != row]
        expected = total[row] - sum(others) / 2
        length = int(mask[row].sum())
        assert found[row, :length].tolist() == pytest.approx([expected] * length)
        assert (found[row, length:] == 0).all()


def test_grpo_compares_an_answer_with_its_group_in_deviations() -> None:
    rewards, values, mask = batch(7)
    found, _ = grpo(rewards * mask, values, mask, THREE)
    total = totals(rewards, mask)
    for row in range(6):
        first = row - row % 3
        group = total[first : first + 3]
        mean = sum(group) / 3
        deviation = (sum((one - mean) ** 2 for one in group) / 3) ** 0.5
        length = int(mask[row].sum())
        expected = (total[row] - mean) / (deviation + 1e-4)
        assert found[row, :length].tolist() == pytest.approx([expected] * length)
        assert (found[row, length:] == 0).all()


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_answers_that_are_equally_good_teach_nothing(name: str) -> None:
    _, values, mask = batch()
    rewards = (0.1 * mask / mask.sum(dim=1, keepdim=True)).float()
    found, _ = ESTIMATORS[name](rewards, values.float(), mask.float(), THREE)
    assert (found.abs() < 1e-3).all()


def test_reinforce_plus_plus_whitens_the_rewards_to_come() -> None:
    rewards, values, mask = batch(8)
    found, _ = reinforce_plus_plus(rewards * mask, values, mask, THREE)
    to_come = torch.zeros_like(rewards)
    for row in range(6):
        length = int(mask[row].sum())
        for t in range(length):
            later = rewards[row, t:length].tolist()
            to_come[row, t] = sum(0.9**i * reward for i, reward in enumerate(later))
    assert torch.allclose(found, whiten(to_come, mask))


def test_with_a_critic_advantages_are_whitened_and_returns_are_not() -> None:
    rewards, values, mask = batch(9)
    raw, returns = gae(rewards * mask, values, mask, 0.9, 0.95)
    found, learnt = with_critic(rewards * mask, values, mask, THREE)
    assert torch.equal(found, whiten(raw, mask)) and torch.equal(learnt, returns)


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce++"])
def test_without_a_critic_values_change_nothing(name: str) -> None:
    rewards, values, mask = batch(10)
    one, _ = ESTIMATORS[name](rewards * mask, values, mask, THREE)
    other, _ = ESTIMATORS[name](rewards * mask, 0 * values, mask, THREE)
    assert torch.equal(one, other)
