"""Step 6 of PPO: clipped updates of policy and critic on a batch of scored answers.

Shapes: B answers, T response tokens.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from align.data.batches import epoch_order, stream
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.ppo_guards import check_first_pass
from align.pipeline.ppo_metrics import Updates
from align.pipeline.ppo_models import Models
from align.pipeline.texts import Texts, chunks, empty_batch
from align.policy.kl import ESTIMATORS
from align.policy.logprobs import TextBatch, response_logprobs, response_values
from align.policy.loss import kl_loss, policy_loss, value_loss
from align.policy.value_head import logprobs_and_values


@dataclass(frozen=True)
class Experience:
    """What an update needs of a step's answers; whole on every rank."""

    texts: Texts
    mask_BT: Tensor  # 1 on response tokens
    logprobs_BT: Tensor  # log pi_old(token) at the sampling temperature, nats
    reference_BT: Tensor  # log pi_ref(token), nats
    values_BT: Tensor  # V(state before the token) when the answer was sampled
    advantages_BT: Tensor  # whitened over the batch, or against other answers to the prompt
    returns_BT: Tensor  # what the critic should have said
    kl_coef: float  # of the KL penalty in the loss; 0 where it is in the reward

    def part(self, rows: list[int], device: torch.device) -> "Experience":
        """Some of the answers, as wide as the longest of them, on the device."""
        texts = Texts(
            [self.texts.prompts[row] for row in rows], [self.texts.responses[row] for row in rows]
        )
        longest = max(map(len, texts.responses))
        tensors = {
            field.name: getattr(self, field.name)[rows, :longest].to(device)
            for field in fields(self)
            if field.name.endswith("_BT")
        }
        return replace(self, texts=texts, **tensors)


def update(
    experience: Experience, models: Models, config: RunConfig, step: int, mixed_in: Texts
) -> dict[str, float]:
    """`epochs` passes over the batch, each in a fresh order, `minibatches` optimiser steps a pass.

    Losses are divided by the token count of the whole minibatch over all ranks, so neither
    micro-batches nor ranks change the gradient (OpenRLHF#1249). Once a minibatch finds the policy
    `update_kl_stop` away from the one that sampled, its step is the last. Every optimiser step
    takes as many of the `mixed_in` instructions as it has answers, if `ptx_coef` weighs them.
    """
    ppo, seen = config.ppo, Updates(config.ppo)
    number = first = step * ppo.epochs * ppo.minibatches
    rates: dict[str, float] = {}
    for epoch in range(ppo.epochs):
        order = epoch_order(len(experience.texts), config.seed, step * ppo.epochs + epoch)
        for rows in chunks(order, ppo.minibatches):
            found = _accumulate(experience, rows, models, config)
            if ppo.ptx_coef:
                part = stream(len(mixed_in), config.seed, number * len(rows), len(rows))
                _accumulate_ptx(mixed_in, [row for _, row in part], models, config, found)
            if number == first:
                check_first_pass(found.gap(), config, step)
            seen.include(found)
            rates = models.policy.step(number)
            if models.critic:
                models.critic.step(number)
            number += 1
            stop = ppo.update_kl_stop
            if stop is not None and found.metrics()["policy/approxkl"] > stop:
                return seen.metrics() | rates
    return seen.metrics() | rates


def _accumulate(
    experience: Experience, rows: list[int], models: Models, config: RunConfig
) -> Updates:
    """This rank's share of the gradient of one optimiser step."""
    seen = Updates(config.ppo)
    tokens = float(experience.mask_BT[rows].sum())
    budget = config.train.micro_batch_tokens
    plan = experience.texts.micro_batches(rows, budget, packed=models.packed)
    for micro_batch in plan[ranks.rank()]:
        if micro_batch:
            part = experience.part(micro_batch, models.device)
            everything = range(len(micro_batch))
            batch = part.texts.pick(everything, models.device, packed=models.packed)
            _accumulate_policy(part, batch, tokens, models, config, seen)
            _accumulate_critic(part, batch, tokens, models, config, seen)
        else:
            _accumulate_nothing(models, config)
    return seen


