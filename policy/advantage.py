"""How much better a token was than expected: with a critic, or against other answers.

Shapes: B answers, T response tokens; answers to one prompt stand next to each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Credit:
    """How rewards are spread over tokens."""

    gamma: float
    """Discount per token."""
    gae_lambda: float
    samples_per_prompt: int


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens where the mask is 1; a scalar."""
    return (x_BT * mask_BT).sum() / mask_BT.sum()


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both (B, T), 0 where the mask is 0.

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1}; R_t = A_t + V_t,
    with V = A = 0 after the last token: an answer ends there, also when it was cut.
    Source: Schulman et al. 2016 (arXiv:1506.02438), eq. 11 and 16.
    """
    values_BT = values_BT * mask_BT
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = torch.zeros_like(rewards_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = (delta_B + gamma * gae_lambda * next_advantage_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t]
        advantages_BT[:, t] = next_advantage_B
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(x_BT: Tensor, mask_BT: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Mean 0 and variance 1 over the tokens where the mask is 1; 0 elsewhere.

    The caller passes the whole batch of the step, so that ranks and micro-batches change nothing
    (TRL whitened per rank). `keep_mean` is for rewards: a shift would reward long answers.
    """
    mean = masked_mean(x_BT, mask_BT)
    variance = masked_mean((x_BT - mean) ** 2, mask_BT)
    white_BT = (x_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (white_BT + mean if keep_mean else white_BT) * mask_BT


def with_critic(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, credit: Credit
) -> tuple[Tensor, Tensor]:
    """Whitened GAE, and the returns that the critic should have said."""
    raw_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, credit.gamma, credit.gae_lambda)
    return whiten(raw_BT, mask_BT), returns_BT


def grpo(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, credit: Credit
) -> tuple[Tensor, Tensor]:
    """Every token: its answer's reward less the mean of its prompt, over their deviation.

    Source: Shao et al. 2024 (arXiv:2402.03300), section 4.1.2.
    """
    totals_PK = rewards_BT.sum(dim=1).reshape(-1, credit.samples_per_prompt)
    centred_PK = totals_PK - totals_PK.mean(dim=1, keepdim=True)
    # Among equal answers rounding must not pass for a difference, hence 1e-4.
    scaled_PK = centred_PK / (totals_PK.std(dim=1, correction=0, keepdim=True) + 1e-4)
    return scaled_PK.reshape(-1, 1) * mask_BT, values_BT


def rloo(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, credit: Credit
) -> tuple[Tensor, Tensor]:
    """Every token: its answer's reward less the mean of the prompt's other answers.

    Source: Ahmadian et al. 2024 (arXiv:2402.14740).
    """
    samples = credit.samples_per_prompt
    totals_PK = rewards_BT.sum(dim=1).reshape(-1, samples)
    others_PK = (totals_PK.sum(dim=1, keepdim=True) - totals_PK) / (samples - 1)
    return (totals_PK - others_PK).reshape(-1, 1) * mask_BT, values_BT


def reinforce_plus_plus(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, credit: Credit
) -> tuple[Tensor, Tensor]:
    """What each token and those after it were rewarded with, whitened over the batch.

    Source: Hu 2025 (arXiv:2501.03262).
    """
    nothing_BT = torch.zeros_like(rewards_BT)
    raw_BT, _ = gae(rewards_BT, nothing_BT, mask_BT, credit.gamma, gae_lambda=1.0)
    return whiten(raw_BT, mask_BT), values_BT


Estimator = Callable[[Tensor, Tensor, Tensor, Credit], tuple[Tensor, Tensor]]
"""Rewards, values (0 without a critic) and mask, all (B, T) -> advantages and returns, (B, T)."""

ESTIMATORS: dict[str, Estimator] = {
    "gae": with_critic,
    "grpo": grpo,
    "rloo": rloo,
    "reinforce++": reinforce_plus_plus,
}
"""By the name that `ppo.advantage` gives; all but `gae` do without a critic."""
