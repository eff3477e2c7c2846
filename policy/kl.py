"""KL divergence between policy and reference: estimated from sampled tokens, and priced.

Which estimator belongs where follows from its gradient (Tang and Munos 2025, arXiv:2506.09477).
In the reward k1 is exact, since E[grad k1] = 0; k2 and k3 there are another objective. In the loss
k2 has the gradient of KL(pi, pi_ref) and k3 that of KL(pi_ref, pi); k1 has none.

Shapes: B answers, T response tokens.
"""

from collections.abc import Callable

from torch import Tensor


def k1(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """log pi - log pi_ref per token, in nats; unbiased, may be negative.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    return logprobs_BT - reference_BT


def k2(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """k1^2 / 2 per token, in nats; never negative, equal to the divergence to second order.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    return (logprobs_BT - reference_BT) ** 2 / 2


def k3(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 per token, in nats; unbiased, never negative, lower variance.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    difference_BT = logprobs_BT - reference_BT
    return (-difference_BT).exp() - 1 + difference_BT


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""By the name that `ppo.kl` gives."""


def shaped_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards (B, T): -kl_coef * kl everywhere, plus the score at the last token.

    The last token is the EOS of a finished answer and the cut of an unfinished one. Source:
    Ziegler et al. 2019 (arXiv:1909.08593), eq. 2; TRL adds the score one token later, which
    lands on padding (huggingface/trl#3750).
    """
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B1 = mask_BT.long().sum(dim=1, keepdim=True) - 1
    return rewards_BT.scatter_add(1, last_B1, scores_B[:, None].to(rewards_BT.dtype))


def adapted_coef(kl_coef: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """beta (1 + e n / horizon) with e = clip(KL / target - 1, -0.2, 0.2) and n answers.

    KL and target in nats per answer: verl and OpenRLHF feed the mean per token, which is smaller
    by the length of an answer. Source: Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * answers / horizon)