def _accumulate_policy(
    part: Experience,
    batch: TextBatch,
    tokens: float,
    models: Models,
    config: RunConfig,
    seen: Updates,
) -> None:
    """The clipped policy loss, and KL from the reference if it is in the loss."""
    ppo = config.ppo
    logprobs_BT, values_BT = _policy_says(models, batch, config)
    old_BT, mask_BT = part.logprobs_BT, part.mask_BT
    policy = policy_loss(logprobs_BT, old_BT, part.advantages_BT, mask_BT, ppo.clip_range)
    kl = torch.zeros((), device=models.device)
    if part.kl_coef:
        estimator = ESTIMATORS[ppo.kl]
        kl = part.kl_coef * kl_loss(logprobs_BT, old_BT, part.reference_BT, mask_BT, estimator)
    value = torch.zeros((), device=models.device)
    if values_BT is not None:
        value = ppo.value_coef * _value_loss(values_BT, part, config, seen)
    models.policy.backward((policy.loss + kl + value) / tokens)
    seen.add_policy(policy, kl, logprobs_BT, old_BT, mask_BT)


def _accumulate_critic(
    part: Experience,
    batch: TextBatch,
    tokens: float,
    models: Models,
    config: RunConfig,
    seen: Updates,
) -> None:
    """The clipped value loss, if there is a critic."""
    if models.critic is None:
        return
    values_BT = response_values(models.critic, batch)
    models.critic.backward(_value_loss(values_BT, part, config, seen) / tokens)


def _value_loss(values_BT: Tensor, part: Experience, config: RunConfig, seen: Updates) -> Tensor:
    """The clipped loss, summed over tokens."""
    clip = config.ppo.value_clip_range
    value = value_loss(values_BT, part.values_BT, part.returns_BT, part.mask_BT, clip)
    seen.add_value(value)
    return value.loss


def _policy_says(
    models: Models, batch: TextBatch, config: RunConfig
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities, and values where a head on the policy's trunk says them."""
    temperature = config.rollout.temperature
    if config.ppo.has_value_head:
        logprobs_BT, _, values_BT = logprobs_and_values(models.policy, batch, temperature)
        return logprobs_BT, values_BT
    return response_logprobs(models.policy, batch, temperature)[0], None


def _accumulate_ptx(
    texts: Texts, rows: list[int], models: Models, config: RunConfig, seen: Updates
) -> None:
    """The next-token loss of SFT, so that the policy does not unlearn to follow instructions.

    Source: Ouyang et al. 2022 (arXiv:2203.02155), eq. 2.
    """
    tokens = sum(len(texts.responses[row]) for row in rows)
    packed = models.packed
    plan = texts.micro_batches(rows, config.train.micro_batch_tokens, packed=packed)
    for micro_batch in plan[ranks.rank()]:
        batch = (
            texts.pick(micro_batch, models.device, packed=packed)
            if micro_batch
            else empty_batch(models.device)
        )
        loss = -response_logprobs(models.policy, batch, temperature=1.0)[0].sum()
        if not micro_batch:
            loss = 0 * loss
        models.policy.backward(config.ppo.ptx_coef * loss / tokens)
        seen.add_ptx(loss, sum(len(texts.responses[row]) for row in micro_batch))


def mixed_in_tokens(texts: Texts, config: RunConfig, step: int) -> int:
    """Prompts and answers of the instructions that a whole update takes."""
    ppo = config.ppo
    if not ppo.ptx_coef:
        return 0
    count = ppo.epochs * ppo.batch_size
    drawn = [row for _, row in stream(len(texts), config.seed, step * count, count)]
    return sum(len(texts.prompts[row]) + len(texts.responses[row]) for row in drawn)


def _accumulate_nothing(models: Models, config: RunConfig) -> None:
    """Keep in step with the ranks that have a micro-batch: ZeRO reduces during backward."""
    batch = empty_batch(models.device)
    logprobs_BT, values_BT = _policy_says(models, batch, config)
    nothing = logprobs_BT.sum() + (0 if values_BT is None else values_BT.sum())
    models.policy.backward(0 * nothing)
    if models.critic:
        models.critic.backward(0 * response_values(models.critic, batch).sum())
