"""The update of policy and critic, for real: DeepSpeed engines, small models, one step."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.ppo_update import Experience, update
from align.pipeline.texts import Texts, per_text
from align.policy.advantage import gae, whiten
from align.policy.kl import shaped_rewards
from align.policy.logprobs import response_logprobs, response_values
from align.policy.model import TokenScores
from align.policy.rollout import pad_rows
from align.policy.value_head import PolicyWithValues

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

Tiny = Callable[[str], PreTrainedModel]
CPU = torch.device("cpu")
BUDGET = 10**6
NOTHING = Texts([], [])


def config_with(train: Any = None, **ppo: Any) -> RunConfig:
    plain = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    return RunConfig.model_validate(
        {
            "name": "x",
            "train": {"schedule": "constant", **(train or {})},
            "rollout": {"temperature": 0.7},
            "ppo": plain | ppo,
        }
    )


def texts(count: int, seed: int = 0) -> Texts:
    """Prompts of 1 to 9 tokens, answers of 1 to 7."""
    generator = np.random.default_rng(seed)

    def ids(longest: int) -> list[int]:
        return [int(i) for i in generator.integers(3, 300, generator.integers(1, longest + 1))]

    return Texts([ids(9) for _ in range(count)], [ids(7) for _ in range(count)])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small models work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Small:
    """What `update` needs of the models of PPO."""

    def __init__(
        self,
        config: RunConfig,
        causal: Tiny,
        scalar: Tiny,
        *,
        critic: bool = True,
        packed: bool = True,
    ):
        self.packed = packed
        values = config.ppo.has_value_head
        policy = PolicyWithValues(causal("llama")) if values else causal("llama")
        self.policy = Engine(policy, config.ppo.learning_rate, 100, config.train)
        rate = config.ppo.critic_learning_rate
        self.critic = (
            Engine(TokenScores(scalar("llama")), rate, 100, config.train) if critic else None
        )
        self.device = CPU

    def weights(self) -> Tensor:
        engines = [engine for engine in (self.policy, self.critic) if engine]
        return torch.cat(
            [p.flatten().clone() for e in engines for _, p in e.parameters(trainable_only=True)]
        )


def experience_of(models: Any, config: RunConfig, kl_in_loss: float = 0.0) -> Experience:
    """Random answers, scored at random, as a step of PPO sees them."""
    answers, temperature = texts(12), config.rollout.temperature
    mask = pad_rows([[1.0] * len(ids) for ids in answers.responses])
    logprobs = per_text(
        lambda batch: response_logprobs(models.policy, batch, temperature)[0], answers, BUDGET, CPU
    )
    noise = torch.Generator().manual_seed(0)
    reference = (logprobs + 0.1 * torch.randn(mask.shape, generator=noise)) * mask
    values = (
        per_text(lambda batch: response_values(models.critic, batch), answers, BUDGET, CPU)
        if models.critic
        else torch.zeros_like(mask)
    )
    scores = torch.randn(12, generator=noise)
    rewards = shaped_rewards(scores, logprobs - reference, mask, 0.05)
    advantages, returns = gae(rewards, values, mask, 1.0, 0.95)
    return Experience(
        texts=answers,
        mask_BT=mask,
        logprobs_BT=logprobs,
        reference_BT=reference,
        values_BT=values,
        advantages_BT=whiten(advantages, mask),
        returns_BT=returns,
        kl_coef=kl_in_loss,
    )


def test_in_the_first_pass_nothing_has_moved(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    """trl#454: ratio 1, no divergence, nothing clipped, and a policy loss of 0 on the whole."""
    config = config_with()
    models: Any = Small(config, tiny_causal, tiny_scalar)
    metrics = update(experience_of(models, config), models, config, 0, NOTHING)
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["policy/approxkl"] == pytest.approx(0, abs=1e-9)
    assert metrics["policy/clipfrac"] == 0 and metrics["val/clipfrac"] == 0
    assert metrics["loss/policy"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_a_policy_that_is_not_the_one_that_sampled_stops_before_it_learns(
    tiny_causal: Tiny, tiny_scalar: Tiny, wrong: float
) -> None:
    config = config_with()
    models: Any = Small(config, tiny_causal, tiny_scalar)
    clean, before = experience_of(models, config), models.weights()
    logprobs = clean.logprobs_BT.clone()
    logprobs[7, 0] += wrong
    with pytest.raises(UserError, match="step 3: before its update the policy gives"):
        update(dataclasses.replace(clean, logprobs_BT=logprobs), models, config, 2, NOTHING)
    assert torch.equal(models.weights(), before)


def test_in_later_passes_the_policy_has_moved(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    config = config_with(epochs=3)
    models: Any = Small(config, tiny_causal, tiny_scalar)
    metrics = update(experience_of(models, config), models, config, 0, NOTHING)
    assert metrics["policy/approxkl"] > 1e-4 and metrics["val/ratio"] != 1


@pytest.mark.parametrize("critic", ["reward_model", "trunk"])
@pytest.mark.parametrize(("budget", "zero_stage"), [(32, 0), (200, 0), (60, 1), (60, 2), (60, 3)])
def test_micro_batches_change_no_gradient(
    tiny_causal: Tiny, tiny_scalar: Tiny, budget: int, zero_stage: int, critic: str
) -> None:
    """Two minibatches, KL in the loss and instructions mixed in; weights agree to 1e-6."""

    def trained(micro_batch_tokens: int, zero: int) -> tuple[dict[str, float], Tensor]:
        config = config_with(
            {"micro_batch_tokens": 512, "zero_stage": zero},
            minibatches=2,
            kl="k2",
            kl_in="loss",
            ptx_coef=0.5,
            critic=critic,
        )
        smaller = config.train.model_copy(update={"micro_batch_tokens": micro_batch_tokens})
        config = config.model_copy(update={"train": smaller})
        models: Any = Small(config, tiny_causal, tiny_scalar, critic=critic != "trunk")
        seen = update(experience_of(models, config, 0.3), models, config, 0, texts(20, seed=1))
        return seen, models.weights()

    metrics, weights = trained(BUDGET, 0)
    found_metrics, found = trained(budget, zero_stage)
    assert found_metrics == pytest.approx(metrics, abs=1e-5, rel=1e-4)
    # Adam divides a gradient by its own size, which lifts rounding where a gradient is nearly 0.
    assert float((found - weights).abs().mean()) < 1e-7
    assert float((found - weights).abs().max()) < 2e-4


def test_packed_texts_train_like_padded_ones(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    """Policy, critic and instructions mixed in; in micro-batches of a few texts."""

    def trained(packed: bool) -> tuple[dict[str, float], Tensor]:
        config = config_with({"micro_batch_tokens": 512}, minibatches=2, ptx_coef=0.5)
        small = config.train.model_copy(update={"micro_batch_tokens": 60})
        config = config.model_copy(update={"train": small})
        models: Any = Small(config, tiny_causal, tiny_scalar, packed=packed)
        seen = update(experience_of(models, config), models, config, 0, texts(20, seed=1))
        return seen, models.weights()

    padded_metrics, padded = trained(packed=False)
    metrics, weights = trained(packed=True)
    assert metrics == pytest.approx(padded_metrics, abs=1e-5, rel=1e-4)
    assert float((weights - padded).abs().mean()) < 1e-7


def test_a_bound_on_the_divergence_ends_an_update(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    """With a bound that every second pass breaks, four passes are as good as two."""

    def trained(**ppo: Any) -> Tensor:
        config = config_with(**ppo)
        models: Any = Small(config, tiny_causal, tiny_scalar)
        update(experience_of(models, config), models, config, 0, NOTHING)
        weights: Tensor = models.weights()
        return weights

    stopped = trained(epochs=4, update_kl_stop=1e-7)
    assert torch.equal(stopped, trained(epochs=2))
    assert not torch.equal(trained(epochs=4, update_kl_stop=1e3), stopped)


def test_without_a_critic_the_policy_learns_alone(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    config = config_with(advantage="reinforce++")
    models: Any = Small(config, tiny_causal, tiny_scalar, critic=False)
    before = models.weights()
    metrics = update(experience_of(models, config), models, config, 0, NOTHING)
    assert metrics["loss/value"] == 0 and not torch.equal(before, models.weights())


def test_a_head_on_the_trunk_learns_with_its_weight_in_the_loss(tiny_causal: Tiny) -> None:
    config = config_with(critic="trunk", value_coef=0.3, epochs=6)
    models: Any = Small(config, tiny_causal, tiny_causal, critic=False)
    experience = experience_of(models, config)
    first = update(experience, models, config, 0, NOTHING)
    assert first["loss"] == pytest.approx(first["loss/policy"] + 0.3 * first["loss/value"])
    again = update(experience_of(models, config), models, config, 1, NOTHING)
    assert 0 < again["loss/value"] < first["loss/value"]


def test_the_loss_on_instructions_is_that_of_sft(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    """The first 12 of their stream, at temperature 1, over their own tokens."""
    config = config_with(ptx_coef=2.0)
    models: Any = Small(config, tiny_causal, tiny_scalar)
    experience, instructions = experience_of(models, config), texts(12, seed=2)
    expected = per_text(
        lambda batch: response_logprobs(models.policy, batch, 1.0)[0], instructions, BUDGET, CPU
    )
    tokens = sum(map(len, instructions.responses))
    metrics = update(experience, models, config, 0, instructions)
    assert metrics["loss/ptx"] == pytest.approx(-float(expected.sum()) / tokens, rel=1e-5)
    parts = metrics["loss/policy"] + metrics["loss/value"] + 2 * metrics["loss/ptx"]
    assert metrics["loss"] == pytest.approx(parts)


def test_instructions_mixed_in_are_learnt(tiny_causal: Tiny, tiny_scalar: Tiny) -> None:
    """Among answers that teach nothing, so that only the instructions do."""
    instructions = texts(6, seed=3)
    config = config_with(ptx_coef=1.0, epochs=10)
    models: Any = Small(config, tiny_causal, tiny_scalar, critic=False)
    losses = []
    for step in range(3):
        experience = experience_of(models, config)
        nothing = dataclasses.replace(experience, advantages_BT=0 * experience.mask_BT)
        losses.append(update(nothing, models, config, step, instructions)["loss/ptx"])
    assert losses[-1] < 0.8 * losses[0]


def test_what_lies_behind_an_answer_and_on_its_prompt_gets_no_gradient(
    tiny_causal: Tiny,
) -> None:
    """B21: noise in every tensor of the experience outside of the answers changes no weight."""
    config = config_with(kl="k3", kl_in="loss", advantage="reinforce++")

    def trained(noise: float) -> Tensor:
        models: Any = Small(config, tiny_causal, tiny_causal, critic=False)
        clean = experience_of(models, config, 0.1)
        dirty = {
            name: getattr(clean, name) + noise * (1 - clean.mask_BT)
            for name in ("advantages_BT", "logprobs_BT", "reference_BT")
        }
        update(dataclasses.replace(clean, **dirty), models, config, 0, NOTHING)
        weights: Tensor = models.weights()
        return weights

    assert torch.equal(trained(0.0), trained(3.0))
