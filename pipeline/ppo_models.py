"""The models of PPO, and what the loop asks of them over a whole batch of texts.

Shapes: B texts, T response tokens.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine, frozen
from align.pipeline.progress import note
from align.pipeline.reward_mix import RewardMix, mix_identities
from align.pipeline.reward_parts import Setting, check_same_tokens
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts, per_text
from align.policy.adapters import add_adapter
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


class Models:
    """Policy and critic, each under its own optimiser; reference and rewards, frozen.

    Only generalised advantage estimation has a critic. Texts are `packed` where all can read that.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory) -> None:
        policy_path = config.ppo.policy or directory.need("sft")
        reward_path = config.ppo.reward_model or directory.need("rm")
        adapter, train = config.model.adapter, config.train
        self.identities = [
            identity_of(policy_path),
            identity_of(reward_path),
            *mix_identities(config, directory),
        ]
        self._temperature = config.rollout.temperature
        self._budget = train.micro_batch_tokens
        check_context(policy_path, config.model, config.data.max_length)
        self.tokenizer = load_tokenizer(policy_path, config.model)
        check_same_tokens(self.tokenizer, reward_path, config)
        causal: Any = load_causal_lm(policy_path, config.model)
        self.policy_config = causal.config
        self.parameter_count = causal.num_parameters()
        self.packed = reads_packed(causal)
        self.policy_model = add_adapter(causal, adapter, config.seed) if adapter else causal
        updates = config.ppo.steps * config.ppo.epochs * config.ppo.minibatches
        self.policy = Engine(self.policy_model, config.ppo.learning_rate, updates, train)
        self.critic: Engine | None = None
        if config.ppo.advantage == "gae":
            critic: Any = load_scalar_model(reward_path, config.model, config.seed)
            critic = TokenScores(add_adapter(critic, adapter, config.seed) if adapter else critic)
            self.packed &= critic.reads_packed
            self.critic = Engine(critic, config.ppo.critic_learning_rate, updates, train)

        if not self.packed:
            note("texts are padded: the models' attention does not keep packed ones apart")

        def load(path: Path) -> Any:
            reward = TokenScores(load_scalar_model(path, config.model, config.seed))
            return frozen(reward, train, self.device)

        self.rewards = RewardMix(Setting(config, directory, self.tokenizer, load, self.device))
        # With adapters the policy without its adapters is the reference: one copy of the weights.
        self._reference = (
            self.policy
            if adapter
            else frozen(load_causal_lm(policy_path, config.model), train, self.device)
        )

    @property
    def engines(self) -> dict[str, Any]:
        """What a checkpoint keeps, by name."""
        critic = {"critic": self.critic.deepspeed} if self.critic else {}
        return {"policy": self.policy.deepspeed, **critic}

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return self.policy.device

    def logprobs(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens under the policy, and its entropy, (B, T)."""
        stacked_BT2 = self._per_text(
            lambda batch: torch.stack(
                response_logprobs(self.policy, batch, self._temperature, with_entropy=True), -1
            ),
            texts,
        )
        return stacked_BT2[..., 0], stacked_BT2[..., 1]

    def reference_logprobs(self, texts: Texts) -> Tensor:
        """Log-probabilities of the response tokens under the reference, (B, T)."""
        is_adapter = isinstance(self.policy_model, PeftModel)
        with self.policy_model.disable_adapter() if is_adapter else nullcontext():
            return self._per_text(
                lambda batch: response_logprobs(self._reference, batch, self._temperature)[0], texts
            )

    def values(self, texts: Texts) -> Tensor:
        """The critic's value before every response token, (B, T); 0 without a critic."""
        critic = self.critic
        if critic is None:
            return torch.zeros(len(texts), max(map(len, texts.responses)))
        return self._per_text(lambda batch: response_values(critic, batch), texts)

    def _per_text(self, compute: Callable[[TextBatch], Tensor], texts: Texts) -> Tensor:
        return per_text(compute, texts, self._budget, self.device, packed=self.packed)
