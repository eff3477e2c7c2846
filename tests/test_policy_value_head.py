"""Log-probabilities and values by one forward pass are those of two."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.policy.adapters import peft_config
from align.policy.config import LoRAConfig, PPOConfig
from align.policy.logprobs import response_logprobs, response_values, text_batch
from align.policy.model import TokenScores, freeze
from align.policy.trunk import Trunk, ValuesPart
from align.policy.value_head import PolicyWithValues, logprobs_and_values

TinyModel = Callable[[str], PreTrainedModel]

CPU = torch.device("cpu")
BATCH = text_batch([[5, 6, 7], [8]], [[9, 10], [11, 12, 13]], CPU)


def said(policy: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return logprobs_and_values(policy, BATCH, 0.7, with_entropy=True)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_one_pass_says_what_two_say(tiny_causal: TinyModel, family: str) -> None:
    policy = PolicyWithValues(tiny_causal(family))
    assert not said(policy)[2].any()  # before it has learnt anything
    policy.head.normal_(generator=torch.Generator().manual_seed(0))
    logprobs_BT, entropy_BT, values_BT = said(policy)
    plain = response_logprobs(tiny_causal(family), BATCH, 0.7, with_entropy=True)
    assert torch.equal(logprobs_BT, plain[0]) and torch.equal(entropy_BT, plain[1])

    def critic(ids_BL: Tensor) -> Tensor:
        hidden_BLD: Tensor = tiny_causal(family).base_model(input_ids=ids_BL).last_hidden_state
        return (hidden_BLD @ policy.head.T).squeeze(-1)

    assert torch.allclose(values_BT, response_values(critic, BATCH), atol=1e-5)


def test_it_is_one_pass(tiny_causal: TinyModel) -> None:
    policy = PolicyWithValues(tiny_causal("llama"))
    passes: list[int] = []
    policy.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    said(policy)
    assert passes == [1]


def test_adapters_have_the_head_beside_them(tiny_causal: TinyModel) -> None:
    trunk = Trunk(freeze(tiny_causal("llama")), freeze)  # type: ignore[arg-type]
    config = peft_config(LoRAConfig(r=2).in_full, scalar=False)
    trunk.add("default", config, trained=True)
    policy = ValuesPart(trunk, ("default",))
    logprobs_BT, _, values_BT = said(policy)
    ((logprobs_BT + values_BT) * BATCH.mask_BT).sum().backward()
    moved = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert "head" in moved and any("lora_B" in name for name in moved)
    assert all(p.grad is None for n, p in trunk.adapted.named_parameters() if "lora" not in n)


def test_the_values_are_those_of_a_scalar_model_with_that_head(
    tiny_causal: TinyModel, tiny_scalar: TinyModel
) -> None:
    scalar = tiny_scalar("llama")
    policy = PolicyWithValues(tiny_causal("llama"))
    policy.model.base_model.load_state_dict(scalar.base_model.state_dict())
    policy.head.data = scalar.get_submodule("score").weight.data  # type: ignore[assignment]
    expected = response_values(TokenScores(scalar), BATCH)
    assert torch.allclose(said(policy)[2], expected, atol=1e-5)


def test_without_values_to_learn_there_is_no_head() -> None:
    assert not PPOConfig().has_value_head and PPOConfig().has_critic
    assert PPOConfig(critic="trunk").has_value_head and not PPOConfig(critic="trunk").has_critic
    assert not PPOConfig(advantage="reinforce++").has_critic
    with pytest.raises(ValueError, match=r"ppo\.critic: trunk goes with ppo\.advantage gae"):
        PPOConfig(critic="trunk", advantage="reinforce++")
