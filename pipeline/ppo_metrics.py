"""What a PPO step reports. Shapes: B answers, T response tokens."""

import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from align.pipeline import ranks
from align.policy.advantage import masked_mean
from align.policy.kl import k1, k3
from align.policy.loss import LossSum


def answer_metrics(
    responses: Sequence[Sequence[int]], finished: Sequence[bool]
) -> dict[str, float]:
    """Length, how many ended by themselves, and diversity."""
    return {
        "answer/length": sum(map(len, responses)) / len(responses),
        "answer/eos_rate": sum(finished) / len(finished),
        "answer/distinct2": distinct2(responses),
    }


def distinct2(responses: Sequence[Sequence[int]]) -> float:
    """Distinct neighbouring token pairs over all of them (Li et al. 2016, arXiv:1510.03055)."""
    pairs = [pair for ids in responses for pair in pairwise(ids)]
    return len(set(pairs)) / max(1, len(pairs))


def objective_metrics(
    scores_B: Tensor,
    rewards_BT: Tensor,
    logprobs_BT: Tensor,
    reference_BT: Tensor,
    entropy_BT: Tensor,
    mask_BT: Tensor,
) -> dict[str, float]:
    """What PPO maximises. KL in nats per answer: summed over tokens, mean over answers."""
    totals_B = rewards_BT.sum(dim=1)
    return {
        "objective/scores": float(scores_B.mean()),
        "objective/kl": float((k1(logprobs_BT, reference_BT) * mask_BT).sum(dim=1).mean()),
        "objective/non_score_reward": float((totals_B - scores_B).mean()),
        "objective/rlhf_reward": float(totals_B.mean()),
        "objective/entropy": float(masked_mean(entropy_BT, mask_BT)),
    }


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over response tokens; 1 is a perfect critic, 0 a constant one."""
    keep = mask_BT.bool()
    returns, errors = returns_BT[keep], (returns_BT - values_BT)[keep]
    return float(1 - errors.var(correction=0) / (returns.var(correction=0) + 1e-8))


class Updates:
    """Sums over the micro-batches of some optimiser steps, on this rank."""

    def __init__(self) -> None:
        self._sums = torch.zeros(8, dtype=torch.float64)

    def add(
        self,
        policy: LossSum,
        value: LossSum,
        kl: Tensor,
        logprobs_BT: Tensor,
        old_logprobs_BT: Tensor,
        mask_BT: Tensor,
    ) -> None:
        """One micro-batch; `kl` is what drift from the reference adds to its loss."""
        new_BT, old_BT = logprobs_BT.detach(), old_logprobs_BT
        # E_old[exp(x) - 1 - x] with x = log pi - log pi_old is KL(pi_old, pi).
        approximate_kl_BT = k3(old_BT, new_BT)
        parts = [
            policy.loss.detach(),
            value.loss.detach(),
            kl.detach(),
            policy.clipped,
            value.clipped,
            (approximate_kl_BT * mask_BT).sum(),
            ((new_BT - old_BT).exp() * mask_BT).sum(),
            mask_BT.sum(),
        ]
        self._sums += torch.stack([part.double().cpu() for part in parts])

    def include(self, other: "Updates") -> None:
        """Those of other optimiser steps too."""
        self._sums += other._sums

    def metrics(self) -> dict[str, float]:
        """Means per response token, over all ranks."""
        *sums, tokens = ranks.sum_over_ranks(self._sums).tolist()
        policy, value, kl, policy_clipped, value_clipped, approximate_kl, ratio = (
            part / tokens for part in sums
        )
        return {
            "loss": policy + value + kl,
            "loss/policy": policy,
            "loss/value": value,
            "policy/clipfrac": policy_clipped,
            "val/clipfrac": value_clipped,
            "policy/approxkl": approximate_kl,
            "val/ratio": ratio,
        }


def measured_peak(device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product on this device."""
    size = 4096 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def step_flops(parameters: int, tokens: int, epochs: int) -> float:
    """Operations of one PPO step, at 2 per parameter and token forward and 6 with backward.

    Forward: sampling, policy, reference, critic, reward model. Both policy and critic train for
    `epochs` passes. Attention scores are not counted. Source: Kaplan et al. 2020
    (arXiv:2001.08361), section 2.1.
    """
    return parameters * tokens * (5 * 2 + 2 * 6 * epochs)
