"""Advantages against the double sum that defines them."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from align.policy.advantage import gae, masked_mean, whiten


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
