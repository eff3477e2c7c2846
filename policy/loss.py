"""The clipped losses of PPO, as sums over tokens.

The caller divides by the token count of the whole optimiser step, over all ranks and
micro-batches, so that neither changes the gradient. Shapes: B answers, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def truncated_weights(logprobs_BT: Tensor, sampled_BT: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_sampled, cap) for every token, without gradient.

    They make tokens that another policy drew (older weights, or the sampler's rounding) stand for
    those of pi_old, from which PPO's ratio starts; the cap bounds their variance. Multiplied with
    the advantages. Source: Espeholt et al. 2018 (arXiv:1802.01561), section 4.1.
    """
    return (logprobs_BT - sampled_BT).exp().clamp(max=cap).detach()


@dataclass(frozen=True)
class LossSum:
    """A loss summed over tokens, and how many tokens its clip held back."""

    loss: Tensor
    """Scalar, with gradient."""
    clipped: Tensor
    """Scalar count of tokens, no gradient."""


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip_range: float,
) -> LossSum:
    """Sum of max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) with rho = pi / pi_old.

    Source: Schulman et al. 2017 (arXiv:1707.06347), eq. 7, negated.
    """
    ratio_BT = (logprobs_BT - old_logprobs_BT).exp()
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip_range, 1 + clip_range)
    return LossSum(
        loss=(torch.maximum(plain_BT, clipped_BT) * mask_BT).sum(),
        clipped=((clipped_BT > plain_BT) * mask_BT).sum(),
    )


def kl_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    reference_BT: Tensor,
    mask_BT: Tensor,
    estimator: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Sum of rho k(pi, pi_ref) with rho = pi / pi_old held fixed; a scalar.

    The weight makes tokens of the old policy stand for those of the new one, so that later passes
    keep the estimator's gradient. Source: Shao et al. 2024 (arXiv:2402.03300), eq. 4, without a
    weight; Tang and Munos 2025 (arXiv:2506.09477) with one.
    """
    weight_BT = (logprobs_BT - old_logprobs_BT).exp().detach()
    return (weight_BT * estimator(logprobs_BT, reference_BT) * mask_BT).sum()


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    clip_range: float,
) -> LossSum:
    """Sum of 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2).

    Source: the PPO2 implementation described in Huang et al. 2022, "The 37 Implementation
    Details of PPO", detail 9.
    """
    clipped_values_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip_range, clip_range)
    plain_BT = (values_BT - returns_BT) ** 2
    clipped_BT = (clipped_values_BT - returns_BT) ** 2
    return LossSum(
        loss=0.5 * (torch.maximum(plain_BT, clipped_BT) * mask_BT).sum(),
        clipped=((clipped_BT > plain_BT) * mask_BT).sum(),
    )
