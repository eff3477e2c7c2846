"""One base under several adapters against models of their own (C11)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from align.policy.adapters import add_adapter, peft_config
from align.policy.config import AdapterConfig
from align.policy.model import TokenScores, freeze
from align.policy.trunk import STACKABLE, Part, ScoresPart, Trunk

TinyModel = Callable[[str], PreTrainedModel]

FAMILIES = ["gpt2", "qwen2"]
IDS = torch.tensor([[5, 6, 7, 8, 9]])
KINDS: dict[str, dict[str, Any]] = {
    "LORA": {"target_modules": "all-linear", "r": 2},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LOHA": {"target_modules": "all-linear", "r": 2},
    "LOKR": {"target_modules": "all-linear", "r": 2},
    "OFT": {"target_modules": "all-linear", "oft_block_size": 4},
}


def adapter(kind: str) -> AdapterConfig:
    return AdapterConfig.model_validate({"type": kind, **KINDS[kind]})


def stir(parameters: Any, seed: int) -> None:
    """As if they had learnt something."""
    noise = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=noise)


def reward_model(tiny_causal: TinyModel, kind: str, family: str) -> Any:
    """A trained adapter with its head on the base of the policy."""
    base = tiny_causal(family)
    base.config.num_labels = 1
    scalar = AutoModelForSequenceClassification.from_config(base.config)
    scalar.load_state_dict(base.state_dict(), strict=False)
    adapted = add_adapter(freeze(scalar), adapter(kind), seed=1)  # type: ignore[arg-type]
    stir((p for p in adapted.parameters() if p.requires_grad), seed=2)
    return adapted


def trunk_of(model: PreTrainedModel, kind: str, *names: str) -> Trunk:
    trunk = Trunk(model, freeze)
    for name in names:
        trunk.add(name, peft_config(adapter(kind), scalar=False), trained=True, seed=3)
    return trunk


def logits(part: Part) -> Tensor:
    found: Tensor = part(input_ids=IDS, use_cache=False).logits
    return found


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "family"), [(kind, "llama") for kind in STACKABLE] + [("LORA", f) for f in FAMILIES]
)
def test_parts_of_one_base_are_models_of_their_own(
    tiny_causal: TinyModel, kind: str, family: str, tmp_path: Path
) -> None:
    """Policy, reference, reward model, and the critic on top of it, whichever was asked before."""
    own_policy = add_adapter(freeze(tiny_causal(family)), adapter(kind), seed=3)  # type: ignore[arg-type]
    stir((p for p in own_policy.parameters() if p.requires_grad), seed=4)
    own_reward = reward_model(tiny_causal, kind, family)
    own_reward.save_pretrained(tmp_path)
    expected_reward = TokenScores(own_reward)(IDS)
    own_critic = add_adapter(own_reward.merge_and_unload(), adapter(kind), seed=3)
    stir((p for n, p in own_critic.named_parameters() if p.requires_grad and "score" not in n), 5)

    trunk = trunk_of(freeze(tiny_causal(family)), kind, "default")  # type: ignore[arg-type]
    head = trunk.load("reward", tmp_path)
    trunk.add("critic", peft_config(adapter(kind), scalar=False), trained=True, seed=3)
    policy = Part(trunk, ("default",), trained=True)
    reference = Part(trunk, (), trained=False)
    reward = ScoresPart(trunk, ("reward",), head, trained=False)
    critic = ScoresPart(trunk, ("critic", "reward"), head, trained=True)
    stir(trunk.parameters_of("default").values(), seed=4)
    stir(trunk.parameters_of("critic").values(), seed=5)
    for _ in range(2):
        assert torch.equal(logits(reference), tiny_causal(family)(input_ids=IDS).logits)
        assert torch.allclose(logits(policy), own_policy(input_ids=IDS).logits, atol=1e-4)
        assert torch.allclose(reward(IDS), expected_reward, atol=1e-4)
        assert torch.allclose(critic(IDS), TokenScores(own_critic)(IDS), atol=1e-3)


def test_training_one_adapter_leaves_the_others_and_the_base_as_they_were(
    tiny_causal: TinyModel,
) -> None:
    trunk = trunk_of(tiny_causal("llama"), "LORA", "default", "critic")
    policy, critic = (Part(trunk, (name,), trained=True) for name in ("default", "critic"))
    stir(critic.parameters(), seed=1)
    before = {name: p.clone() for name, p in trunk.adapted.named_parameters()}
    mine = {name for name, _ in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(3):
        logits(policy).square().mean().backward()
        logits(critic)  # switches adapters between two steps
        optimizer.step()
        optimizer.zero_grad()
    changed = {n for n, p in trunk.adapted.named_parameters() if not torch.equal(p, before[n])}
    assert changed == mine and all("default" in name for name in mine)
    assert all(p.grad is None for p in critic.parameters())


def test_a_part_shows_an_optimiser_what_it_trains_and_nothing_else(tiny_causal: TinyModel) -> None:
    trunk = trunk_of(tiny_causal("llama"), "LORA", "default", "critic")
    critic = ScoresPart(trunk, ("critic",), torch.zeros(1, 32), trained=True)
    names = [name for name, _ in critic.named_parameters()]
    assert names[0] == "head" and all(".critic." in name for name in names[1:])
    assert len([*critic.parameters()]) == len(names) == 1 + 2 * 7 * 2
    assert all(parameter.requires_grad for parameter in critic.parameters())
    frozen = ScoresPart(trunk, ("critic",), torch.zeros(1, 32), trained=False)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == []


def test_activations_computed_again_meet_their_own_adapter(tiny_causal: TinyModel) -> None:
    """With gradient checkpointing, too, though another part was asked before the forward pass."""

    def gradients(*, again: bool) -> list[Tensor]:
        model = tiny_causal("llama")
        trunk = trunk_of(model, "LORA", "default", "critic")
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        policy, critic = (Part(trunk, (name,), trained=True) for name in ("default", "critic"))
        stir(policy.parameters(), seed=1)
        stir(critic.parameters(), seed=2)
        logits(critic)
        logits(policy).square().mean().backward()
        return [p.grad for p in policy.parameters() if p.grad is not None]

    plain, recomputed = gradients(again=False), gradients(again=True)
    assert len(plain) == len(recomputed) > 0
    assert all(map(torch.equal, plain, recomputed))
    assert any(bool(gradient.any()) for gradient in plain)
