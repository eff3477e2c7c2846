"""What a PPO step reports. Shapes: B answers, T response tokens."""

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from align.pipeline import ranks
from align.policy.advantage import masked_mean
from align.policy.config import PPOConfig
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


SUMMED = (
    "loss/policy",
    "loss/value",
    "kl",
    "policy/clipfrac",
    "val/clipfrac",
    "policy/approxkl",
    "val/ratio",
    "tokens",
    "ptx",
    "ptx_tokens",
)
OF_THE_CRITIC = ("loss/value", "val/clipfrac", "val/explained_variance")
"""Metrics that mean nothing without one."""


class Updates:
    """Sums over the micro-batches of some optimiser steps, on this rank."""

    def __init__(self, ppo: PPOConfig) -> None:
        self._ptx_coef = ppo.ptx_coef
        self._value_coef = ppo.value_coef if ppo.has_value_head else 1.0
        self._gap = 0.0
        self._sums = dict.fromkeys(SUMMED, 0.0)

    def add_policy(
        self,
        loss: LossSum,
        kl: Tensor,
        logprobs_BT: Tensor,
        old_logprobs_BT: Tensor,
        mask_BT: Tensor,
    ) -> None:
        """The policy's part of a micro-batch; `kl` is what drift adds to the loss."""
        new_BT, old_BT = logprobs_BT.detach(), old_logprobs_BT
        gap = float(((new_BT - old_BT).abs() * mask_BT).max())
        self._gap = gap if math.isnan(gap) else max(self._gap, gap)
        self._add("loss/policy", loss.loss)
        self._add("policy/clipfrac", loss.clipped)
        self._add("kl", kl)
        # E_old[exp(x) - 1 - x] with x = log pi - log pi_old is KL(pi_old, pi).
        self._add("policy/approxkl", (k3(old_BT, new_BT) * mask_BT).sum())
        self._add("val/ratio", ((new_BT - old_BT).exp() * mask_BT).sum())
        self._add("tokens", mask_BT.sum())

    def add_value(self, loss: LossSum) -> None:
        """The critic's part of a micro-batch."""
        self._add("loss/value", loss.loss)
        self._add("val/clipfrac", loss.clipped)

    def add_ptx(self, loss: Tensor, tokens: int) -> None:
        """A micro-batch of instructions that are mixed in."""
        self._add("ptx", loss)
        self._sums["ptx_tokens"] += tokens

    def include(self, other: "Updates") -> None:
        """Those of other optimiser steps too."""
        for name in SUMMED:
            self._sums[name] += other._sums[name]

    def metrics(self) -> dict[str, float]:
        """Means per response token, over all ranks; every rank calls this."""
        sums = torch.tensor([self._sums[name] for name in SUMMED], dtype=torch.float64)
        total = dict(zip(SUMMED, ranks.sum_over_ranks(sums).tolist(), strict=True))
        ptx, ptx_tokens, tokens = (total.pop(name) for name in ("ptx", "ptx_tokens", "tokens"))
        means = {name: part / tokens for name, part in total.items()}
        value = self._value_coef * means["loss/value"]
        means["loss"] = means["loss/policy"] + value + means.pop("kl")
        if ptx_tokens:
            means["loss/ptx"] = ptx / ptx_tokens
            means["loss"] += self._ptx_coef * means["loss/ptx"]
        return means

    def gap(self) -> float:
        """Largest change of a token's log-probability, in nats, over all ranks."""
        return max(ranks.gather(self._gap), key=lambda gap: (math.isnan(gap), gap))

    def _add(self, name: str, part: Tensor) -> None:
        self._sums[name] += float(part.detach())


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


def step_flops(
    parameters: int, tokens: int, mixed_in: int, epochs: int, trained: int, *, adapters: bool
) -> float:
    """Operations of one PPO step, at 2 per parameter and token forward and 6 with backward.

    Forward: sampling, reference, reward model and the `trained` ones, policy and critic, which
    then train for `epochs` passes; the policy also on the tokens `mixed_in` by all of them. Where
    `adapters` are trained, backward has no gradients of the base's weights to make, and 6 is 4.
    Attention scores are not counted. Source: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1.
    """
    learning = 4 if adapters else 6
    passes = (3 + trained) * 2 + trained * learning * epochs
    return parameters * (tokens * passes + mixed_in * learning)
