"""Whole weights out of a base and its adapters, against peft."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from align.policy.adapters import add_adapter
from align.policy.config import LoRAConfig
from align.policy.weights import pack
from align.policy.whole_weights import layout_of, merged_weights, used_names

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = LlamaConfig(**SIZES, intermediate_size=24, tie_word_embeddings=False)
GPT2 = GPT2Config(**SIZES)  # stores weights the other way round
LORA = LoRAConfig(r=3, alpha=6).in_full


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_merging_is_what_peft_does(config: PretrainedConfig) -> None:
    model = add_adapter(AutoModelForCausalLM.from_config(config).eval(), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # 0 before training
            torch.nn.init.normal_(parameter)
    packed = pack(model.named_parameters())
    merged = dict(merged_weights(layout_of(config, LORA), packed, torch.float32))
    expected = dict(model.merge_and_unload().named_parameters())
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=1e-6)


def test_a_tied_weight_is_named_twice() -> None:
    names = used_names(layout_of(GPT2, LORA))
    assert [name for name in set(names) if names.count(name) == 2] == ["transformer.wte.weight"]
    untied = used_names(layout_of(LLAMA, None))
    assert untied == [
        name for name, _ in AutoModelForCausalLM.from_config(LLAMA).named_parameters()
    ]
