"""What the user says about language models, sampling and PPO. No torch here."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from align.data.config import Section

Attention = Literal["sdpa", "eager", "flash_attention_2"]
KLEstimator = Literal["k1", "k2", "k3"]
Critic = Literal["reward_model", "trunk"]
AdvantageEstimator = Literal["gae", "grpo", "rloo", "reinforce++"]


class LoRAConfig(Section):
    """Low-rank adapters (Hu et al. 2021): W = W0 + (alpha / r) B A, W0 frozen."""

    r: int = Field(default=16, gt=0)
    """Rank of the update."""
    alpha: int = Field(default=32, gt=0)
    """The update is scaled by alpha / r."""
    dropout: Literal[0] = 0
    """Dropout would make the first PPO ratio differ from 1."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters; `all-linear` leaves out only the output layer."""

    @model_validator(mode="after")
    def _adapts_something(self) -> "LoRAConfig":
        if not self.target_modules:
            raise ValueError("model.lora.target_modules: is empty; name layers, or `all-linear`")
        return self

    @property
    def in_full(self) -> "AdapterConfig":
        """The same in the words of peft."""
        modules = self.target_modules
        return AdapterConfig.model_validate(
            {
                "type": "LORA",
                "r": self.r,
                "lora_alpha": self.alpha,
                "target_modules": modules if isinstance(modules, str) else list(modules),
            }
        )


class AdapterConfig(Section):
    """Adapters by any method of `peft`: its `type`, and beside it the fields of its config class.

    peft checks the fields when a stage starts. A method must leave the base as it is, start as the
    base, and merge into it: prompts before the text do not, and are refused.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    """As `peft.PeftType` has it: `LORA`, `IA3`, `LOHA`, `LOKR`, `OFT`, `BOFT`, `VERA`, ..."""

    @property
    def options(self) -> dict[str, Any]:
        """All but the type."""
        return dict(self.model_extra or {})


class ModelConfig(Section):
    """The base language model."""

    path: str = "embedded"
    """`embedded` (ships with align), a folder, a hub id, or `package:NAME` for a model that an
    installed Python package carries."""
    gguf_file: str | None = None
    """File inside `path`, when the weights are GGUF."""
    chat_template: Path | None = None
    """A Jinja file, for a tokenizer that brings no chat template."""
    lora: LoRAConfig | None = None
    """Train adapters on a frozen base instead of all weights, in every stage."""
    peft: AdapterConfig | None = None
    """The same by another method than LoRA, or with more of LoRA's settings."""
    attention: Attention = "sdpa"
    """`flash_attention_2` needs a GPU and its package."""

    @model_validator(mode="after")
    def _one_kind_of_adapter(self) -> "ModelConfig":
        if self.lora and self.peft:
            raise ValueError("model.peft: does not go with model.lora, its short form: drop one")
        return self

    @property
    def adapter(self) -> AdapterConfig | None:
        """What trains instead of all weights, if anything."""
        return self.lora.in_full if self.lora else self.peft


class EvaluationConfig(Section):
    """How answers to held-out prompts are sampled, where otherwise than in training."""

    temperature: float | None = Field(default=None, gt=0)
    """That of `rollout`, if not given."""
    top_k: int | None = Field(default=None, gt=0)
    """Sample among so many of the likeliest tokens; 1 always takes the likeliest."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Sample among the fewest tokens that hold this much probability."""
    min_new_tokens: int = Field(default=0, ge=0)
    """Tokens before which no answer ends."""


class RolloutConfig(Section):
    """How answers are sampled during PPO."""

    REFUSED: ClassVar[dict[str, str]] = {
        name: "PPO would score another distribution than the one it sampled from; for held-out "
        f"prompts set evaluation.{name}"
        for name in ("top_k", "top_p", "min_new_tokens")
    }

    engine: Literal["own", "vllm"] = "own"
    """`vllm` is faster on GPUs, needs the extra of that name, and promises no bits."""
    workers: int = Field(default=2, gt=0)
    """Ray actors that sample."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs, on CPUs processes, over which vLLM shards the model of each worker."""
    temperature: float = Field(default=1.0, gt=0)
    """Also divides the logits wherever log-probabilities are computed."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Tokens of an answer, after which it is cut off."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, as EOS does; they stay part of it."""
    rows_per_unit: int = Field(default=16, gt=0)
    """Answers decoded together; the unit of work handed to a worker."""
    unit_minutes: float = Field(default=10.0, gt=0)
    """A worker that takes longer over a unit hangs: it is ended, and another draws the unit."""

    @model_validator(mode="after")
    def _engines_can_what_is_asked(self) -> "RolloutConfig":
        if self.engine == "own" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"rollout.tensor_parallel_size ({self.tensor_parallel_size}) needs rollout.engine "
                "vllm: a worker of our own has its model whole"
            )
        if self.engine == "vllm" and self.stop:
            raise ValueError(
                "rollout.stop needs rollout.engine own: vLLM works on token ids and sees no text"
            )
        return self


