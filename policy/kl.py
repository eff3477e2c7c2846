"""KL divergence between policy and reference, estimated from sampled tokens.

Shapes: B answers, T response tokens.
"""

from torch import Tensor


def k1(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """log pi - log pi_ref per token, in nats; unbiased, may be negative.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    return logprobs_BT - reference_BT


def k3(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 per token, in nats; unbiased, never negative, lower variance.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    difference_BT = logprobs_BT - reference_BT
    return (-difference_BT).exp() - 1 + difference_BT


def shaped_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards (B, T): -kl_coef * kl everywhere, plus the score at the last token.

    The last token is the EOS of a finished answer and the cut of an unfinished one. Source:
    Ziegler et al. 2019 (arXiv:1909.08593), eq. 2; TRL adds the score one token later, which
    lands on padding (huggingface/trl#3750).
    """
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B1 = mask_BT.long().sum(dim=1, keepdim=True) - 1
    return rewards_BT.scatter_add(1, last_B1, scores_B[:, None].to(rewards_BT.dtype))
