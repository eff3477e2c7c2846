"""What the vLLM engine does without vLLM: fingerprints, seeds, sizes."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from align.data.errors import UserError
from align.policy.config import AdapterConfig, LoRAConfig
from align.policy.vllm_engine import (
    VLLMSettings,
    fingerprint_of,
    key_value_bytes,
    seed_of,
    started,
)
from align.policy.vllm_weights import fingerprint
from align.policy.whole_weights import layout_of

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 2}
TIED_LLAMA = LlamaConfig(**SIZES, intermediate_size=24, tie_word_embeddings=True)
LLAMA = LlamaConfig(**SIZES, intermediate_size=24, tie_word_embeddings=False)
GPT2 = GPT2Config(**SIZES)
LORA = LoRAConfig(r=3, alpha=6).in_full


def test_a_fingerprint_is_blind_to_layout_and_to_nothing_else() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    parts = sum(map(fingerprint, weight.split(2))) % 2**64
    assert fingerprint(weight) == fingerprint(weight.T) == parts
    padded = torch.cat([weight, torch.zeros(2, 4), -torch.zeros(2, 4)])
    assert fingerprint(padded) == fingerprint(weight)
    other = weight.clone()
    other[3, 1] = torch.nextafter(other[3, 1], torch.tensor(9.0))
    assert fingerprint(other) != fingerprint(weight)
    assert fingerprint(-weight) != fingerprint(weight) != fingerprint(weight.bfloat16())


def test_the_seed_of_a_request_is_a_pure_function_of_its_key() -> None:
    keys = [(1, step, row, sample) for step in range(9) for row in range(9) for sample in range(9)]
    seeds = [seed_of(key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert seeds == [seed_of(key) for key in keys]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_shards_must_divide_the_key_value_heads() -> None:
    with pytest.raises(UserError, match="tensor_parallel_size: 4 does not divide the 2 key-value"):
        started(LLAMA, torch.float32, VLLMSettings(16, 64, 4))


@pytest.mark.parametrize("config", [LLAMA, TIED_LLAMA, GPT2], ids=["llama", "tied", "gpt2"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_tied_weight_counts_as_often_as_it_is_used(
    config: PretrainedConfig, lora: AdapterConfig | None
) -> None:
    model = AutoModelForCausalLM.from_config(config)
    weights = dict(model.named_parameters())
    # A module is asked for its own weights only, so a tied one comes twice.
    layers = [layer for layer in model.modules() if not list(layer.children())]
    used = [weight for layer in layers for weight in layer.parameters()]
    assert len(used) == len(weights) + config.tie_word_embeddings
    expected = sum(map(fingerprint, used)) % 2**64
    assert fingerprint_of(weights, layout_of(config, lora)) == expected


def test_the_cache_has_room_for_keys_and_values() -> None:
    # Two of them, two layers, two heads of 8, in 2 bytes.
    assert key_value_bytes(LLAMA, torch.bfloat16, tokens=10) == 2 * 2 * 2 * 8 * 2 * 10
