"""Generalised advantage estimation and whitening.

Shapes: B answers, T response tokens.
"""

import torch
from torch import Tensor


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


def whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the tokens where the mask is 1; 0 elsewhere.

    The caller passes the whole batch of the step, so that ranks and micro-batches change nothing
    (TRL whitened per rank).
    """
    mean = masked_mean(x_BT, mask_BT)
    variance = masked_mean((x_BT - mean) ** 2, mask_BT)
    return (x_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT
