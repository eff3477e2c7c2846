"""Step 6 of PPO: clipped updates of policy and critic on a batch of scored answers.

Shapes: B answers, T response tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from align.data.batches import epoch_order
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.ppo_metrics import Updates
from align.pipeline.ppo_models import Models
from align.pipeline.texts import Texts, chunks, empty_batch
from align.policy.kl import ESTIMATORS
from align.policy.logprobs import response_logprobs, response_values
from align.policy.loss import kl_loss, policy_loss, value_loss


@dataclass(frozen=True)
class Experience:
    """What an update needs of a step's answers; whole on every rank."""

    texts: Texts
    logprobs_BT: Tensor  # log pi_old(token) at the sampling temperature, nats
    reference_BT: Tensor  # log pi_ref(token), nats
    values_BT: Tensor  # V(state before the token) when the answer was sampled
    advantages_BT: Tensor  # whitened over the batch
    returns_BT: Tensor  # what the critic should have said
    mask_BT: Tensor  # 1 on response tokens
    kl_coef: float  # of the KL penalty in the loss; 0 where it is in the reward


def update(
    experience: Experience, models: Models, config: RunConfig, step: int
) -> dict[str, float]:
    """`epochs` passes over the batch, each in a fresh order, `minibatches` optimiser steps a pass.

    Losses are divided by the token count of the whole minibatch over all ranks, so neither
    micro-batches nor ranks change the gradient (OpenRLHF#1249). Once a minibatch finds the policy
    `update_kl_stop` away from the one that sampled, its step is the last.
    """
    ppo, seen = config.ppo, Updates()
    number = step * ppo.epochs * ppo.minibatches
    rates: dict[str, float] = {}
    for epoch in range(ppo.epochs):
        order = epoch_order(len(experience.texts), config.seed, step * ppo.epochs + epoch)
        for rows in chunks(order, ppo.minibatches):
            found = _accumulate_rows(experience, rows, models, config)
            seen.include(found)
            rates = models.policy.step(number)
            models.critic.step(number)
            number += 1
            stop = ppo.update_kl_stop
            if stop is not None and found.metrics()["policy/approxkl"] > stop:
                return seen.metrics() | rates
    return seen.metrics() | rates


def _accumulate_rows(
    experience: Experience, rows: list[int], models: Models, config: RunConfig
) -> Updates:
    """The gradient of one optimiser step, this rank's share of it."""
    seen = Updates()
    tokens = float(experience.mask_BT[rows].sum())
    plan = experience.texts.micro_batches(rows, config.train.micro_batch_tokens)
    for micro_batch in plan[ranks.rank()]:
        if micro_batch:
            _accumulate(experience, micro_batch, tokens, models, config, seen)
        else:
            _accumulate_nothing(models)
    return seen


def _accumulate(
    experience: Experience,
    rows: list[int],
    tokens: float,
    models: Models,
    config: RunConfig,
    seen: Updates,
) -> None:
    """Add one micro-batch to the gradients of policy and critic."""
    ppo, device = config.ppo, models.device
    batch = experience.texts.pick(rows, device)
    longest = int(batch.response_lengths_B.max())

    def mine(x_BT: Tensor) -> Tensor:
        return x_BT[rows, :longest].to(device)

    mask_BT, old_logprobs_BT = mine(experience.mask_BT), mine(experience.logprobs_BT)
    advantages_BT, returns_BT = mine(experience.advantages_BT), mine(experience.returns_BT)
    logprobs_BT, _ = response_logprobs(models.policy, batch, config.rollout.temperature)
    policy = policy_loss(logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, ppo.clip_range)
    kl = torch.zeros((), device=device)
    if experience.kl_coef:
        kl = experience.kl_coef * kl_loss(
            logprobs_BT, old_logprobs_BT, mine(experience.reference_BT), mask_BT, ESTIMATORS[ppo.kl]
        )
    models.policy.backward((policy.loss + kl) / tokens)
    values_BT = response_values(models.critic, batch)
    value = value_loss(
        values_BT, mine(experience.values_BT), returns_BT, mask_BT, ppo.value_clip_range
    )
    models.critic.backward(value.loss / tokens)
    seen.add(policy, value, kl, logprobs_BT, old_logprobs_BT, mask_BT)


def _accumulate_nothing(models: Models) -> None:
    """Keep in step with the ranks that have a micro-batch: ZeRO reduces during backward."""
    batch = empty_batch(models.device)
    models.policy.backward(0 * response_logprobs(models.policy, batch, 1.0)[0].sum())
    models.critic.backward(0 * response_values(models.critic, batch).sum())
