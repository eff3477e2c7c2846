"""The models of PPO, and what the loop asks of them over a whole batch of texts.

Shapes: B texts, T response tokens.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine, frozen, gathered, this_device
from align.pipeline.progress import note
from align.pipeline.reward_mix import RewardMix, mix_identities
from align.pipeline.reward_parts import Setting, check_same_tokens
from align.pipeline.run_directory import RunDirectory
from align.pipeline.shared_base import SharedBase
from align.pipeline.texts import Texts, per_text
from align.policy.attention import reads_packed
from align.policy.logprobs import TextBatch, response_logprobs, response_values
from align.policy.model import (
    TokenScores,
    check_context,
    load_causal_lm,
    load_scalar_model,
    load_tokenizer,
)
from align.policy.places import identity_of
from align.policy.value_head import PolicyWithValues, logprobs_and_values


class SeparateModels:
    """Every model with weights of its own, all of which the trained ones train."""

    def __init__(self, model: PreTrainedModel, path: Path, config: RunConfig) -> None:
        self._config, self.train, self._model = config, config.train, model
        self.policy = PolicyWithValues(model) if config.ppo.has_value_head else model
        self.reference = self._frozen(load_causal_lm(path, config.model))

    def critic(self, path: Path) -> TokenScores:
        """A copy of the reward model."""
        return TokenScores(load_scalar_model(path, self._config.model, self._config.seed))

    def reward(self, path: Path) -> Any:
        """A reward model, or a rule classifier, frozen."""
        return self._frozen(self.critic(path))

    def policy_weights(self, *, trained_only: bool) -> Iterator[tuple[str, Tensor]]:
        """Its parameters by name, all of them trained; every rank must exhaust it."""
        for name, parameter in self._model.named_parameters():
            with gathered(parameter):
                yield name, parameter.detach()

    def published(self) -> PreTrainedModel:
        """The policy."""
        return self._model

    def _frozen(self, model: nn.Module) -> Any:
        return frozen(model, self.train, this_device())


class Models:
    """Policy and critic, each under its own optimiser; reference and rewards, frozen.

    Only generalised advantage estimation has a critic, which may be a head of the policy. Texts are
    `packed` where all can read that.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory) -> None:
        policy_path = config.ppo.policy or directory.need("sft")
        reward_path = config.ppo.reward_model or directory.need("rm")
        self.identities = [
            identity_of(policy_path),
            identity_of(reward_path),
            *mix_identities(config, directory),
        ]
        self._temperature = config.rollout.temperature
        self._has_value_head = config.ppo.has_value_head
        self._budget = config.train.micro_batch_tokens
        check_context(policy_path, config.model, config.data.max_length)
        self.tokenizer = load_tokenizer(policy_path, config.model)
        check_same_tokens(self.tokenizer, reward_path, config)
        causal: Any = load_causal_lm(policy_path, config.model)
        self.policy_config = causal.config
        self.parameter_count = causal.num_parameters()
        self.packed = reads_packed(causal)
        parts = (
            SharedBase(causal, policy_path, config)
            if config.model.adapter
            else SeparateModels(causal, policy_path, config)
        )
        updates = config.ppo.steps * config.ppo.epochs * config.ppo.minibatches
        self._parts, train = parts, parts.train
        self.policy = Engine(parts.policy, config.ppo.learning_rate, updates, train)
        self._reference = parts.reference
        self.critic: Engine | None = None
        if config.ppo.has_critic:
            critic = parts.critic(reward_path)
            self.packed &= critic.reads_packed
            self.critic = Engine(critic, config.ppo.critic_learning_rate, updates, train)
        setting = Setting(config, directory, self.tokenizer, parts.reward, self.device)
        self.rewards = RewardMix(setting)

        if not self.packed:
            note("texts are padded: the models' attention does not keep packed ones apart")

    def policy_weights(self, *, trained_only: bool) -> Iterator[tuple[str, Tensor]]:
        """What the rollout workers hold, or what of it changes; every rank must exhaust it."""
        return self._parts.policy_weights(trained_only=trained_only)

    def published_policy(self) -> PreTrainedModel | PeftModel:
        """What the stage publishes; it must be the last thing that is asked."""
        return self._parts.published()

    @property
    def engines(self) -> dict[str, Any]:
        """What a checkpoint keeps, by name."""
        critic = {"critic": self.critic.deepspeed} if self.critic else {}
        return {"policy": self.policy.deepspeed, **critic}

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return self.policy.device

    def logprobs(self, texts: Texts) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the response tokens under the policy, its entropy, and the values
        of its head, (B, T); they are 0 without one."""
        says = logprobs_and_values if self._has_value_head else _logprobs_without_values
        stacked_BT3 = self._per_text(
            lambda batch: torch.stack(
                says(self.policy, batch, self._temperature, with_entropy=True), -1
            ),
            texts,
        )
        logprobs_BT, entropy_BT, values_BT = stacked_BT3.unbind(-1)
        return logprobs_BT, entropy_BT, values_BT

    def reference_logprobs(self, texts: Texts) -> Tensor:
        """Log-probabilities of the response tokens under the reference, (B, T)."""
        return self._per_text(
            lambda batch: response_logprobs(self._reference, batch, self._temperature)[0], texts
        )

    def values(self, texts: Texts) -> Tensor:
        """The value before every response token by a critic of its own, (B, T)."""
        critic = self.critic
        assert critic is not None
        return self._per_text(lambda batch: response_values(critic, batch), texts)

    def _per_text(self, compute: Callable[[TextBatch], Tensor], texts: Texts) -> Tensor:
        return per_text(compute, texts, self._budget, self.device, packed=self.packed)


def _logprobs_without_values(
    policy: Callable[..., Any], batch: TextBatch, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    said = response_logprobs(policy, batch, temperature, with_entropy=with_entropy)
    return *said, torch.zeros_like(said[0])
