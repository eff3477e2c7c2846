"""PPO's models on one base learn what they learn with weights of their own, at every ZeRO stage."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine, frozen
from align.pipeline.export import publish
from align.pipeline.ppo_update import Experience, update
from align.pipeline.shared_base import BASE, SharedBase, trained_on
from align.pipeline.texts import Texts, per_text
from align.policy.adapters import add_adapter
from align.policy.config import ModelConfig
from align.policy.logprobs import response_logprobs, response_values, text_scores
from align.policy.model import TokenScores, load_causal_lm, load_scalar_model
from align.policy.places import identity_of
from align.policy.reward_heads import set_reward_units
from align.policy.rollout import pad_rows

pytestmark = [
    pytest.mark.usefixtures("one_rank", "one_thread"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

TinyModel = Callable[[str], PreTrainedModel]
CPU = torch.device("cpu")
BUDGET = 10**6
TEXTS = Texts(
    [[5, 6, 7 + row][: 1 + row % 3] for row in range(6)], [[9, 20 + row, 3] for row in range(6)]
)


def config_with(**train: Any) -> RunConfig:
    plain = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-2, "critic_learning_rate": 1e-2}
    return RunConfig.model_validate(
        {
            "name": "x",
            "model": {"lora": {"r": 2, "alpha": 4}},
            "train": {"schedule": "constant", **train},
            "ppo": plain,
        }
    )


@pytest.fixture
def folders(
    tiny_causal: TinyModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> tuple[Path, Path]:
    """An SFT model, and a reward model that was trained as an adapter on it."""
    sft, rm = tmp_path / "sft", tmp_path / "rm"
    tiny_causal("llama").save_pretrained(sft)
    model = load_scalar_model(sft, ModelConfig(), seed=1)
    set_reward_units(model, shift=0.3, scale=1.7)
    adapter = config_with().model.adapter
    assert adapter is not None
    adapted = add_adapter(model, adapter, seed=1)
    noise = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    publish(adapted, tokenizer, config_with(), "rm", rm)
    return sft, rm


def shared(sft: Path, rm: Path, config: RunConfig) -> Any:
    base = SharedBase(load_causal_lm(sft, config.model), sft, config)
    return SimpleNamespace(
        policy=Engine(base.policy, 1e-2, 100, base.train),
        critic=Engine(base.critic(rm), 1e-2, 100, base.train),
        reference=base.reference,
        reward=base.reward(rm),
        device=CPU,
        packed=True,
        base=base,
    )


def separate(sft: Path, rm: Path, config: RunConfig) -> Any:
    """Four models in memory."""
    adapter = config.model.adapter
    assert adapter is not None
    policy = add_adapter(load_causal_lm(sft, config.model), adapter, config.seed)
    critic = add_adapter(load_scalar_model(rm, config.model, 0), adapter, config.seed)
    return SimpleNamespace(
        policy=Engine(policy, 1e-2, 100, config.train),
        critic=Engine(TokenScores(critic), 1e-2, 100, config.train),
        reference=frozen(load_causal_lm(sft, config.model), config.train, CPU),
        reward=frozen(TokenScores(load_scalar_model(rm, config.model, 0)), config.train, CPU),
        device=CPU,
        packed=True,
    )


def seen(models: Any) -> dict[str, Tensor]:
    """What each of the four says of the texts."""
    asked: dict[str, Callable[[Any], Tensor]] = {
        "policy": lambda batch: response_logprobs(models.policy, batch, 1.0)[0],
        "reference": lambda batch: response_logprobs(models.reference, batch, 1.0)[0],
        "values": lambda batch: response_values(models.critic, batch),
        "reward": lambda batch: text_scores(models.reward, batch),
    }
    return {
        name: per_text(compute, TEXTS, BUDGET, CPU, packed=True) for name, compute in asked.items()
    }


def two_steps(models: Any, config: RunConfig) -> dict[str, Tensor]:
    mask_BT = pad_rows([[1.0] * 3] * 6)
    for step in range(2):
        said = seen(models)
        experience = Experience(
            texts=TEXTS,
            mask_BT=mask_BT,
            logprobs_BT=said["policy"],
            reference_BT=said["reference"],
            values_BT=said["values"],
            advantages_BT=said["reward"][:, None] * mask_BT,
            returns_BT=said["reward"][:, None] * mask_BT,
            kl_coef=0.0,
        )
        update(experience, models, config, step, Texts([], []))
    return seen(models)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_parts_of_one_base_learn_what_four_models_learn(
    folders: tuple[Path, Path], zero_stage: int
) -> None:
    config = config_with(zero_stage=zero_stage)
    ours, theirs = shared(*folders, config), separate(*folders, config_with())
    before, expected_before = seen(ours), seen(theirs)
    found, expected = two_steps(ours, config), two_steps(theirs, config_with())
    for name, tensor in expected.items():
        assert torch.allclose(before[name], expected_before[name], atol=1e-4), name
        assert torch.allclose(found[name], tensor, atol=2e-3), name
    assert torch.equal(found["reference"], before["reference"])
    assert torch.equal(found["reward"], before["reward"])
    for name in ("policy", "values"):
        assert not torch.allclose(found[name], before[name], atol=2e-2), name


@pytest.mark.parametrize(
    "train", [{"precision": "bf16"}, {"gradient_checkpointing": True}], ids=str
)
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_other_settings_learn_likewise(
    folders: tuple[Path, Path], zero_stage: int, train: dict[str, Any]
) -> None:
    config = config_with(zero_stage=zero_stage, **train)
    found = two_steps(shared(*folders, config), config)
    expected = two_steps(separate(*folders, config_with()), config_with())
    tolerance = 0.5 if "precision" in train else 2e-3
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=tolerance), name


def test_the_base_is_there_once(folders: tuple[Path, Path]) -> None:
    models = shared(*folders, config_with())
    one_model = sum(p.numel() for p in load_causal_lm(folders[0], ModelConfig()).parameters())
    weights = {
        storage.data_ptr(): storage.nbytes()
        for part in (models.base._trunk.adapted, models.policy.module, models.critic.module)
        for storage in (p.untyped_storage() for p in part.parameters())
    }
    assert sum(weights.values()) < 1.5 * 4 * one_model
    assert models.reward.trunk is models.critic.module.trunk is models.policy.module.trunk


def test_a_reward_model_of_another_base_is_that_of_the_critic(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    sft, rm = folders
    other = tmp_path / "other"
    shutil.copytree(rm, other)
    shutil.rmtree(other / "adapter")
    config = config_with()
    ours, theirs = shared(sft, other, config), separate(sft, other, config)
    assert ours.reward.trunk is ours.critic.module.trunk is not ours.policy.module.trunk
    found, expected = two_steps(ours, config), two_steps(theirs, config)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=2e-3), name


def test_an_adapter_knows_its_base(folders: tuple[Path, Path], tmp_path: Path) -> None:
    sft, rm = folders
    adapter, identity = config_with().model.adapter, identity_of(sft)
    assert adapter is not None
    assert trained_on(rm / "adapter", identity, adapter)
    assert not trained_on(rm / "adapter", identity_of(rm), adapter)
    loha = ModelConfig.model_validate({"peft": {"type": "LOHA"}}).adapter
    dora = ModelConfig.model_validate({"peft": {"type": "LORA", "use_dora": True}}).adapter
    assert loha and not trained_on(rm / "adapter", identity, loha)
    assert dora and not trained_on(rm / "adapter", identity, dora)
    (rm / "adapter" / BASE).unlink()
    assert not trained_on(rm / "adapter", identity, adapter)


@torch.no_grad()
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_what_is_published_is_the_policy_alone(
    folders: tuple[Path, Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, zero_stage: int
) -> None:
    config = config_with(zero_stage=zero_stage)
    models = shared(*folders, config)
    with torch.enable_grad():
        expected = two_steps(models, config)["policy"]
    publish(models.base.published(), tokenizer, config, "ppo", tmp_path / "ppo")
    merged = load_causal_lm(tmp_path / "ppo", ModelConfig())
    found = per_text(lambda batch: response_logprobs(merged, batch, 1.0)[0], TEXTS, BUDGET, CPU)
    assert torch.allclose(found, expected, atol=1e-3)
    assert trained_on(tmp_path / "ppo" / "adapter", identity_of(folders[0]), config.model.adapter)  # type: ignore[arg-type]


def test_offloaded_weights_leave_the_optimiser_of_adapters_sharded() -> None:
    train = config_with(zero_stage=3, offload="all").train.of_adapters
    assert (train.zero_stage, train.offload) == (2, "optimizer")
    assert config_with(zero_stage=1).train.of_adapters.zero_stage == 1