class PPOConfig(Section):
    """Proximal policy optimisation with a KL penalty."""

    steps: int = Field(default=100, gt=0)
    """Batches of answers to sample and learn from."""
    batch_size: int = Field(default=64, gt=0)
    """Answers sampled per step, over all ranks."""
    samples_per_prompt: int = Field(default=1, gt=0)
    """Answers to each prompt of a batch."""
    epochs: int = Field(default=4, gt=0)
    """Passes over each batch."""
    minibatches: int = Field(default=1, gt=0)
    """Optimiser steps per pass."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the critic."""
    kl_coef: float = Field(default=0.05, ge=0)
    """Reward lost per nat of drift from the reference."""
    kl: KLEstimator = "k1"
    """How a token's drift is estimated: k1 is exact in the reward, k2 in the loss."""
    kl_in: Literal["reward", "loss"] = "reward"
    """In the reward a token also answers for the drift of those after it, in the loss only for
    its own."""
    kl_target: float | None = Field(default=None, gt=0)
    """Nats per answer that `kl_coef` is adapted to keep; without it `kl_coef` stays."""
    kl_horizon: int = Field(default=10_000, gt=0)
    """Answers over which the adaptation works: larger is slower."""
    kl_limit: float | None = Field(default=None, gt=0)
    """Nats per answer from the reference, past which the run stops."""
    update_kl_stop: float | None = Field(default=None, gt=0)
    """Nats per token from the policy that sampled, past which the rest of an update is left out."""
    clip_range: float = Field(default=0.2, gt=0, lt=1)
    """How far the probability ratio may leave 1 before its gradient stops."""
    importance_cap: float | None = Field(default=None, ge=1)
    """Weigh tokens by the trainer's over the sampler's probability, at most this: for samplers
    that round otherwise or hold older weights."""
    value_clip_range: float = Field(default=0.2, gt=0)
    """How far a value may move from its estimate at sampling time, in units of reward."""
    advantage: AdvantageEstimator = "gae"
    """`gae` trains a critic. The others train none: grpo and rloo compare the answers to a prompt,
    reinforce++ compares those of the batch."""
    critic: Critic = "reward_model"
    """Of `gae`: a model of its own that starts from the reward model, or a head on the trunk of the
    policy, which costs no pass of its own and learns with the policy's optimiser."""
    value_coef: float = Field(default=0.1, gt=0)
    """Weight of the loss of a critic on the trunk in the loss of the policy."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Of the advantage estimate (Schulman et al. 2016): 0 trusts the critic, 1 the returns."""
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of an answer that was cut off."""
    scale_scores: bool = False
    """Divide scores by the standard deviation of all scores so far."""
    score_clip: float | None = Field(default=None, gt=0)
    """Largest absolute score, after scaling and before the penalty."""
    whiten_rewards: bool = False
    """Divide rewards per token, KL penalty included, by their standard deviation in the batch."""
    ptx_coef: float = Field(default=0.0, ge=0)
    """Weight of the loss on `data.instructions`, mixed into every update (Ouyang et al. 2022)."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Publish the average of the weights over the steps that forgets at this rate, such as 0.9."""
    eval_prompts: int = Field(default=200, gt=0)
    """Held-out prompts answered at each evaluation, at most."""
    policy: Path | None = None
    """Start from this model instead of the run's `sft/final`."""
    reward_model: Path | None = None
    """Use this reward model instead of the run's `rm/final`."""

    @model_validator(mode="after")
    def _minibatches_divide_the_batch(self) -> "PPOConfig":
        if self.batch_size % self.minibatches:
            raise ValueError(
                f"ppo.batch_size ({self.batch_size}) must be a multiple of "
                f"ppo.minibatches ({self.minibatches})"
            )
        return self

    @model_validator(mode="after")
    def _compares_answers_where_it_must(self) -> "PPOConfig":
        samples = self.samples_per_prompt
        if self.batch_size % samples:
            raise ValueError(
                f"ppo.batch_size ({self.batch_size}) must be a multiple of "
                f"ppo.samples_per_prompt ({samples})"
            )
        if self.advantage in ("grpo", "rloo") and samples == 1:
            raise ValueError(
                f"ppo.advantage: {self.advantage} compares answers to one prompt: set "
                "ppo.samples_per_prompt to 2 or more"
            )
        return self

    @property
    def has_critic(self) -> bool:
        """A critic of its own, with its own optimiser."""
        return self.advantage == "gae" and self.critic == "reward_model"

    @property
    def has_value_head(self) -> bool:
        """A critic on the trunk of the policy."""
        return self.advantage == "gae" and self.critic == "trunk"

    @model_validator(mode="after")
    def _has_a_use_for_its_critic(self) -> "PPOConfig":
        if self.critic == "trunk" and self.advantage != "gae":
            raise ValueError(
                f"ppo.critic: trunk goes with ppo.advantage gae; {self.advantage} has no critic"
            )
        return self

    @model_validator(mode="after")
    def _pays_for_drift_where_it_counts(self) -> "PPOConfig":
        if self.kl == "k1" and self.kl_in == "loss":
            raise ValueError(
                "ppo.kl_in: loss needs ppo.kl k2 or k3: the gradient of k1 is 0 on average"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError(
                f"ppo.kl_target ({self.kl_target}) multiplies ppo.kl_coef, so that must not be 0"
            )
        return self
